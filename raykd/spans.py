"""Two tokenizations of one text, aligned on its bytes, and the likelihood of what both have in common.

A span is a shortest stretch of bytes at whose ends both tokenizations end a token. Whatever the vocabularies,
the probability of a span's bytes given those before is, as far as each model's own tokens tell, the product of the
probabilities of its tokens: one number of each model for each span, which can be stored and compared (Minixhofer
et al. 2025, Approximate Likelihood Matching).

Shape suffixes: L tokens, M tokens of the other tokenization, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NO_SPAN = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Alignment:
    """Which tokens of two tokenizations make each span.

    Attributes:
        span_of_L: int64 [L], the span of each token of the one; −1 of a token without bytes at a span's border
            (BOS and EOS, which only one of them may have). Within a span it counts: the next one follows it.
        span_of_M: int64 [M], of the other.
        bytes_S: int64 [S], how long each span is, at least 1.
    """

    span_of_L: np.ndarray
    span_of_M: np.ndarray
    bytes_S: np.ndarray


def align(one: Sequence[bytes], other: Sequence[bytes]) -> Alignment:
    """The finest spans that both tokenizations have.

    Characters do not matter: a token may end within one, and so may a span.

    Args:
        one: the bytes of each token [L]; `b""` of BOS, EOS and the like.
        other: the same text's bytes, cut otherwise [M].

    Raises:
        ValueError: they are not of the same text; the first byte that differs is named.
    """
    _require_same(b"".join(one), b"".join(other))
    ends_L, ends_M = (np.cumsum([0, *map(len, pieces)])[1:] for pieces in (one, other))
    borders_S = np.intersect1d(ends_L, ends_M)
    borders_S = borders_S[borders_S > 0]
    return Alignment(
        span_of_L=_span_of(ends_L, borders_S),
        span_of_M=_span_of(ends_M, borders_S),
        bytes_S=np.diff(borders_S, prepend=0),
    )


def _span_of(ends_L: np.ndarray, borders_S: np.ndarray) -> np.ndarray:
    span_of_L = np.searchsorted(borders_S, ends_L)
    empty_L = np.diff(ends_L, prepend=0) == 0
    at_border_L = np.isin(ends_L, np.append(borders_S, 0))
    return np.where(empty_L & at_border_L, NO_SPAN, span_of_L)


def _require_same(one: bytes, other: bytes) -> None:
    if one == other:
        return
    both = zip(one, other, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), min(len(one), len(other)))
    raise ValueError(
        f"the tokenizations are of different texts: {len(one)} and {len(other)} bytes, which differ from byte {at} on "
        f"({one[at : at + 12]!r} and {other[at : at + 12]!r}); give each token's own bytes, and b'' for tokens "
        "that stand for no text"
    )


def joined(alignments: Sequence[Alignment]) -> Alignment:
    """The alignments of several texts as one, tokens and spans one text after another."""
    shifts = np.cumsum([0, *(len(one.bytes_S) for one in alignments)])[:-1]

    def moved(parts: Sequence[np.ndarray]) -> np.ndarray:
        shifted = [
            np.where(part == NO_SPAN, NO_SPAN, part + shift)
            for part, shift in zip(parts, shifts, strict=True)
        ]
        return np.concatenate([np.zeros(0, np.int64), *shifted])

    return Alignment(
        span_of_L=moved([one.span_of_L for one in alignments]),
        span_of_M=moved([one.span_of_M for one in alignments]),
        bytes_S=np.concatenate([np.zeros(0, np.int64), *(one.bytes_S for one in alignments)]),
    )


def span_log_probs(log_probs_L: Tensor, span_of_L: np.ndarray, spans: int) -> Tensor:
    """Log-probability of each span's tokens given all before them, [S]; gradients reach the tokens.

    Args:
        log_probs_L: float [L], of each token given those before; NaN of one that was not predicted (the
            first of a text without BOS). What a token in no span has does not matter.
        span_of_L: of `Alignment`.
        spans: S.

    Returns:
        Sums, at most 0, in the dtype given; NaN where a token of the span was not predicted, which is for
        the caller to leave out on both sides.
    """
    index_L = torch.from_numpy(span_of_L).to(log_probs_L.device)
    counts_L = index_L != NO_SPAN
    return log_probs_L.new_zeros(spans).index_add(0, index_L[counts_L], log_probs_L[counts_L])
