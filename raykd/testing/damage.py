"""What happens to files: cut short, a bit flipped, a page of zeros, gone, another one in its offset."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

PAGE = 4096
Damage = Callable[[bytes, bytes, Random], bytes | None]
"""The file's bytes, those of another file of its kind, and what draws the offset -> what is there then; None = no file."""


def flip(raw: bytes, offset: int, bit: int) -> bytes:
    """One bit of one byte turned over."""
    return raw[:offset] + bytes([raw[offset] ^ (1 << bit)]) + raw[offset + 1 :]


def _truncated(raw: bytes, other: bytes, draw: Random) -> bytes | None:  # noqa: ARG001
    return raw[: draw.randrange(len(raw))]


def _flipped(raw: bytes, other: bytes, draw: Random) -> bytes | None:  # noqa: ARG001
    return flip(raw, draw.randrange(len(raw)), draw.randrange(8))


def _zero_page(raw: bytes, other: bytes, draw: Random) -> bytes | None:  # noqa: ARG001
    """A page of zeros where there is something else, as a file system leaves it that lost one."""
    starts = [at for at in range(0, len(raw), PAGE) if any(raw[at : at + PAGE])]
    at = draw.choice(starts)
    length = len(raw[at : at + PAGE])
    return raw[:at] + bytes(length) + raw[at + length :]


def _missing(raw: bytes, other: bytes, draw: Random) -> bytes | None:  # noqa: ARG001
    return None


def _swapped(raw: bytes, other: bytes, draw: Random) -> bytes | None:  # noqa: ARG001
    return other


DAMAGES: dict[str, Damage] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "zero page": _zero_page,
    "missing": _missing,
    "swapped": _swapped,
}
"""Kinds of damage."""
