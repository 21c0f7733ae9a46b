"""Where a trainer's batches come from: the rows of the plan, and what a student has written itself beside them.

What a stream gives follows from the fit, the weights and where training stands, epoch and step, so that these are all its
state: whoever goes on from a checkpoint asks from there. States that a policy has visited are rows, like any other samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from raykd.train.feed import Block, Feed
from raykd.train.on_policy import Rounds


class BatchStream(Protocol):
    """What a trainer trains on."""

    def batches(self, epoch: int, step: int) -> Iterator[Block]:
        """The blocks of an epoch from a step on, and those of later epochs behind them; epochs are asked for in order."""
        ...

    def saved(self, epoch: int) -> None:
        """A checkpoint was written from which training goes on with this epoch, or within it."""
        ...

    def restored(self, epoch: int) -> None:
        """Training goes on with this epoch, or within it."""
        ...

    def values(self) -> dict[str, Any]:
        """What the end of an epoch tells of it, by name."""
        ...

    def result(self) -> dict[str, Any]:
        """What the result of the fit tells of it, by name."""
        ...


class RowStream:
    """The rows of the fit's plan, made ready ahead of the epoch that is trained on."""

    def __init__(self, feed: Feed, epochs: int) -> None:
        self._feed, self._epochs = feed, epochs
        self._blocks: Iterator[Block] | None = None

    def batches(self, epoch: int, step: int) -> Iterator[Block]:
        """See `BatchStream`."""
        if self._blocks is None:
            self._blocks = self._feed.blocks(epoch, step, self._epochs)
        return self._blocks

    def saved(self, epoch: int) -> None:
        """Nothing is kept."""

    def restored(self, epoch: int) -> None:
        """Nothing was kept."""

    def values(self) -> dict[str, Any]:
        """Nothing that the epoch does not tell itself."""
        return {}

    def result(self) -> dict[str, Any]:
        """The same."""
        return {}


class WritingStream:
    """Rows, and in a part of each batch what the student wrote at the beginning of a round; see `Rounds`."""

    def __init__(self, feed: Feed, epochs: int, rounds: Rounds) -> None:
        self._feed, self._epochs, self._rounds = feed, epochs, rounds
        self._blocks: Iterator[Block] = iter(())
        self._until: int | None = None

    def batches(self, epoch: int, step: int) -> Iterator[Block]:
        """See `BatchStream`; an epoch that begins a round has the student write, and its teachers score that."""
        if self._until is None or epoch >= self._until:
            self._until = min(self._epochs, self._rounds.enter(epoch, within=step > 0))
            self._blocks = self._feed.blocks(epoch, step, self._until, self._rounds.now)
        return self._blocks

    def saved(self, epoch: int) -> None:
        """What no checkpoint goes back to is forgotten."""
        self._rounds.saved(epoch)

    def restored(self, epoch: int) -> None:
        """From here on the same."""
        self._rounds.restored(epoch)

    def values(self) -> dict[str, Any]:
        """Of the round."""
        return self._rounds.values()

    def result(self) -> dict[str, Any]:
        """Of all rounds."""
        return {"on_policy": self._rounds.result()}
