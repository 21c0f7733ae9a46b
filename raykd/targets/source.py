"""What the trainer asks for targets. Stored, live and none at all look the same to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from raykd.types import Batch, TeacherOutputs


@dataclass(frozen=True)
class Ticket:
    """A batch that was asked for; only the source that gave it knows what is inside."""

    batch: Batch
    pending: Any = None


class TargetSource(Protocol):
    """Answers batches with what the teachers say of them.

    A caller submits ahead and collects in the same order. An answer depends on the batch's rows and
    views alone, never on who asked, what else was asked, or which actor answered.
    """

    def submit(self, batch: Batch) -> Ticket:
        """Ask; returns at once."""
        ...

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:
        """The answer to a ticket.

        Raises:
            TeacherError: no answer within `timeout_s` seconds, or a teacher was lost.
            TargetError: the store holds no answer for this batch.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A source that can tell how busy the teachers are."""

    def counters(self) -> list[float]:
        """Numbers since the last call, that add up over the student's workers."""
        ...

    def describe(
        self, counters: Sequence[float], seconds: float
    ) -> Mapping[str, Mapping[str, float]]:
        """Values of an epoch event, name -> teacher -> number, from summed counters and its seconds."""
        ...


class NoTargets:
    """For fits that learn from labels alone."""

    def submit(self, batch: Batch) -> Ticket:
        """Nothing to ask."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """No teacher says anything."""
        return {}
