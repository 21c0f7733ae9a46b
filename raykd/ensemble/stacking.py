"""Stacking: weights of calibrated teachers that are learnt from held-out labels, shrunk to equal ones.

Shape suffixes: N units, T teachers, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from raykd.ensemble.combine import labels_of_known
from raykd.ensemble.common import Common, gather_evidence, per_teacher

PRIOR = 500.0
"""n₀: with so many labelled samples the weights lie half-way between equal ones and the best ones."""
_ITERATIONS = 2000
_ACCURACY = 1e-10


def stacking(
    logits_TNC: Tensor, labels_N: Tensor | None = None, *, stacked: Tensor, **more: Unpack[Common]
) -> Tensor:
    """Weights of `stacked_weights`, normalised over the teachers that answered. Yao et al. 2018.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        stacked: [T], at least 0, from data that the teachers were not trained on.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: negative or missing weights, or shapes that do not match.
    """
    evidence = gather_evidence("stacking", logits_TNC, labels_N, more)
    return evidence.normalised(per_teacher("stacked", stacked, evidence))


def best_weights(log_probs_TN: Tensor) -> Tensor:
    """The weights of the mixture under which labels are likeliest, float64 [T].

    w* = argmax over the simplex of Σ_n log Σ_k w_k p_k(y_n) (Yao et al. 2018, Sec. 3.1, of the log score), by
    expectation-maximisation: w_k ← mean_n w_k p_k(y_n) / Σ_j w_j p_j(y_n). The sum is concave in w, so that this goes to a
    maximum; of teachers that say the same each keeps the same share.

    Args:
        log_probs_TN: log-probability that each teacher gave each sample's label, on samples that it was not trained on.

    Returns:
        weights_T, at least 0, summing to 1; equal ones where there is no sample.

    Raises:
        ValueError: no teacher, or a log-probability that is NaN or above 0 by more than rounding.
    """
    teachers, units = log_probs_TN.shape
    if not teachers:
        raise ValueError("there is no teacher to be weighed")
    log_probs_TN = log_probs_TN.detach().double()
    if not bool((log_probs_TN <= 1e-6).all()):
        raise ValueError("log-probabilities must be at most 0")
    weights_T = torch.full((teachers,), 1 / teachers, dtype=torch.float64)
    if not units:
        return weights_T
    top_N = log_probs_TN.amax(dim=0).clamp(min=torch.finfo(torch.float64).min)
    probs_TN = (log_probs_TN - top_N).exp()
    probs_TN = torch.where(
        probs_TN.sum(dim=0) > 0, probs_TN, 1.0
    )  # all are sure that it is another one
    for _ in range(_ITERATIONS):
        shares_TN = weights_T[:, None] * probs_TN
        following_T = (shares_TN / shares_TN.sum(dim=0)).mean(dim=1)
        change = float((following_T - weights_T).abs().max())
        weights_T = following_T
        if change < _ACCURACY:
            break
    return weights_T / weights_T.sum()


def stacked_weights(log_probs_TN: Tensor, prior: float = PRIOR) -> Tensor:
    """`best_weights`, shrunk to equal ones: 1/K + n / (n + n₀) · (w* − 1/K), float64 [T].

    Args:
        log_probs_TN: as of `best_weights`, of n samples.
        prior: n₀, at least 0; 0 does not shrink.

    Raises:
        ValueError: as of `best_weights`, or a negative prior.
    """
    if prior < 0:
        raise ValueError(f"prior must be at least 0, found {prior}")
    teachers, units = log_probs_TN.shape
    trust = units / (units + prior) if units else 0.0
    return 1 / teachers + trust * (best_weights(log_probs_TN) - 1 / teachers)


def label_log_probs(
    logits: Sequence[Tensor], labels_N: Tensor, temperatures: Sequence[float]
) -> Tensor:
    """Log-probability that each teacher gives each label, of the samples M whose class all of them know, float64 [T, M].

    Args:
        logits: of each teacher [N, C].
        labels_N: int64, −1 where unlabelled.
        temperatures: of each teacher; its logits are divided by it.
    """
    known_TN = torch.stack([labels_of_known(logits_NC, labels_N) >= 0 for logits_NC in logits])
    rows_N = known_TN.all(dim=0)
    own = [
        torch.log_softmax(logits_NC[rows_N].double() / temperature, dim=-1)
        for logits_NC, temperature in zip(logits, temperatures, strict=True)
    ]
    return torch.stack([one_MC.gather(1, labels_N[rows_N, None])[:, 0] for one_MC in own])
