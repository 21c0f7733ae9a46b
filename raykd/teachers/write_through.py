"""A `TargetSource` that asks the fleet for what the store lacks, and writes the answers there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raykd.targets import TargetStore, Ticket, codec
from raykd.targets.source import Deadline
from raykd.targets.write_buffer import WriteBuffer
from raykd.teachers.client import Asked, Client, LiveTargets
from raykd.types import Batch, LearntOutputs, Output


@dataclass(frozen=True)
class _Share:
    """What one teacher was asked of a batch; the rest is stored, or was asked for earlier.

    Attributes:
        indices: in the batch.
        asked: the request for them; None where there are none, or the teacher is left out.
    """

    indices: np.ndarray
    asked: Asked | None


class WriteThrough:
    """Live for what nobody has asked yet, stored for everything else; for one worker.

    Args:
        client: asks the actors.
        store: opened for the teachers, in the order of their answers.
        rows: int64, all rows that the student will be shown.
    """

    def __init__(self, client: Client, store: TargetStore, rows: np.ndarray) -> None:
        self.client, self.store = client, store
        self.names = tuple(store.entries)
        self.buffers = {name: WriteBuffer(store, name, rows) for name in self.names}
        self._live = LiveTargets(client, self.names)

    def submit(self, batch: Batch) -> Ticket:
        """Ask each teacher what the store lacks of this batch."""
        rows, view = batch.rows.numpy(), batch.view_B.numpy()
        return Ticket(batch, {name: self._ask(name, rows, view) for name in self.names})

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answers, those that were asked for now written to the store.

        Raises:
            TargetTimeoutError: a teacher has not answered, or the store was not read, within `timeout_s` seconds.
            TeacherError: a teacher is lost and the policy is to stop, or breaks on too many samples.
            TargetError: the store cannot be written.
        """
        shares: Mapping[str, _Share] = ticket.pending
        deadline, found = Deadline(timeout_s), {}
        for name in self.names:
            found[name] = self._answer(name, shares[name], ticket.batch, deadline)
            deadline.check(f"teacher {name!r} in the store {self.store.root}")
        return self.client.whole(found)

    def counters(self) -> list[float]:
        """What was asked and answered since the last call."""
        return self._live.counters()

    def describe(self, counters: Sequence[float], seconds: float) -> dict[str, dict[str, float]]:
        """How busy each teacher was; see `raykd.teachers.utilization.describe`."""
        return self._live.describe(counters, seconds)

    def _ask(self, name: str, rows: np.ndarray, view: np.ndarray) -> _Share:
        indices = self.buffers[name].reserve(rows, view)
        asked = self.client.submit([name], rows[indices], view[indices]) if len(indices) else {}
        return _Share(indices, asked.get(name))

    def _answer(self, name: str, share: _Share, batch: Batch, deadline: Deadline) -> Output | None:
        rows, view = batch.rows.numpy(), batch.view_B.numpy()
        parts = self._take(name, share, rows, view, deadline)
        others = np.setdiff1d(np.arange(len(rows)), share.indices)
        parts += self._in_batch(others, self.buffers[name].read(rows[others], view[others]))
        again = self._ask(name, rows[others], view[others])  # an earlier batch waited in vain
        if len(again.indices):
            again = _Share(others[again.indices], again.asked)
            parts += self._take(name, again, rows, view, deadline)
        temperature = self.client.temperatures.get(name, 1.0)
        return codec.assemble(parts, len(rows), temperature, batch.unit_offsets)

    def _take(
        self, name: str, share: _Share, rows: np.ndarray, view: np.ndarray, deadline: Deadline
    ) -> codec.Parts:
        """What the teacher answers to its share, put into its buffer."""
        buffer, unanswered = self.buffers[name], share.indices
        found = [] if share.asked is None else self.client.parts(name, share.asked, deadline)
        parts = self._in_batch(share.indices, found or [])
        for indices, arrays in parts:
            buffer.put(rows[indices], view[indices], arrays)
            unanswered = np.setdiff1d(unanswered, indices)
        broken = self.client.in_quarantine(name, rows[unanswered], view[unanswered])
        if broken.any():
            buffer.quarantine(rows[unanswered[broken]], view[unanswered[broken]])
        buffer.release(rows[unanswered[~broken]], view[unanswered[~broken]])
        return parts

    def _in_batch(self, indices: np.ndarray, parts: codec.Parts) -> codec.Parts:
        """Indices in a part of a batch as indices in the batch."""
        return [(indices[inner], arrays) for inner, arrays in parts]
