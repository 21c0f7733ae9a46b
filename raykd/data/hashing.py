"""Random numbers by counting instead of by sequence: every sample has streams of its own.

The generator is splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators", figure 2): number k of the stream `s` is `mix(s + (k + 1) · GOLDEN)`. So any number of any
sample is had without drawing those before it, and does not depend on which samples are drawn with it.

Shape suffixes: B samples, K numbers of one sample.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import xxhash

from raykd.seeding import derive

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_GOLDEN_64 = np.uint64(_GOLDEN)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
_S12 = np.uint64(12)
_LOW = np.uint64(0xFFFFFFFF)
_COPIED_BYTES = 4096
_AT_ONCE = 2**16
"""Numbers that are mixed together: what is made on the way stays in the processor's cache."""


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection of uint64 that spreads every bit over all.

    Args:
        values: uint64, at least one-dimensional (numpy warns when a scalar overflows).
    """
    mixed: np.ndarray = values ^ (values >> _S30)
    mixed *= _FIRST
    mixed ^= mixed >> _S27
    mixed *= _SECOND
    mixed ^= mixed >> _S31
    return mixed


def sample_keys(ids: np.ndarray, seed: int, *names: str | int) -> np.ndarray:
    """A number for each sample, for the use that `names` describe; different for different ids.

    Args:
        ids: non-negative int64 [B].
        seed: the recipe's seed.
        names: what the numbers are for, as for `raykd.seeding.derive`.

    Returns:
        uint64 [B].
    """
    base, given = np.uint64(derive(seed, *names)), np.asarray(ids)
    keys = np.empty(given.shape, np.uint64)
    for start in range(0, len(given), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        keys[part] = mix(mix(given[part].astype(np.uint64) ^ base))
    return keys


def keyed(seed: int, count: int) -> np.ndarray:
    """The first `count` numbers of the stream that `seed` (in [0, 2^63)) begins: uint64 [K]."""
    return mix(np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_64)


def view_keys(ids: np.ndarray, view_B: np.ndarray, seed: int) -> np.ndarray:
    """A number for each (sample, view), from which all that is random about that view is drawn.

    Args:
        ids: non-negative int64 [B].
        view_B: int64 [B], −1 and above.
        seed: the recipe's seed.

    Returns:
        uint64 [B].
    """
    turns = (view_B + 2).astype(np.uint64) * _GOLDEN_64
    return mix(sample_keys(ids, seed, "views") + turns)


def content_hashes(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A hash of each sample's raw bytes, names, dtypes and shapes: uint64 [B] (XXH3, 64 bits).

    Args:
        inputs: name -> [B, ...], as the source gave them.
    """
    names = sorted(inputs)
    kinds = [f"{n}|{inputs[n].dtype.str}|{inputs[n].shape[1:]}" for n in names]
    salt = xxhash.xxh3_64_intdigest("\n".join(kinds).encode())
    count = len(inputs[names[0]])
    values: Iterator[int] = repeat(salt, count)
    for name in names:
        values = map(xxhash.xxh3_64_intdigest, _bytes_of_rows(inputs[name]), values)
    return np.fromiter(values, np.uint64, count)


def _bytes_of_rows(array: np.ndarray) -> Iterator[bytes | memoryview]:
    """The bytes of each of its rows."""
    whole = np.ascontiguousarray(array).view(np.ndarray)
    size = whole.nbytes // max(1, len(whole))
    flat = whole.reshape(-1).view(np.uint8).data
    if 0 < size <= _COPIED_BYTES:  # a copy of a short row takes less than a view of it
        return (row for (row,) in struct.iter_unpack(f"{size}s", flat))
    return (flat[start : start + size] for start in range(0, len(flat), max(1, size)))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step of the view policy, a stream per sample.

    Attributes:
        stream_B: uint64 [B], where each sample's stream starts.
    """

    stream_B: np.ndarray

    @classmethod
    def of_step(cls, keys_B: np.ndarray, step: int) -> Draws:
        """The streams of step number `step` of the views that `keys_B` (uint64 [B]) stand for."""
        turn = np.uint64(((step + 1) * 0xD1342543DE82EF95) & _MASK)
        return cls(mix(keys_B ^ turn))

    def bits(self, count: int) -> np.ndarray:
        """The first `count` numbers of each stream, uint64 [B, K]."""
        counter_K = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_64
        return mix(self.stream_B[:, None] + counter_K)

    def uniforms(self, count: int) -> np.ndarray:
        """The first `count` numbers of each stream, float64 [K, B] strictly inside (0, 1)."""
        # 52 bits: with 53 the largest would round to 1.
        bits_KB = np.ascontiguousarray(self.bits(count).T)
        return (bits_KB >> _S12) * 2.0**-52 + 2.0**-53

    def normals(self, count: int) -> np.ndarray:
        """The first `count` standard normal numbers of each stream, float32 [B, K].

        Box and Muller (1958), equation 2: one 64-bit number makes two uniform ones, these two normal.
        """
        bits_BK = self.bits((count + 1) // 2)
        radius_BK = np.sqrt(-2.0 * np.log(((bits_BK >> _S32) + 0.5) * 2.0**-32))
        angle_BK = ((bits_BK & _LOW) + 0.5) * (2.0 * np.pi * 2.0**-32)
        pairs = (radius_BK * np.cos(angle_BK), radius_BK * np.sin(angle_BK))
        return np.concatenate(pairs, axis=1, dtype=np.float32, casting="same_kind")[:, :count]
