"""Answers as classes that are drawn from the teacher's probabilities (Sparse Logit Sampling, Anshumann et al. 2025).

Shape suffixes: N units, V classes (a vocabulary), K draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raykd.top_k import chunks
from raykd.types import Sampled, TopK

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_DOUBLE_BITS = 53


def draw(
    logits_NV: Tensor,
    draws: int,
    *,
    seed: int,
    units_N: np.ndarray | None = None,
    temperature: float = 1.0,
    flatness: float = 1.0,
) -> Sampled:
    """Classes drawn from the teacher's distribution, with the estimate of their probabilities.

    The draws of a unit depend on the seed and on its number alone, not on its neighbours.

    Args:
        logits_NV: float [N, V], known up to a constant per row.
        draws: n, how many of each unit, with replacement.
        seed: kept with the answer; another one gives other draws (another view, say).
        units_N: uint64 or int64 [N], a number of each unit, for instance of sample and position; None means 0, 1, ….
        temperature: T of the probabilities that are estimated.
        flatness: τ; drawn is from r ∝ p^τ. At 1 the weights of a unit sum to 1; below 1 rare classes are drawn more
            often, and the weights sum to 1 only in the mean.

    Raises:
        ValueError: numbers of draws, flatness or temperature that are not above 0.
    """
    if draws < 1 or temperature <= 0 or flatness <= 0:
        raise ValueError(
            f"draws, temperature and flatness must be above 0, found {draws}, {temperature} and {flatness}"
        )
    numbers_N = np.arange(len(logits_NV)) if units_N is None else units_N
    uniforms = torch.from_numpy(_uniforms(seed, numbers_N, draws)).to(logits_NV.device)
    ids, weights, start = [], [], 0
    for part_NV in chunks(logits_NV):
        log_p_NV = (part_NV.double() / temperature).log_softmax(1)
        r_NV = (log_p_NV * flatness).softmax(1)
        cumulated_NV = r_NV.cumsum(1)
        points_NK = uniforms[start : start + len(part_NV)] * cumulated_NV[:, -1:]
        drawn_NK = torch.searchsorted(cumulated_NV, points_NK, right=True)
        drawn_NK = drawn_NK.clamp_(max=part_NV.shape[1] - 1).sort(1).values
        each_NK = log_p_NV.gather(1, drawn_NK).exp() / (r_NV.gather(1, drawn_NK) * draws)
        weights.append(_gathered_on_first(each_NK, drawn_NK))
        ids.append(drawn_NK)
        start += len(part_NV)
    return Sampled(
        classes=logits_NV.shape[1],
        ids_NK=torch.cat(ids),
        weights_NK=torch.cat(weights).to(torch.promote_types(logits_NV.dtype, torch.float32)),
        temperature=temperature,
        seed=seed,
        valid_N=torch.ones(len(logits_NV), dtype=torch.bool, device=logits_NV.device),
    )


def counted(drawn_NK: Tensor, classes: int) -> TopK:
    """Draws at temperature 1 as an answer: each class has its share of the draws, all others nothing.

    Unlike those of the likeliest classes these probabilities are right in the mean (Anshumann et al. 2025), and so is all
    that is linear in them.

    Args:
        drawn_NK: int64 [N, n], rising; a class that was drawn again stands there again.
        classes: V.

    Returns:
        An answer without a tail, the class drawn most often first; K is the most classes that a unit has.
    """
    ones_NK = torch.ones(drawn_NK.shape, dtype=torch.float64, device=drawn_NK.device)
    counts_NK = _gathered_on_first(ones_NK, drawn_NK)
    counts_NK, order_NK = counts_NK.sort(dim=1, descending=True, stable=True)
    ids_NK = drawn_NK.gather(1, order_NK)
    ids_NK = torch.where(counts_NK > 0, ids_NK, ids_NK[:, :1])
    width = max(1, int((counts_NK > 0).sum(1).max())) if len(counts_NK) else 1
    return TopK(
        classes=classes,
        ids_NK=ids_NK[:, :width],
        log_probs_NK=(counts_NK[:, :width] / drawn_NK.shape[1]).log().float(),
        tail=None,
        valid_N=torch.ones(len(drawn_NK), dtype=torch.bool, device=drawn_NK.device),
    )


def _gathered_on_first(weights_NK: Tensor, ids_NK: Tensor) -> Tensor:
    """Weights of equal neighbours in a sorted row, added up on the first of them; 0 on the others."""
    again_NK = torch.zeros_like(ids_NK, dtype=torch.bool)
    again_NK[:, 1:] = ids_NK[:, 1:] == ids_NK[:, :-1]
    group_NK = (~again_NK).cumsum(1) - 1
    sums_NK = torch.zeros_like(weights_NK).scatter_add_(1, group_NK, weights_NK)
    return sums_NK.gather(1, group_NK).masked_fill(again_NK, 0.0)


def _uniforms(seed: int, numbers_N: np.ndarray, draws: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [N, draws], each a hash of seed, unit and draw (SplitMix64, Steele et al. 2014)."""
    step, first, second = (np.uint64(value) for value in _MIX)

    def mixed(state: np.ndarray) -> np.ndarray:
        state = (state ^ (state >> np.uint64(30))) * first
        state = (state ^ (state >> np.uint64(27))) * second
        last: np.ndarray = state ^ (state >> np.uint64(31))
        return last

    start = mixed(np.array([seed % 2**64], np.uint64) + step)
    unit_N1 = mixed(start + step * (numbers_N.astype(np.uint64)[:, None] + np.uint64(1)))
    drawn = mixed(unit_N1 + step * (np.arange(draws, dtype=np.uint64)[None] + np.uint64(1)))
    high = (drawn >> np.uint64(64 - _DOUBLE_BITS)).astype(np.float64)
    uniforms: np.ndarray = np.ldexp(high, -_DOUBLE_BITS)
    return uniforms
