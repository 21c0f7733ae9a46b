"""N-gram language models over token ids, with Witten-Bell interpolation (Witten & Bell 1991; Chen & Goodman 1999, Eq. 16).

The probability of token w after the context h of k tokens, with h' the context without its first token, is

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h))

where c counts in the text and T(h) is the number of different tokens that follow h. Below the empty context stands the
uniform distribution, so no token has probability 0. A context that was never followed by anything leaves p(w | h').

A model is a set of sorted tables: for each length the grams of the text as integers, and how often each occurs. The
continuations of a gram are neighbours in the table of the next length, so a gram and a context are found by the same
binary search, and nothing is hashed.

Shapes: N tokens in a row, B chunks, L length, V vocabulary, M grams of one length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_BITS = 63
_DENSE_VALUES = 2**21
"""The whole distribution is kept for the contexts of a length as long as it takes no more numbers than this."""
_BLOCK_VALUES = 2**18
"""Numbers that are worked on at a time, so that they stay in a core's cache."""


@dataclass(frozen=True)
class NgramTables:
    """Grams of a text and their counts; everything that an n-gram model knows.

    Attributes:
        vocabulary: V; ids are below it.
        grams: for each length m = 1, 2, ... the different grams, sorted int64 [M]: their ids as digits of base
            2^bits, the last id in the lowest bits.
        counts: how often each occurs, int64 [M].

    Raises:
        ValueError: tables that no text gives.
    """

    vocabulary: int
    grams: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if not self.grams or len(self.grams) != len(self.counts):
            raise ValueError("an n-gram model needs grams and their counts for each length")
        _refuse_order(len(self.grams), self.vocabulary)
        for length, (grams, counts) in enumerate(zip(self.grams, self.counts, strict=True), 1):
            top = self.vocabulary << (self.bits * (length - 1))
            if not len(grams) or len(grams) != len(counts) or (counts <= 0).any():
                raise ValueError(f"grams of length {length} need a count above 0 each")
            if grams[0] < 0 or grams[-1] >= top or (np.diff(grams) <= 0).any():
                raise ValueError(f"grams of length {length} are not sorted ids of the vocabulary")

    @property
    def order(self) -> int:
        """Length of the longest grams: a token is predicted from the order − 1 tokens before it."""
        return len(self.grams)

    @property
    def bits(self) -> int:
        """Bits of an id in a gram."""
        return bits_of(self.vocabulary)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays, such as safetensors holds."""
        named: dict[str, np.ndarray] = {"vocabulary": np.array(self.vocabulary, dtype=np.int64)}
        for length, (grams, counts) in enumerate(zip(self.grams, self.counts, strict=True), 1):
            named |= {f"grams_{length}": grams, f"counts_{length}": counts}
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, np.ndarray]) -> NgramTables:
        """What `arrays` gave.

        Raises:
            ValueError: an array is missing, or they are no tables.
        """
        lengths = range(1, 1 + sum(name.startswith("grams_") for name in named))
        needed = [f"{what}_{length}" for what in ("grams", "counts") for length in lengths]
        if missing := [name for name in ("vocabulary", *needed) if name not in named]:
            raise ValueError(f"tables of n-grams lack {', '.join(missing)}")
        return cls(
            int(named["vocabulary"].item()),
            tuple(np.asarray(named[f"grams_{length}"], np.int64) for length in lengths),
            tuple(np.asarray(named[f"counts_{length}"], np.int64) for length in lengths),
        )


def bits_of(vocabulary: int) -> int:
    """Bits that an id below `vocabulary` takes, at least 1."""
    return max(1, (vocabulary - 1).bit_length())


def highest_order(vocabulary: int) -> int:
    """The longest gram that fits into 63 bits: 7 tokens of 256, 3 of 49,152."""
    return _BITS // bits_of(vocabulary)


def _refuse_order(order: int, vocabulary: int) -> None:
    if vocabulary < 1:
        raise ValueError(f"a vocabulary has at least one token, found {vocabulary}")
    most = highest_order(vocabulary)
    if not 1 <= order <= most:
        raise ValueError(f"order is 1 to {most} for {vocabulary:,} tokens, found {order}")


def fit_ngram(texts: Sequence[np.ndarray], *, vocabulary: int, order: int) -> NgramTables:
    """Count the grams of texts; no gram reaches over the end of a text.

    Args:
        texts: token ids in [0, V), integers [L] each.
        vocabulary: V.
        order: length of the longest grams, as far as a text is that long.

    Raises:
        ValueError: an id out of range, no token at all, or an order whose grams are no 63-bit integers.
    """
    _refuse_order(order, vocabulary)
    given = [np.asarray(text) for text in texts if len(text)]
    if not given:
        raise ValueError("an n-gram model needs at least one token to count")
    tokens_N = np.concatenate(given)
    place_N = np.concatenate([np.arange(len(text)) for text in given])
    if tokens_N.dtype.kind not in "iu" or tokens_N.min() < 0 or tokens_N.max() >= vocabulary:
        raise ValueError(f"ids must be integers from 0 to {vocabulary - 1}")
    grams, counts = [], []
    for gram_N, there_N in _rolling(tokens_N, place_N, bits_of(vocabulary), order):
        found, times = np.unique(gram_N[there_N], return_counts=True)
        if not len(found):  # no text is that long
            break
        grams.append(found)
        counts.append(times.astype(np.int64))
    return NgramTables(vocabulary, tuple(grams), tuple(counts))


def _rolling(
    tokens_N: np.ndarray, place_N: np.ndarray, bits: int, order: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each length the gram that ends at each token, and whether it lies within the token's text."""
    tokens_N = tokens_N.astype(np.int64)
    gram_N = tokens_N
    found = [(gram_N, place_N >= 0)]
    for before in range(1, order):
        earlier_N = np.zeros_like(tokens_N)
        earlier_N[before:] = tokens_N[: max(0, len(tokens_N) - before)]
        gram_N = gram_N + (earlier_N << (bits * before))
        found.append((gram_N, place_N >= before))
    return found


