"""Means and deviations per channel, also of more samples than memory holds.

Shapes: N samples, C channels, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel; 1 where there is none."""


def channel_statistics(array: np.ndarray, parts: Sequence[np.ndarray]) -> Statistics:
    """Of some samples; uint8 is taken as values / 255.

    Args:
        array: [N, C, ...].
        parts: rows, as many at a time as memory holds.
    """
    if array.dtype == np.uint8:
        return _uint8_statistics(array, parts)
    return _float_statistics(array, parts)


def _uint8_statistics(array: np.ndarray, parts: Sequence[np.ndarray]) -> Statistics:
    """Means and deviations per channel of values / 255, from whole numbers and therefore exact."""
    axes = _all_but_channels(array)
    count = sum(map(len, parts)) * math.prod(array.shape[2:])
    sums_C = np.zeros((2, array.shape[1]), np.uint64)
    for rows in parts:
        values = array[rows]
        sums_C[0] += values.sum(axis=axes, dtype=np.uint64)
        sums_C[1] += np.square(values, dtype=np.uint16).sum(axis=axes, dtype=np.uint64)
    means = tuple(total / count / 255 for total in sums_C[0].tolist())
    spreads = [
        math.sqrt(count * square - total**2) / count / 255
        for total, square in zip(*sums_C.tolist(), strict=True)
    ]
    return means, tuple(spread or 1.0 for spread in spreads)


def _float_statistics(array: np.ndarray, parts: Sequence[np.ndarray]) -> Statistics:
    """Means and deviations per channel; of several parts added up from theirs, else as numpy has them."""
    axes = _all_but_channels(array)
    sizes = np.array([len(rows) for rows in parts], np.float64)[:, None] / sum(map(len, parts))
    moments = [
        (part.mean(axis=axes, dtype=np.float64), part.std(axis=axes, dtype=np.float64))
        for part in (array[rows] for rows in parts)
    ]
    mean_PC, std_PC = (np.stack(values) for values in zip(*moments, strict=True))
    mean_C, std_C = mean_PC[0], std_PC[0]
    if len(parts) > 1:
        mean_C = (sizes * mean_PC).sum(axis=0)
        std_C = np.sqrt((sizes * (std_PC**2 + (mean_PC - mean_C) ** 2)).sum(axis=0))
    return tuple(mean_C.tolist()), tuple(np.where(std_C > 0, std_C, 1.0).tolist())


def _all_but_channels(array: np.ndarray) -> tuple[int, ...]:
    return tuple(axis for axis in range(array.ndim) if axis != 1)
