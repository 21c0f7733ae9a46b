"""Chunks of tokens as models see them: which tokens are predicted, and the outputs that predict them.

Token t + 1 of a chunk is predicted from the tokens up to t of the same chunk. A chunk never reaches over the end of its
document, and padding lies behind it, so what is predicted depends on nothing else in the batch.

Shapes: B chunks, L length, V vocabulary, N predicted tokens of all chunks.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import xxhash
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
SHORTEST = 16
"""Tokens of the smallest bucket."""


def predicted(tokens_B2L: Array) -> Array:
    """Which outputs predict a token that counts: bool [B, L − 1]."""
    found: Array = tokens_B2L[:, 1, 1:] > 0
    return found


def offsets_of(tokens_B2L: np.ndarray) -> np.ndarray:
    """Where the units of each chunk begin and end, int64 [B + 1]."""
    counts_B = predicted(tokens_B2L).sum(axis=1)
    return np.concatenate([[0], np.cumsum(counts_B)]).astype(np.int64)


def unit_numbers(tokens_B2L: np.ndarray) -> np.ndarray:
    """A number of each unit, uint64 [N]: a hash of its chunk and of its place there, so it does not depend on the batch.

    Chunks of the same tokens have the same numbers, whatever they are padded to.
    """
    numbers = []
    for chunk_2L in tokens_B2L:
        units = np.flatnonzero(chunk_2L[1, 1:] > 0)
        end = units[-1] + 2 if len(units) else 1
        own = xxhash.xxh3_64_intdigest(chunk_2L[:, :end].astype(np.int64).tobytes())
        numbers.append(np.uint64(own) ^ units.astype(np.uint64))
    return np.concatenate(numbers)


def unit_outputs(outputs_BLV: Tensor, tokens_B2L: Tensor) -> Tensor:
    """The outputs that predict a token that counts, chunk by chunk in their order: [N, V]."""
    return outputs_BLV[:, :-1][predicted(tokens_B2L)]


def buckets(tokens_B2L: np.ndarray) -> np.ndarray:
    """To which length each chunk is cut for a forward pass of its own shape, int64 [B]: by the chunk alone.

    The power of two that holds the last token that is predicted, at least 16, at most L.
    """
    length = tokens_B2L.shape[2]
    last_B = np.where(tokens_B2L[:, 1] > 0, np.arange(1, length + 1), 1).max(axis=1)
    powers_B = 2 ** np.ceil(np.log2(last_B)).astype(np.int64)
    found: np.ndarray = np.minimum(np.maximum(powers_B, SHORTEST), length)
    return found


def cut(tokens_B2L: Tensor, length: int) -> Tensor:
    """Chunks without what lies behind their first `length` tokens."""
    return tokens_B2L[:, :, :length].contiguous()
