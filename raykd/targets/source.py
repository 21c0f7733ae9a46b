"""What the trainer asks for targets. Stored, live and none at all look the same to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from raykd.errors import TargetTimeoutError
from raykd.targets.entries import EntryKey
from raykd.targets.packing import Arrays
from raykd.types import Batch, LearntOutputs, TeacherOutputs


class Deadline:
    """When an answer is due; made when the wait for it begins.

    Args:
        timeout_s: seconds from now; infinite = whenever it comes.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until then, not below 0."""
        return max(0.0, self._end_s - time.monotonic())

    def check(self, what: str) -> None:
        """Give up once the time is over.

        Args:
            what: that is waited for, in words.

        Raises:
            TargetTimeoutError: it is.
        """
        if not self.left_s:
            raise self.exceeded(what)

    def exceeded(self, what: str) -> TargetTimeoutError:
        """The error once the time is over."""
        return TargetTimeoutError(f"{what}: no answer within {self.timeout_s:g} s")


@dataclass(frozen=True)
class Ticket:
    """A batch that was asked for; only the source that gave it knows what is inside."""

    batch: Batch
    pending: Any = None


class TargetSource(Protocol):
    """Answers batches with what the teachers say of them.

    A caller submits ahead and collects in the same order. An answer depends on the batch's rows and
    views alone, never on who asked, what else was asked, or which actor answered.

    `timeout_s` bounds the whole of `collect`. What the source bounds by itself inside (a request to an actor, with
    its retries) comes on top: whichever ends first counts, so a request is waited for until its own time or the
    deadline is over, and at the deadline nothing more is tried. What the source does in the caller's own thread
    (reads from a disk, decodes) cannot be interrupted; it looks at the time after each teacher.

    A source whose teachers compute in this process in full precision says `exact = True`: so has the student then.
    One all of whose answers are at hand says `at_once = True`: it is asked for many steps in one batch.
    """

    def submit(self, batch: Batch) -> Ticket:
        """Ask; returns at once."""
        ...

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answer to a ticket.

        Raises:
            TargetTimeoutError: no answer within `timeout_s` seconds.
            TeacherError: a teacher was lost.
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


@runtime_checkable
class Asking(Protocol):
    """Where a fit gets its targets, and teachers that can be asked about texts of no data set beside that."""

    @property
    def pool(self) -> TargetSource:
        """Answers for the samples of the data."""
        ...

    @property
    def keys(self) -> Mapping[str, EntryKey]:
        """Teacher -> the key of its answers to training views, which others are encoded like."""
        ...

    @property
    def temperatures(self) -> Mapping[str, float]:
        """Teacher -> at which its logits are going to be used."""
        ...

    def ask(self, name: str, inputs: Mapping[str, np.ndarray]) -> Any:
        """Ask a teacher; returns at once with what `answer` takes.

        Args:
            name: the teacher's.
            inputs: name -> [B, ...] in source space.
        """
        ...

    def answer(self, name: str, pending: Any) -> Arrays | None:
        """The encoded answer, encoded as those to training views are; None of a teacher that is left out.

        Raises:
            TeacherError: the teacher is lost, and the policy is to stop.
        """
        ...


class NoTargets:
    """For fits that learn from labels alone."""

    at_once = True

    def submit(self, batch: Batch) -> Ticket:
        """Nothing to ask."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """There are no teachers, so nothing to wait for."""
        return {}
