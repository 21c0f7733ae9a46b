"""Encoded answers by sample, whether a sample is one unit or many: arrays of many have `offsets` beside them.

Shape suffixes: N units, B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raykd.errors import TargetError
from raykd.targets.packing import Arrays

UNIT_OFFSETS = "offsets"
"""int64 [B + 1], rising from 0 to N: sample b has the rows `offsets[b]` to `offsets[b + 1]` of every other array."""


def samples_in(arrays: Mapping[str, np.ndarray]) -> int:
    """How many samples an answer is for."""
    if UNIT_OFFSETS in arrays:
        return len(arrays[UNIT_OFFSETS]) - 1
    return len(next(iter(arrays.values())))


def taken(arrays: Mapping[str, np.ndarray], index_B: np.ndarray) -> Arrays:
    """The answer for some of the samples, in this order; reads no other rows of a memory map."""
    if UNIT_OFFSETS not in arrays:
        return {name: np.asarray(array[index_B]) for name, array in arrays.items()}
    offsets = np.asarray(arrays[UNIT_OFFSETS])
    counts_B = np.diff(offsets)[index_B]
    own = np.concatenate([[0], np.cumsum(counts_B)])
    index_N = np.arange(own[-1]) + np.repeat(offsets[:-1][index_B] - own[:-1], counts_B)
    found = {name: np.asarray(a[index_N]) for name, a in arrays.items() if name != UNIT_OFFSETS}
    return {**found, UNIT_OFFSETS: own}


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Answers for some samples after each other as one."""
    found = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if name != UNIT_OFFSETS
    }
    if UNIT_OFFSETS in parts[0]:
        counts = np.concatenate([np.diff(part[UNIT_OFFSETS]) for part in parts])
        found[UNIT_OFFSETS] = np.concatenate([[0], np.cumsum(counts)])
    return found


def places_of(offsets: np.ndarray, index_B: np.ndarray, answered: np.ndarray) -> np.ndarray:
    """The units of some samples in the batch that has all, int64 [N].

    Args:
        offsets: int64 [B + 1] of the batch.
        index_B: places of the samples in the batch.
        answered: `offsets` of the answer for these samples.

    Raises:
        TargetError: the answer has another number of units for a sample than the batch.
    """
    counts_B = np.diff(offsets)[index_B]
    if not np.array_equal(counts_B, np.diff(answered)):
        raise TargetError(
            "a teacher's answer has other numbers of units than the batch's samples: it was made from other tokens; "
            "delete the teacher's folder of the store to score it anew"
        )
    within = np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
    places: np.ndarray = np.repeat(offsets[:-1][index_B], counts_B) + within
    return places
