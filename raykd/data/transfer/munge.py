"""MUNGE: samples made of a table's own by exchanging values between near neighbours.

Bucila, Caruana & Niculescu-Mizil 2006, "Model compression", section 2.3 and algorithm 1.
Shapes: N samples, D columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PIECE = 32 * 2**20
"""Bytes of distances that are held at a time."""
_DIGITS = 9
"""Decimal digits of a squared distance (of columns scaled to [0, 1]); closer ones are ties, which the first sample wins."""


def neighbours(values_ND: np.ndarray, words_D: np.ndarray) -> np.ndarray:
    """The nearest other sample of each: Euclidean over numbers scaled to [0, 1], Hamming over words and gaps.

    The squared distance is Σ_numbers (a − b)² + the number of columns of words that differ + the number of columns in
    which one of the two alone has a gap (NaN; it stands at the column's mean otherwise).

    Args:
        values_ND: float64, at least two samples; codes in columns of words.
        words_D: bool, which columns hold words.

    Returns:
        int64 [N]; of ties the first one.
    """
    gaps_ND = np.isnan(values_ND)
    numbers_ND = _scaled(values_ND[:, ~words_D], gaps_ND[:, ~words_D])
    square_N = (numbers_ND**2).sum(axis=1)
    unlike = [*values_ND[:, words_D].T, *gaps_ND[:, gaps_ND.any(axis=0)].T]
    nearest_N = np.empty(len(values_ND), np.int64)
    for rows in _pieces(len(values_ND)):
        distance_BN = square_N[rows, None] + square_N - 2 * numbers_ND[rows] @ numbers_ND.T
        for column_N in unlike:
            distance_BN += _differ(column_N[rows, None], column_N)
        np.round(distance_BN, _DIGITS, out=distance_BN)
        distance_BN[np.arange(len(rows)), rows] = np.inf
        nearest_N[rows] = distance_BN.argmin(axis=1)
    return nearest_N


def munge_pass(
    values_ND: np.ndarray,
    words_D: np.ndarray,
    nearest_N: np.ndarray,
    uniform_ND: np.ndarray,
    normal_2ND: np.ndarray,
    *,
    p: float,
    s: float,
) -> np.ndarray:
    """One pass over all samples, each with its neighbour in turn (the body of algorithm 1's outer loop).

    For a sample e, its neighbour e′ and each column a, with probability p:
        numbers: sd = |e_a − e′_a| / s;  e_a ← N(e′_a, sd),  e′_a ← N(e_a, sd), both from the values before;
        words, and numbers of which one is a gap: e_a and e′_a change places.
    A sample may be changed several times: in its own turn, and in that of those whose neighbour it is. Neighbours are
    those of the samples as they were, so that they are looked for once; the paper's text leaves this open.

    Args:
        values_ND: float64, NaN where there is a gap.
        words_D: bool, which columns hold words.
        nearest_N: int64, as of `neighbours`.
        uniform_ND: float64 in (0, 1): a value is changed where it is below p.
        normal_2ND: standard normal numbers, for e and for e′.
        p: probability of a change.
        s: local variance parameter.

    Returns:
        float64 [N, D]; nothing given is changed.
    """
    made_ND = values_ND.copy()
    changed_ND = uniform_ND < p
    own_ND, other_ND = normal_2ND
    for row, nearest in enumerate(nearest_N.tolist()):
        changed_D = changed_ND[row]
        own_D, other_D = made_ND[row, changed_D], made_ND[nearest, changed_D]
        spread_D = np.abs(own_D - other_D) / s
        swapped_D = words_D[changed_D] | np.isnan(spread_D)
        spread_D[swapped_D] = 0.0
        made_ND[row, changed_D] = other_D + spread_D * own_ND[row, changed_D]
        made_ND[nearest, changed_D] = own_D + spread_D * other_ND[row, changed_D]
    return made_ND


def _scaled(numbers_ND: np.ndarray, gaps_ND: np.ndarray) -> np.ndarray:
    """Columns from 0 to 1, gaps at their mean; a column of one value, or of none, is 0."""
    known_ND = np.where(gaps_ND, np.inf, numbers_ND)
    low_D = known_ND.min(axis=0, initial=np.inf)
    high_D = np.where(gaps_ND, -np.inf, numbers_ND).max(axis=0, initial=-np.inf)
    varies_D = high_D > low_D
    low_D, width_D = np.where(varies_D, low_D, 0.0), np.where(varies_D, high_D - low_D, 1.0)
    scaled_ND = np.where(gaps_ND | ~varies_D, 0.0, (numbers_ND - low_D) / width_D)
    count_D = np.maximum(1, (~gaps_ND).sum(axis=0))
    return np.where(gaps_ND, scaled_ND.sum(axis=0) / count_D, scaled_ND)


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two values are not the same; two gaps are."""
    same: np.ndarray = one == other
    if one.dtype.kind == "f":
        same |= np.isnan(one) & np.isnan(other)
    return ~same


def _pieces(count: int) -> Iterator[np.ndarray]:
    step = max(1, _PIECE // (8 * count))
    for start in range(0, count, step):
        yield np.arange(start, min(count, start + step))
