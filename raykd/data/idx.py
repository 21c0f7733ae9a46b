"""The IDX file format of MNIST and its kin, plain or gzipped (LeCun, Cortes & Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raykd.errors import InputError, Problem

UINT8 = "|u1"
KINDS = {0x08: UINT8, 0x09: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Third byte of a file -> type of its values."""
_MAGIC = 4


def read_idx(
    path: Path, *, axes: int | Sequence[int], key: str, kinds: Sequence[str] = (UINT8,)
) -> np.ndarray:
    """Read one array.

    The format is: two zero bytes, the type of the values (8 = uint8), the number of axes, the size of
    each axis as a big-endian 32-bit number, then the values.

    Args:
        path: the file; one that ends in `.gz` is decompressed.
        axes: how many axes the array must have (3 for images, 1 for labels), or several such numbers.
        key: dotted key of the recipe that led here, for the error.
        kinds: types that its values may have, of `KINDS`.

    Returns:
        The array, in this machine's byte order.

    Raises:
        InputError: the file is not IDX, of another type or number of axes, damaged, too short or too long.
    """
    allowed = (axes,) if isinstance(axes, int) else tuple(axes)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(_MAGIC)
            kind, count = _kind(magic, allowed, kinds, path, key)
            sizes = file.read(4 * count)
            if len(sizes) < 4 * count:
                raise _strange(magic, allowed, kinds, path, key)
            values = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, key, f"cannot be read ({error})") from error
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    if len(values) != math.prod(shape) * kind.itemsize:
        promised = f"its header promises {math.prod(shape):,} values"
        raise _damaged(path, key, f"{promised}, it has {len(values) // kind.itemsize:,}")
    return (
        np.frombuffer(values, dtype=kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
    )


def _kind(
    magic: bytes, axes: tuple[int, ...], kinds: Sequence[str], path: Path, key: str
) -> tuple[np.dtype, int]:
    """The type of a file's values, and the number of its axes."""
    if len(magic) == _MAGIC and magic[:2] == b"\0\0" and magic[3] in axes:
        kind = KINDS.get(magic[2])
        if kind in kinds:
            return np.dtype(kind), magic[3]
    raise _strange(magic, axes, kinds, path, key)


def _strange(
    magic: bytes, axes: tuple[int, ...], kinds: Sequence[str], path: Path, key: str
) -> InputError:
    found, several = magic.hex() or "an empty file", " or ".join(map(str, axes))
    codes = [f"{code:02x}" for code, kind in KINDS.items() if kind in kinds]
    starts = " or ".join(
        f"0000{code}{axes[0]:02x}" if len(axes) == 1 else f"0000{code}.." for code in codes
    )
    return _damaged(
        path, key, f"it starts with {found}, an IDX file of {several} axes with {starts}"
    )


def _damaged(path: Path, key: str, why: str) -> InputError:
    return InputError(Problem(key, f"{path} is damaged or no IDX file: {why}; fetch it again"))
