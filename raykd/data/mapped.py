"""Arrays that stay in a file: every process of a node reads the same pages of it, none holds a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raykd.errors import DataError

PIECE_BYTES = 64 * 2**20
"""Of an array, looked at in one go by whoever goes through all of it."""


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
