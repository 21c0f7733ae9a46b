"""Agreement between teachers: weights for those in the majority, and weights of samples.

Shape suffixes: N units, T teachers, C classes. Keywords and result as in `given`.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from raykd.ensemble.combine import jensen_shannon
from raykd.ensemble.common import Common, Evidence, gather_evidence


def agreement(logits_TNC: Tensor, labels_N: Tensor | None = None, **more: Unpack[Common]) -> Tensor:
    """Equal weights for the teachers whose vote is the most frequent; the others count nothing.

    w_k ∝ 1[votes for argmax z_k are the most]. With a tie between classes, all teachers that voted
    for one of them count; so when all disagree the weights are uniform.

    Args:
        logits_TNC: teachers' logits.
        labels_N: not used.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: shapes that do not match.
    """
    evidence = gather_evidence("agreement", logits_TNC, labels_N, more)
    votes_TN = _votes(evidence)
    return evidence.normalised(votes_TN == votes_TN.amax(0))


def sample_weights(
    logits_TNC: Tensor,
    *,
    mode: Literal["filter", "disagreement"],
    minimum_votes: int = 2,
    tau: float = 1.0,
    temperature: float = 1.0,
    available_TN: Tensor | None = None,
) -> Tensor:
    """How much each sample counts, by how far the teachers agree on it.

    `filter`: 1 where at least `minimum_votes` teachers have the same argmax, else 0.
    `disagreement`: exp(−JSD/τ) with uniform teacher weights, divided by its mean over the units
    that somebody answered, so that the loss keeps its strength. Unanswered units get 0.

    Args:
        logits_TNC: teachers' logits.
        mode: see above.
        minimum_votes: of `filter`.
        tau: of `disagreement`, in nats, above 0.
        temperature: of `disagreement`, for the probabilities.
        available_TN: bool [T, N], False where a teacher gave no answer.

    Returns:
        weight_N, at least 0, detached.

    Raises:
        ValueError: another mode, τ not above 0, or shapes that do not match.
    """
    evidence = gather_evidence("sample_weights", logits_TNC, None, {"available_TN": available_TN})
    answered_N = evidence.available_TN.any(0)
    if mode == "filter":
        keep_N = answered_N & (_votes(evidence).amax(0) >= minimum_votes)
        return keep_N.to(evidence.logits_TNC.dtype)
    if mode != "disagreement":
        raise ValueError(f"mode must be filter or disagreement, found {mode!r}")
    if tau <= 0:
        raise ValueError(f"tau must be above 0, found {tau}")
    jsd_N = jensen_shannon(evidence.logits_TNC, evidence.uniform(), temperature)
    raw_N = torch.where(answered_N, (-jsd_N / tau).exp(), 0.0)
    total = raw_N.sum()
    return raw_N * (answered_N.sum() / torch.where(total > 0, total, 1.0))


def _votes(evidence: Evidence) -> Tensor:
    """How many answering teachers share each teacher's argmax, [T, N]; 0 for an absent teacher."""
    vote_TN = evidence.logits_TNC.argmax(-1)
    same_TTN = (vote_TN.unsqueeze(0) == vote_TN.unsqueeze(1)) & evidence.available_TN
    return same_TTN.sum(1) * evidence.available_TN
