"""Files of GGUF, version 2 and 3: their values, and their tensors as float32.

As far as the packages of `raykd.packaged` need it: blocks of 32 numbers in 4 or 8 bits (Q4_0, Q4_1, Q8_0), F16, F32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = b"GGUF"
_BLOCK = 32
_ALIGNED = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, eq=False)
class Gguf:
    """What a file holds.

    Attributes:
        values: its metadata, by key.
        tensors: name -> float32, in PyTorch's order of dimensions.
    """

    values: dict[str, Any]
    tensors: dict[str, np.ndarray]


def _halves(blocks: np.ndarray, start: int) -> np.ndarray:
    """A float16 of each block as float32 [M, 1]."""
    found: np.ndarray = blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)
    return found


def _nibbles(blocks: np.ndarray, start: int) -> np.ndarray:
    """32 numbers of 4 bits of each block, float32 [M, 32]: the lower halves of 16 bytes, then the upper ones."""
    packed = blocks[:, start : start + _BLOCK // 2]
    found: np.ndarray = np.concatenate([packed & 0x0F, packed >> 4], axis=1).astype(np.float32)
    return found


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = _halves(blocks, 0) * (_nibbles(blocks, 2) - 8)
    return found


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = _halves(blocks, 0) * _nibbles(blocks, 4) + _halves(blocks, 2)
    return found


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = _halves(blocks, 0) * blocks[:, 2:].copy().view(np.int8).astype(np.float32)
    return found


_PLAIN: dict[int, type[np.floating[Any]]] = {0: np.float32, 1: np.float16}
_BLOCKS: dict[int, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    2: (18, _q4_0),
    3: (20, _q4_1),
    8: (34, _q8_0),
}
"""Type of a tensor -> bytes of a block, and its numbers."""


class _Reader:
    """Values one after the other."""

    def __init__(self, content: bytes | memoryview) -> None:
        self.content, self.at = content, 0

    def number(self, form: str) -> Any:
        size = struct.calcsize(f"<{form}")
        (found,) = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += size
        return found

    def text(self) -> str:
        size = self.number("Q")
        if size > len(self.content) - self.at:
            raise ValueError(f"it ends within a text at byte {self.at}")
        found = bytes(self.content[self.at : self.at + size]).decode(errors="replace")
        self.at += size
        return found

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if count > len(self.content):
                raise ValueError(f"it ends within a list at byte {self.at}")
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"it has a value of the unknown kind {kind}")
        return self.number(_SCALARS[kind])


def read_gguf(path: Path) -> Gguf:
    """A file's values and tensors.

    Raises:
        ValueError: it is none, is cut off, or has tensors of another type.
        OSError: it cannot be read.
    """
    reader = _Reader(path.read_bytes())
    try:
        return _read(reader)
    except struct.error as error:
        raise ValueError(f"it is cut off at byte {reader.at}") from error


def _read(reader: _Reader) -> Gguf:
    if bytes(reader.content[:4]) != _MAGIC:
        raise ValueError("it does not begin as a GGUF file")
    reader.at = 4
    if (version := reader.number("I")) not in (2, 3):
        raise ValueError(f"it is of version {version}; 2 and 3 are known")
    count, keys = reader.number("Q"), reader.number("Q")
    values: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.text()
        values[key] = reader.value(reader.number("I"))
    listed = []
    for _ in range(count):
        name = reader.text()
        sides = [reader.number("Q") for _ in range(reader.number("I"))]
        listed.append((name, sides, reader.number("I"), reader.number("Q")))
    aligned = int(values.get("general.alignment", _ALIGNED))
    begin = -(-reader.at // aligned) * aligned
    return Gguf(
        values,
        {n: _tensor(reader.content, sides, kind, begin + at) for n, sides, kind, at in listed},
    )


def _tensor(content: bytes | memoryview, sides: list[int], kind: int, at: int) -> np.ndarray:
    """One tensor; GGUF names the fastest dimension first."""
    count = math.prod(sides)
    if kind in _PLAIN:
        size = count * np.dtype(_PLAIN[kind]).itemsize
        flat = np.frombuffer(_part(content, at, size), _PLAIN[kind]).astype(np.float32)
    elif kind in _BLOCKS:
        size, unpack = _BLOCKS[kind]
        blocks = np.frombuffer(_part(content, at, count // _BLOCK * size), np.uint8)
        flat = unpack(blocks.reshape(-1, size)).reshape(-1)
    else:
        raise ValueError(f"a tensor is of type {kind}; known are F32, F16, Q4_0, Q4_1 and Q8_0")
    return flat.reshape(sides[::-1])


def _part(content: bytes | memoryview, at: int, size: int) -> bytes | memoryview:
    if at + size > len(content):
        raise ValueError(f"it ends before byte {at + size}")
    return content[at : at + size]
