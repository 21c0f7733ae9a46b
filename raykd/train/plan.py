"""Which rows, in which view, each step of a fit trains on: a pure function of seed, epoch and step."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from raykd.data.hashing import keyed, mix
from raykd.seeding import derive

WHOLE_UP_TO = 2**21
"""Rows whose passes are whole permutations in memory; those of more rows are computed place by place."""
COUNTED = "feistel-1"
"""Name of the latter order in a fit's identity; another number where its numbers change."""
_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of a fit's batches.

    A pass is one permutation of `rows`. A student's epoch is one pass, in which every row is trained on
    exactly once; a control on fewer rows goes through several passes in an epoch, since it gets as many
    updates of the same sizes. Pass p shows view p mod `views` (p itself when views is None).

    Up to `WHOLE_UP_TO` rows a pass is drawn as a whole, once, and looked up; above, the place of each row is computed
    from its number alone (`counted_order`), so that a batch costs what its own rows cost, and no memory.

    Attributes:
        rows: int64, the rows to train on.
        epoch_rows: samples in one epoch (`len(rows)` unless the fit must match another's updates).
        batch_size: global batch size.
        seed: orders the passes.
        views: number of views, None for a new one in each pass; 0 for the untransformed samples.
    """

    rows: np.ndarray
    epoch_rows: int
    batch_size: int
    seed: int
    views: int | None

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch; the last batch may be smaller."""
        return -(-self.epoch_rows // self.batch_size)

    @property
    def order(self) -> str | None:
        """What a fit's identity says of how passes are ordered; None of whole permutations."""
        return COUNTED if len(self.rows) > WHOLE_UP_TO else None

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of the rows, hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and views (both int64 [B]) of one global batch."""
        first = epoch * self.epoch_rows + step * self.batch_size
        size = min(self.batch_size, self.epoch_rows - step * self.batch_size)
        places = np.arange(first, first + size)
        passes, within = np.divmod(places, len(self.rows))
        rows = np.empty(size, np.int64)
        for number in np.unique(passes):
            here = passes == number
            rows[here] = self.rows[self._ordered(int(number), within[here])]
        return rows, self._views(passes)

    def _ordered(self, number: int, places: np.ndarray) -> np.ndarray:
        """What stands at some places (int64) of a pass, as indices of `rows`."""
        count = len(self.rows)
        if self.order is None:
            order: np.ndarray = _permutation(self.seed, number, count)[places]
            return order
        return counted_order(places, count, derive(self.seed, "pass", number))

    def _views(self, passes: np.ndarray) -> np.ndarray:
        if self.views == 0:
            return np.full_like(passes, -1)
        return passes if self.views is None else passes % self.views


@lru_cache(maxsize=8)
def _permutation(seed: int, number: int, size: int) -> np.ndarray:
    return np.random.default_rng(derive(seed, "pass", number)).permutation(size)


def counted_order(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """What stands at some places of a permutation of [0, size), without the others.

    A Feistel network over pairs (l, r) of numbers below a = ⌈√size⌉ and b = ⌈size / a⌉, whose rounds add a hash of one
    half to the other, modulo a or b (FE2 of Bellare, Ristenpart, Rogaway & Stegers 2009, "Format-preserving
    encryption"), is a permutation of [0, a·b). What falls on [size, a·b), fewer than a numbers, goes through it again
    until it does not (cycle walking, Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4), which
    leaves a permutation of [0, size).

    Args:
        places: int64 in [0, size).
        size: at least 2.
        seed: names the permutation, in [0, 2^63).

    Returns:
        int64, as many.
    """
    halves = math.isqrt(size - 1) + 1
    a, b = np.uint64(halves), np.uint64(-(-size // halves))
    keys = keyed(seed, _ROUNDS)

    def once(values: np.ndarray) -> np.ndarray:
        left, right = np.divmod(values, b)
        for number in range(0, _ROUNDS, 2):
            left = (left + mix(right ^ keys[number]) % a) % a
            right = (right + mix(left ^ keys[number + 1]) % b) % b
        return left * b + right

    found = once(places.astype(np.uint64))
    while (outside := np.flatnonzero(found >= size)).size:
        found[outside] = once(found[outside])
    return found.astype(np.int64)


def split(rows: np.ndarray, rank: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """A worker's contiguous part of a global batch, as (positions, present).

    Every worker must take part in every step: one that would get nothing is given the first sample,
    marked as not present, so that it counts in no term.
    """
    bounds = np.linspace(0, len(rows), workers + 1).round().astype(np.int64)
    positions = np.arange(bounds[rank], bounds[rank + 1])
    if positions.size == 0:
        return np.zeros(1, np.int64), np.zeros(1, bool)
    return positions, np.ones(positions.size, bool)
