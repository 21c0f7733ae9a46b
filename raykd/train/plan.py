"""Which rows, in which view, each step of a fit trains on: a pure function of seed, epoch and step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raykd.seeding import derive


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of a fit's batches.

    A pass is one permutation of `rows`. A student's epoch is one pass, in which every row is trained on
    exactly once; a control on fewer rows goes through several passes in an epoch, since it gets as many
    updates of the same sizes. Pass p shows view p mod `views` (p itself when views is None).

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

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and views (both int64 [B]) of one global batch."""
        first = epoch * self.epoch_rows + step * self.batch_size
        size = min(self.batch_size, self.epoch_rows - step * self.batch_size)
        places = np.arange(first, first + size)
        passes, within = np.divmod(places, len(self.rows))
        rows = np.empty(size, np.int64)
        for number in np.unique(passes):
            here = passes == number
            order = _permutation(self.seed, int(number), len(self.rows))
            rows[here] = self.rows[order[within[here]]]
        return rows, self._views(passes)

    def _views(self, passes: np.ndarray) -> np.ndarray:
        if self.views == 0:
            return np.full_like(passes, -1)
        return passes if self.views is None else passes % self.views


@lru_cache(maxsize=8)
def _permutation(seed: int, number: int, size: int) -> np.ndarray:
    return np.random.default_rng(derive(seed, "pass", number)).permutation(size)


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
