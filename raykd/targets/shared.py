"""One source of targets for several fits that train on the same batches: what one has asked, the others are told too."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.targets.source import Measured, TargetSource, Ticket
from raykd.types import Batch, LearntOutputs


@dataclass(eq=False)
class _Asked:
    """A batch that the source was asked about.

    Attributes:
        ticket: the source's.
        waiting: numbers of the listeners that have not been told yet.
        answer: what the source said; None before anybody has collected it.
    """

    ticket: Ticket
    waiting: set[int]
    answer: LearntOutputs | None = None


class SharedSource:
    """Asks a source once for what several listeners ask, and keeps an answer until all that are there have it.

    Listeners may be in threads of their own; they have to keep pace with each other, since all answers in between are
    in memory. Whoever asks about a batch that nobody there has asked about, asks the source: an answer depends on rows
    and views alone, so that it does not matter for the numbers who was there.

    Args:
        source: answers batches.
    """

    def __init__(self, source: TargetSource) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._asked: dict[bytes, _Asked] = {}
        self._there: set[int] = set()

    def listener(self, number: int) -> TargetSource:
        """The source as one of the fits sees it; it is there from `join` on.

        Args:
            number: of the fit. The first one, 0, also tells how busy the teachers are.
        """
        if number == 0 and isinstance(self.source, Measured):
            return _MeasuredListener(self, number, self.source)
        return _Listener(self, number)

    def join(self, number: int) -> None:
        """From now on, answers are kept until this listener has them."""
        with self._lock:
            self._there.add(number)

    def leave(self, number: int) -> None:
        """No answer is kept for this listener any more."""
        with self._lock:
            self._there.discard(number)
            for key, asked in list(self._asked.items()):
                self._told(key, asked, number)

    @property
    def kept(self) -> int:
        """Batches of which somebody there is still to be told."""
        return len(self._asked)

    def submit(self, number: int, batch: Batch) -> Ticket:
        """Ask, unless another listener has; returns at once."""
        key = batch.rows.numpy().tobytes() + batch.view_B.numpy().tobytes()
        with self._lock:
            asked = self._asked.get(key)
            there = number in self._there
            if asked is None or (there and number not in asked.waiting):
                asked = _Asked(self.source.submit(batch), set(self._there))
                if asked.waiting:
                    self._asked[key] = asked
        return Ticket(batch, (key, asked))

    def collect(self, number: int, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The answer; raises what the source raises."""
        key, asked = ticket.pending
        with self._lock:
            if asked.answer is None:
                asked.answer = self.source.collect(asked.ticket, timeout_s)
            answer: LearntOutputs = asked.answer
            self._told(key, asked, number)
        return answer

    def _told(self, key: bytes, asked: _Asked, number: int) -> None:
        """Forget an answer that everybody has."""
        asked.waiting.discard(number)
        if not asked.waiting and self._asked.get(key) is asked:
            del self._asked[key]


class _Listener:
    """One fit's view of a shared source."""

    def __init__(self, shared: SharedSource, number: int) -> None:
        self._shared, self._number = shared, number
        self.exact = getattr(shared.source, "exact", False)

    def submit(self, batch: Batch) -> Ticket:
        return self._shared.submit(self._number, batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        return self._shared.collect(self._number, ticket, timeout_s)


class _MeasuredListener(_Listener):
    """The one that also tells how busy the teachers are: for all listeners together."""

    def __init__(self, shared: SharedSource, number: int, measured: Measured) -> None:
        super().__init__(shared, number)
        self._measured = measured

    def counters(self) -> list[float]:
        return self._measured.counters()

    def describe(
        self, counters: Sequence[float], seconds: float
    ) -> Mapping[str, Mapping[str, Any]]:
        return self._measured.describe(counters, seconds)
