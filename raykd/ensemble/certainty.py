"""Weightings by each teacher's outputs: how sure or right it is, and how many agree; weights of samples.

Shape suffixes: N units, T teachers, C classes. Keywords and result as in `given`.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble.combine import jensen_shannon
from raykd.ensemble.common import Common, Evidence, gather_evidence


def entropy(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    temperature: float = 1.0,
    **more: Unpack[Common],
) -> Tensor:
    """The surer a teacher is, the more it counts: w_k = (1 − H_k/Σ_j H_j)/(K−1).

    H is the entropy of softmax(z_k / T) in nats; K counts the teachers that answered, and K = 1
    gives 1. Kwon et al. 2020 (EBKD); their exact formula could not be read, this is that of the
    re-implementation in the CA-MKD code, whose weights sum to K−1 and are divided by K afterwards:
    here they sum to 1. Entropy comes from log-softmax, so an underflowed probability is no NaN.
    The maximum is 1/(K−1).

    Args:
        logits_TNC: teachers' logits.
        labels_N: not used.
        temperature: T > 0.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: temperature not above 0, or shapes that do not match.
    """
    evidence = gather_evidence("entropy", logits_TNC, labels_N, more)
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    log_probs_TNC = F.log_softmax(evidence.answered_logits() / temperature, dim=-1)
    entropy_TN = -(log_probs_TNC.exp() * log_probs_TNC).sum(-1)
    entropy_TN = torch.where(evidence.available_TN, entropy_TN, 0.0)
    total_N = entropy_TN.sum(0)
    return evidence.normalised(1 - entropy_TN / torch.where(total_N > 0, total_N, 1.0))


def confidence(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    unlabelled: Literal["uniform", "ensemble_argmax"] = "uniform",
    **more: Unpack[Common],
) -> Tensor:
    """The better a teacher predicts the label, the more it counts (CA-MKD, logits).

    w_k = (1 − softmax_k(CE_k))/(K−1), CE_k = −log softmax(z_k)_y at T = 1. Zhang et al. 2022, Sec.
    2. The maximum is 1/(K−1): with three teachers or more none can dominate, and it is not
    softmax(−CE). K counts the teachers that answered, and K = 1 gives 1. The authors' code divides
    the sum by K once more; here the weights sum to 1.

    Args:
        logits_TNC: teachers' logits.
        labels_N: int64 [N], −1 where unlabelled; None means that nothing is labelled.
        unlabelled: weights of unlabelled units: `uniform`, or the formula with the argmax of the
            teachers' mean probability as the label.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: shapes that do not match, or another value of `unlabelled`.
    """
    evidence = gather_evidence("confidence", logits_TNC, labels_N, more)
    if unlabelled not in ("uniform", "ensemble_argmax"):
        raise ValueError(f"unlabelled must be uniform or ensemble_argmax, found {unlabelled!r}")
    class_N = evidence.class_labels()
    known_N = class_N >= 0
    if unlabelled == "ensemble_argmax":
        class_N = torch.where(known_N, class_N, _ensemble_argmax(evidence))
        known_N = torch.ones_like(known_N)
    logits_TNC = evidence.answered_logits()
    index_TN1 = class_N.clamp_min(0).expand(len(logits_TNC), -1).unsqueeze(2)
    cross_entropy_TN = logits_TNC.logsumexp(-1) - logits_TNC.gather(2, index_TN1).squeeze(2)
    absent = torch.finfo(cross_entropy_TN.dtype).min
    share_TN = torch.where(evidence.available_TN, cross_entropy_TN, absent).softmax(0)
    return torch.where(known_N, evidence.normalised(1 - share_TN), evidence.uniform())


def _ensemble_argmax(evidence: Evidence) -> Tensor:
    """The class of largest mean probability over the teachers that answered, [N]."""
    probs_TNC = evidence.answered_logits().softmax(-1)
    return (probs_TNC * evidence.available_TN.unsqueeze(2)).sum(0).argmax(-1)


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
