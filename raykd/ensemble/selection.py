"""Which teachers to keep: how alike their errors are, and what each adds to an ensemble.

Shape suffixes: N units, T teachers, C classes. Labels are int64 [N], −1 where unlabelled; unlabelled
units are left out. All figures should be computed on data that no teacher was trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor


def error_correlation(logits_TNC: Tensor, labels_N: Tensor) -> Tensor:
    """Pearson correlation between the errors (0 or 1) of every two teachers.

    Low correlation is what an ensemble lives on. A teacher that is always right, or never, has no
    defined correlation with others: it is given as 0.

    Args:
        logits_TNC: teachers' logits.
        labels_N: labels.

    Returns:
        correlation_TT, float64 in [−1, 1], with ones on the diagonal.

    Raises:
        ValueError: shapes that do not match, or nothing labelled.
    """
    wrong_TN = (~_right(logits_TNC, labels_N)).double()
    centred_TN = wrong_TN - wrong_TN.mean(1, keepdim=True)
    length_T1 = centred_TN.square().sum(1, keepdim=True).sqrt()
    unit_TN = centred_TN / torch.where(length_T1 > 0, length_T1, 1.0)
    correlation_TT = (unit_TN @ unit_TN.T).clamp(-1.0, 1.0)
    return correlation_TT.fill_diagonal_(1.0)


def agreement_matrix(logits_TNC: Tensor) -> Tensor:
    """Share of units on which two teachers predict the same class.

    Args:
        logits_TNC: teachers' logits.

    Returns:
        agreement_TT, float64 in [0, 1], with ones on the diagonal.

    Raises:
        ValueError: logits are not [T, N, C].
    """
    if logits_TNC.ndim != 3:
        raise ValueError(f"logits must be [T, N, C], found {tuple(logits_TNC.shape)}")
    vote_TN = logits_TNC.detach().argmax(-1)
    return (vote_TN.unsqueeze(0) == vote_TN.unsqueeze(1)).double().mean(-1)


def oracle_accuracy(logits_TNC: Tensor, labels_N: Tensor) -> float:
    """Share of labelled units that at least one teacher gets right: a ceiling for any weighting.

    Args:
        logits_TNC: teachers' logits.
        labels_N: labels.

    Returns:
        accuracy in [0, 1].

    Raises:
        ValueError: shapes that do not match, or nothing labelled.
    """
    return float(_right(logits_TNC, labels_N).any(0).double().mean())


def greedy_selection(logits_TNC: Tensor, labels_N: Tensor) -> list[tuple[int, float]]:
    """Teachers in the order in which they help an ensemble of mean probabilities most.

    Each step adds, without replacement, the teacher that gives the highest accuracy; ties are
    decided by the lower negative log likelihood, then by position. After Caruana et al. 2004
    (Ensemble Selection from Libraries of Models), who select with replacement. All teachers are
    returned: cut the list where the accuracy stops rising.

    Args:
        logits_TNC: teachers' logits.
        labels_N: labels.

    Returns:
        (teacher index, accuracy of the ensemble up to and with it) per step.

    Raises:
        ValueError: shapes that do not match, or nothing labelled.
    """
    logits_TNC, labels_N = _labelled(logits_TNC, labels_N)
    probs_TNC = logits_TNC.softmax(-1)
    total_NC = torch.zeros_like(probs_TNC[0])
    remaining = list(range(len(probs_TNC)))
    chosen: list[tuple[int, float]] = []
    while remaining:
        scores = [(*_score(total_NC + probs_TNC[k], labels_N), -k) for k in remaining]
        best_accuracy, _, position = max(scores)
        best = -position
        total_NC = total_NC + probs_TNC[best]
        remaining.remove(best)
        chosen.append((best, best_accuracy))
    return chosen


def _score(total_NC: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Accuracy and mean log likelihood of probabilities that are known up to a constant factor."""
    accuracy = (total_NC.argmax(-1) == labels_N).double().mean()
    tiny = torch.finfo(total_NC.dtype).tiny
    probs_N = total_NC.gather(1, labels_N.unsqueeze(1)).squeeze(1)
    return float(accuracy), float(probs_N.clamp_min(tiny).log().mean())


def _right(logits_TNC: Tensor, labels_N: Tensor) -> Tensor:
    logits_TNC, labels_N = _labelled(logits_TNC, labels_N)
    return logits_TNC.argmax(-1) == labels_N


def _labelled(logits_TNC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled units, detached and in float64."""
    if logits_TNC.ndim != 3 or labels_N.shape != logits_TNC.shape[1:2]:
        raise ValueError(
            f"logits must be [T, N, C] and labels [N], found {tuple(logits_TNC.shape)} and "
            f"{tuple(labels_N.shape)}"
        )
    known_N = labels_N >= 0
    if not bool(known_N.any()):
        raise ValueError("no unit is labelled")
    return logits_TNC.detach()[:, known_N].double(), labels_N[known_N]