@dataclass(frozen=True)
class _Level:
    """Contexts of one length: those of the text, and where their continuations lie in the next table.

    Attributes:
        start_M, size_M: place and number T(h) of the continuations.
        keep_M: T(h) / (c(h) + T(h)), what the shorter context's distribution is multiplied by; 1 where h is never
            followed by anything.
    """

    start_M: np.ndarray
    size_M: np.ndarray
    keep_M: np.ndarray


class Ngram:
    """An n-gram model that answers.

    Args:
        tables: what it was fitted to.
        dtype: precision of its probabilities; float64 agrees with the formula to 1e-12, float32 to 1e-6.
    """

    def __init__(self, tables: NgramTables, dtype: type[np.floating] = np.float32) -> None:
        self.tables = tables
        self._dtype = dtype

    @cached_property
    def _levels(self) -> list[_Level]:
        """For contexts of 0, 1, ..., order − 1 tokens."""
        tables, levels = self.tables, []
        for length in range(tables.order):
            heads_M = tables.grams[length - 1] if length else np.zeros(1, np.int64)
            behind = tables.grams[length]
            first_M = heads_M << tables.bits
            last_M = first_M | (
                (1 << tables.bits) - 1
            )  # one more would overflow in the longest grams
            start_M = np.searchsorted(behind, first_M)
            end_M = np.searchsorted(behind, last_M, side="right")
            total = np.concatenate([[0], np.cumsum(tables.counts[length])])
            size_M, count_M = end_M - start_M, total[end_M] - total[start_M]
            keep_M = np.where(size_M > 0, size_M / np.maximum(size_M + count_M, 1), 1.0)
            levels.append(_Level(start_M, size_M, keep_M))
        return levels

    @cached_property
    def _shares(self) -> list[np.ndarray]:
        """For grams (h, w) of 1, ..., order tokens: c(h, w) / (c(h) + T(h))."""
        shares = []
        for counts, level in zip(self.tables.counts, self._levels, strict=True):
            followed = level.size_M > 0
            keep_M, size_M = level.keep_M[followed], level.size_M[followed]
            shares.append(counts * np.repeat(keep_M / size_M, size_M))
        return shares

    @cached_property
    def _symbols(self) -> list[np.ndarray]:
        """The last token of each gram, for each length."""
        mask = (1 << self.tables.bits) - 1
        return [(grams & mask).astype(np.int64) for grams in self.tables.grams]

    @cached_property
    def _dense(self) -> list[np.ndarray]:
        """The distributions [M, V] after the contexts of 0, 1, ... tokens, as far as they are small."""
        vocabulary, bits = self.tables.vocabulary, self.tables.bits
        before_MV = np.full((1, vocabulary), 1 / vocabulary)
        found: list[np.ndarray] = []
        for length, level in enumerate(self._levels):
            rows = len(level.size_M)
            if length > 0 and rows * vocabulary > _DENSE_VALUES:
                break
            if length > 1:  # of the context without its first token
                heads_M = self.tables.grams[length - 1]
                shorter_M = heads_M & ((1 << (bits * (length - 1))) - 1)
                parent_M = np.searchsorted(self.tables.grams[length - 2], shorter_M)
            else:
                parent_M = np.zeros(rows, np.int64)
            rows_MV = before_MV[parent_M] * level.keep_M[:, None]
            row_E = np.repeat(np.arange(rows), level.size_M)
            # Continuations lie in the order of their contexts, so those of all contexts are the whole table.
            rows_MV[row_E, self._symbols[length]] += self._shares[length]
            found.append(rows_MV)
            before_MV = rows_MV
        return found

    @cached_property
    def _dense_rows(self) -> np.ndarray:
        return np.concatenate(self._dense).astype(self._dtype)

    def log_probabilities(self, tokens_BL: np.ndarray) -> np.ndarray:
        """The distribution of the token after each token of each chunk, from the tokens of the chunk up to it.

        Args:
            tokens_BL: ids in [0, V), integers [B, L].

        Returns:
            Natural logarithms [B, L, V].
        """
        size, length = tokens_BL.shape
        vocabulary = self.tables.vocabulary
        nodes = self._nodes(tokens_BL.reshape(-1), _places(size, length), self.tables.order - 1)
        out_NV = np.empty((size * length, vocabulary), self._dtype)
        step = max(1, _BLOCK_VALUES // vocabulary)
        for start in range(0, size * length, step):
            block = slice(start, start + step)
            self._fill(out_NV[block], [node_N[block] for node_N in nodes])
            np.log(out_NV[block], out=out_NV[block])
        return out_NV.reshape(size, length, vocabulary)

    def next_log_probabilities(self, tokens_BL: np.ndarray) -> np.ndarray:
        """The log-probability of each token but the first of a chunk, [B, L − 1]; many times as fast as all of them."""
        size, length = tokens_BL.shape
        nodes = self._nodes(tokens_BL.reshape(-1), _places(size, length), self.tables.order)
        p_BL = np.full((size, max(0, length - 1)), 1 / self.tables.vocabulary)
        for level, shares, before_N, own_N in zip(
            self._levels, self._shares, nodes[:-1], nodes[1:], strict=True
        ):
            context_BL = before_N.reshape(size, length)[:, :-1]
            gram_BL = own_N.reshape(size, length)[:, 1:]
            p_BL *= np.where(context_BL >= 0, level.keep_M[context_BL], 1.0)
            p_BL += np.where(gram_BL >= 0, shares[gram_BL], 0.0)
        logs: np.ndarray = np.log(p_BL).astype(self._dtype)
        return logs

    def _nodes(self, tokens_N: np.ndarray, place_N: np.ndarray, longest: int) -> list[np.ndarray]:
        """For lengths 0 to `longest` the place of the gram that ends at each token in its table; −1 where it has none."""
        tables = self.tables
        nodes = [np.zeros(len(tokens_N), np.int64)]
        rolled = _rolling(tokens_N, place_N, tables.bits, longest) if longest else []
        for (gram_N, there_N), grams in zip(rolled, tables.grams, strict=False):
            # A gram of the text has a tail in the text, so only where that was found it is looked for.
            at = np.flatnonzero(there_N & (nodes[-1] >= 0))
            found = np.searchsorted(grams, gram_N[at])
            is_gram = grams[np.minimum(found, len(grams) - 1)] == gram_N[at]
            node_N = np.full(len(tokens_N), -1, np.int64)
            node_N[at] = np.where(is_gram, found, -1)
            nodes.append(node_N)
        return nodes

    def _fill(self, out_NV: np.ndarray, nodes: Sequence[np.ndarray]) -> None:
        """Write the distributions after contexts; see `_nodes`."""
        vocabulary = self.tables.vocabulary
        dense = len(self._dense)
        first_row = np.cumsum([0, *(len(rows) for rows in self._dense)])
        row_N = np.zeros(len(out_NV), np.int64)
        for length in range(1, dense):
            row_N = np.where(nodes[length] >= 0, first_row[length] + nodes[length], row_N)
        keeps = [
            np.where(node_N >= 0, level.keep_M[node_N], 1.0)
            for node_N, level in zip(nodes[dense:], self._levels[dense:], strict=True)
        ]
        # What is left of the shares of each length after all longer contexts.
        left = [np.ones(len(out_NV))]
        for keep_N in reversed(keeps):
            left.insert(0, left[0] * keep_N)
        np.take(self._dense_rows, row_N, axis=0, out=out_NV)
        out_NV *= left[0][:, None].astype(self._dtype)
        flat = out_NV.reshape(-1)
        for place, length in enumerate(range(dense, self.tables.order)):
            level, node_N = self._levels[length], nodes[length]
            at = np.flatnonzero(node_N >= 0)
            size_A = level.size_M[node_N[at]]
            behind_A = np.cumsum(size_A)
            entry_E = np.arange(behind_A[-1] if len(at) else 0)
            entry_E += np.repeat(level.start_M[node_N[at]] - (behind_A - size_A), size_A)
            flat[np.repeat(at * vocabulary, size_A) + self._symbols[length][entry_E]] += (
                self._shares[length][entry_E] * np.repeat(left[place + 1][at], size_A)
            )


def _places(size: int, length: int) -> np.ndarray:
    """Of each token of [B, L] its place in its chunk."""
    return np.tile(np.arange(length), size)
