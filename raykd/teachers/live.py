"""A `TargetSource` over the fleet: asked ahead, answered in order."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.targets import Ticket
from raykd.targets.source import Deadline
from raykd.teachers.client import Client
from raykd.teachers.utilization import describe
from raykd.types import Batch, TeacherOutputs


class LiveTargets:
    """All teachers score a batch in parallel while the student is still busy with earlier ones."""

    def __init__(self, client: Client, names: Sequence[str]) -> None:
        self.client = client
        self.names = tuple(names)

    def submit(self, batch: Batch) -> Ticket:
        """Ask every teacher; only rows and views travel."""
        requests = self.client.submit(self.names, batch.rows.numpy(), batch.view_B.numpy())
        return Ticket(batch, requests)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:
        """The answers; within the time for all of them each request has its own, see `Client`.

        Raises:
            TargetTimeoutError: a teacher has not answered within `timeout_s` seconds.
            TeacherError: as `Client.collect`.
        """
        return self.client.collect(self.names, ticket.pending, Deadline(timeout_s))

    def counters(self) -> list[float]:
        """What was asked and answered since the last call: the load of each teacher, one after the other."""
        return [number for name in self.names for number in self.client.pools[name].load.take()]

    def describe(self, counters: Sequence[float], seconds: float) -> dict[str, dict[str, float]]:
        """How busy each teacher was; see `raykd.teachers.utilization.describe`."""
        replicas = {name: len(self.client.pools[name].actors) for name in self.names}
        return describe(counters, replicas, seconds)
