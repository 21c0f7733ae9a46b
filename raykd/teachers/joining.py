"""Short batches that wait at the same time become one.

A teacher runs batches of one fixed shape, which a request of fewer samples does not fill. Where several of them wait, as many
as fit go through the model together: the shape stays, only what fills it changes. Nobody is waited for.

The bits of a sample may not depend on its batch mates, or answers would depend on who asks when. Of models whose code is not
known to be so, and of small shapes, nothing is joined; of the others the first batch that is joined is also scored in
pieces, and if any bit differs, nothing is joined from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raykd.targets import codec
from raykd.targets.ragged import taken

_logger = logging.getLogger(__name__)
LEAST_SHAPE = 32
"""Samples of a batch below which a sample's place in it may change its last bits (`raykd/teachers/README.md`)."""
WAITING = 16
"""Requests that an actor has at a time, those among them that wait to be joined."""


class Score(Protocol):
    """Scores one batch of the fixed shape."""

    def __call__(self, inputs: Callable[[], Mapping[str, Tensor]]) -> codec.Arrays:
        """The encoded answer for all places of a batch.

        Args:
            inputs: makes it, where and when that is due.
        """
        ...


@dataclass(eq=False)
class _Request:
    """A batch that somebody waits for.

    Attributes:
        count: samples, at most as many as the shape has.
        inputs: makes those at places [n].
        answer: what was said of them, or what went wrong.
        taken: whether somebody is at it.
        done: whether there is an answer.
    """

    count: int
    inputs: Callable[[np.ndarray], Mapping[str, Tensor]]
    answer: codec.Arrays | BaseException | None = None
    taken: bool = field(default=False)

    @property
    def done(self) -> bool:
        return self.answer is not None


class Joining:
    """Where the batches of one teacher wait.

    Args:
        size: samples of the fixed shape.
        at_once: batches under way at a time.
        joins: whether several requests may share a batch.

    Attributes:
        joins: the same, until a bit differed.
    """

    def __init__(self, size: int, at_once: int, *, joins: bool) -> None:
        self.joins = joins
        self._size, self._free, self._tried = size, at_once, False
        self._changed = Condition()
        self._waiting: dict[Hashable, list[_Request]] = {}

    def answer(
        self,
        kind: Hashable,
        count: int,
        inputs: Callable[[np.ndarray], Mapping[str, Tensor]],
        score: Score,
    ) -> tuple[codec.Arrays, int]:
        """The answer for so many samples, and the places of the batches that were run by this thread for it.

        Args:
            kind: requests of the same one may share a batch.
            count: samples, at most as many as the shape has.
            inputs: makes those at places [n].
            score: scores a batch.

        Raises:
            Exception: what scoring these samples raises; what it raises of others that were joined is theirs.
        """
        own = _Request(count, inputs)
        with self._changed:
            waiting = self._waiting.setdefault(kind, [])
            waiting.append(own)
            self._changed.wait_for(lambda: own.done or (self._free > 0 and not own.taken))
            group = [] if own.done else self._group(own, waiting)
        places = 0
        if group:
            try:
                places = self._size * self._score(group, score)
            finally:
                with self._changed:
                    self._free += 1
                    self._changed.notify_all()
        assert own.answer is not None, "whoever took it has answered it"
        if isinstance(own.answer, BaseException):
            raise own.answer
        return own.answer, places

    def _group(self, own: _Request, waiting: list[_Request]) -> list[_Request]:
        """Those that go together now, this one among them; the longest waiting first. They are nobody else's any more."""
        group, left = [own], self._size - own.count
        for other in waiting if self.joins else ():
            if other is not own and other.count <= left:
                group.append(other)
                left -= other.count
        for one in group:
            one.taken = True
            waiting.remove(one)
        self._free -= 1
        return group

    def _score(self, group: Sequence[_Request], score: Score) -> int:
        """Answer every request of a group; how many batches that took."""
        if len(group) == 1:
            return self._alone(group, score)
        try:
            arrays = score(lambda: self._together(group))
        except Exception:  # noqa: BLE001 - of whose samples it is, is found out by asking for each alone
            return 1 + self._alone(group, score)
        ends = np.cumsum([one.count for one in group])
        found = [
            taken(arrays, np.arange(end - one.count, end))
            for one, end in zip(group, ends, strict=True)
        ]
        if not self._tried:
            return 1 + self._compared(group, found, score)
        for one, answer in zip(group, found, strict=True):
            one.answer = answer
        return 1

    def _alone(self, group: Sequence[_Request], score: Score) -> int:
        """Answer each request by itself."""
        for one in group:
            try:
                arrays = score(lambda one=one: one.inputs(self._padded(one.count)))  # type: ignore[misc]
                one.answer = taken(arrays, np.arange(one.count))
            except BaseException as error:  # noqa: BLE001 - raised by whoever asked
                one.answer = error
        return len(group)

    def _compared(
        self, group: Sequence[_Request], found: Sequence[codec.Arrays], score: Score
    ) -> int:
        """Answer each by itself, and see whether together they were told the same bits."""
        count = self._alone(group, score)
        own = [one.answer for one in group]
        same = all(
            isinstance(mine, BaseException) or _same(mine, theirs)
            for mine, theirs in zip(own, found, strict=True)
            if mine is not None
        )
        with self._changed:
            self._tried, self.joins = True, self.joins and same
        if not same:
            _logger.warning("its answers depend on who else is in a batch: requests are not joined")
        return count

    def _together(self, group: Sequence[_Request]) -> Mapping[str, Tensor]:
        """The inputs of all requests of a group, filled up to the shape with the first sample."""
        parts = [one.inputs(np.arange(one.count)) for one in group]
        lacking = self._size - sum(one.count for one in group)
        return {
            name: torch.cat(
                [
                    *(part[name] for part in parts),
                    first[:1].expand(lacking, *first.shape[1:]),
                ]
            )
            for name, first in parts[0].items()
        }

    def _padded(self, count: int) -> np.ndarray:
        """Places of a batch of the fixed shape, the rest being the first one."""
        places = np.arange(self._size)
        places[places >= count] = 0
        return places


def _same(one: codec.Arrays, other: codec.Arrays) -> bool:
    """Whether two encoded answers are the same bytes."""
    return one.keys() == other.keys() and all(
        array.dtype == other[name].dtype
        and array.shape == other[name].shape
        and array.tobytes() == other[name].tobytes()
        for name, array in one.items()
    )
