"""The IDX file format of MNIST and its kin, plain or gzipped (LeCun, Cortes & Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from raykd.errors import InputError, Problem

_UINT8 = 0x08


def read_idx(path: Path, *, axes: int, key: str) -> np.ndarray:
    """Read one array of bytes.

    The format is: two zero bytes, the type of the values (8 = uint8), the number of axes, the size of
    each axis as a big-endian 32-bit number, then the values.

    Args:
        path: the file; one that ends in `.gz` is decompressed.
        axes: how many axes the array must have (3 for images, 1 for labels).
        key: dotted key of the recipe that led here, for the error.

    Returns:
        uint8, with that many axes.

    Raises:
        InputError: the file is not IDX, damaged, too short or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * axes)
            shape = _shape(header, axes, path, key)
            values = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, key, f"cannot be read ({error})") from error
    if len(values) != math.prod(shape):
        promised = f"its header promises {math.prod(shape):,} values"
        raise _damaged(path, key, f"{promised}, it has {len(values):,}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(header: bytes, axes: int, path: Path, key: str) -> tuple[int, ...]:
    magic = bytes((0, 0, _UINT8, axes))
    if header[:4] != magic or len(header) != 4 + 4 * axes:
        found = header[:4].hex() or "an empty file"
        raise _damaged(
            path, key, f"it starts with {found}, an IDX file of {axes} axes with {magic.hex()}"
        )
    return tuple(int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))


def _damaged(path: Path, key: str, why: str) -> InputError:
    return InputError(Problem(key, f"{path} is damaged or no IDX file: {why}; fetch it again"))
