"""Arrays that stay in a file: every process of a node reads the same pages of it, none holds a copy.

Also means and deviations per channel of more samples than memory holds.
Shapes: N samples, C channels, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raykd.errors import DataError

PIECE_BYTES = 64 * 2**20
"""Of an array, looked at in one go by whoever goes through all of it."""
_LOOKED_AT = 10_000
_COARSE = 1e-3
"""Rounding error over standard deviation of a column of which float32 keeps too little."""
_LEAST_ERROR = 0.5
"""A column of one value that float32 rounds by more than this may have had several."""


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel; 1 where there is none."""


class _Origin(NamedTuple):
    path: str
    dtype: str
    shape: tuple[int, ...]
    address: int


class Mapped(np.ndarray):
    """A read-only array that is the beginning of a file; made by `open_mapped`.

    Taking rows of it gives plain arrays in memory. A pickle of it is the file's path: the process that
    unpickles maps the file itself, and has to see it under the same path.
    """

    _origin: _Origin | None = None

    def __array_finalize__(self, source: np.ndarray | None) -> None:
        self._origin = getattr(source, "_origin", None)

    def __getitem__(self, key: Any) -> Any:
        return self.view(np.ndarray)[key]

    def __reduce_ex__(self, protocol: Any) -> Any:
        origin = self._origin
        here = (self.shape, self.dtype.str, self.__array_interface__["data"][0])
        if origin is None or here != (origin.shape, origin.dtype, origin.address):
            return self.view(np.ndarray).__reduce_ex__(protocol)
        return open_mapped, (origin.path, origin.dtype, origin.shape)


def open_mapped(path: str | Path, dtype: str, shape: tuple[int, ...]) -> Mapped:
    """Map the beginning of a file.

    Args:
        path: absolute.
        dtype: of the array.
        shape: its first axis counts the samples.

    Raises:
        DataError: the file is not there, or shorter than the array.
    """
    try:
        array = np.memmap(path, mode="r", dtype=dtype, shape=shape).view(Mapped)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the decoded samples {path} cannot be read here: {error}; every node needs to see data.cache, and a "
            "damaged folder is decoded again once it is deleted"
        ) from error
    address = array.__array_interface__["data"][0]
    array._origin = _Origin(str(path), array.dtype.str, shape, address)
    return array


def pieces(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    """The rows in order, in parts of which each takes at most `PIECE_BYTES` (one row, if that is larger)."""
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


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


def is_coarse(array_ND: np.ndarray) -> np.ndarray:
    """Columns whose values lie so far from 0 for their spread that float32 hardly tells them apart: bool [D].

    Args:
        array_ND: floats, NaN where there is no value; 10,000 rows at most are looked at.
    """
    step = -(-len(array_ND) // _LOOKED_AT) or 1
    values_MD = array_ND[::step].astype(np.float64)
    known_MD = np.isfinite(values_MD)
    count_D = np.maximum(1, known_MD.sum(axis=0))
    filled_MD = np.where(known_MD, values_MD, 0.0)
    mean_D = filled_MD.sum(axis=0) / count_D
    spread_D = np.sqrt((np.where(known_MD, filled_MD - mean_D, 0.0) ** 2).sum(axis=0) / count_D)
    error_D = np.abs(mean_D) * np.finfo(np.float32).eps / 2
    varies_D = (spread_D > 0) | (error_D > _LEAST_ERROR)
    coarse: np.ndarray = (error_D > _COARSE * spread_D) & varies_D
    return coarse


def _all_but_channels(array: np.ndarray) -> tuple[int, ...]:
    return tuple(axis for axis in range(array.ndim) if axis != 1)


def coarse_columns(arrays: Mapping[str, np.ndarray], features: Sequence[str]) -> list[str]:
    """What is said of columns of which float32, in which models compute, keeps too little."""
    told = []
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.ndim == len(("N", "D")):
            numbers = np.flatnonzero(is_coarse(array)).tolist()
            names = [features[one] if features else f"{one} of {name}" for one in numbers]
            told += [
                f"column {one} has values around {float(array[0, number]):.6g}, of which float32, in which models compute, keeps "
                "too little to tell them apart; subtract an offset, such as their minimum, in the file"
                for one, number in zip(names, numbers, strict=True)
            ]
    return told
