"""How closely a student follows its teachers, and which mistakes models share.

Shapes: N samples, C classes, M models. Inputs are log-probabilities at temperature 1, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_GAP = 1e-3


def fidelity(
    student_log_probs_NC: Tensor,
    ensemble_log_probs_NC: Tensor,
    teacher_log_probs: Mapping[str, Tensor],
) -> dict[str, Any]:
    """How far one student says what its teachers say (Stanton et al. 2021, Eqs. 4 and 5).

    Args:
        student_log_probs_NC: [N, C].
        ensemble_log_probs_NC: [N, C].
        teacher_log_probs: teacher -> [N, C].

    Returns:
        `agreement_ensemble`: share of samples with the same top class, in [0, 1];
        `kl_ensemble_nats`: mean KL(ensemble ‖ student), infinite where the student rules out what the
        ensemble holds possible; `agreement`: teacher -> share with the same top class.
    """
    return {
        "agreement_ensemble": _agreement(student_log_probs_NC, ensemble_log_probs_NC),
        "kl_ensemble_nats": _kl(ensemble_log_probs_NC, student_log_probs_NC),
        "agreement": {
            name: _agreement(student_log_probs_NC, log_probs)
            for name, log_probs in teacher_log_probs.items()
        },
    }


def gap_recovered(
    student: float, baseline: float, reference: float, *, smallest: float = SMALLEST_GAP
) -> float | None:
    """Share of the distance from the baseline to the reference that the student covers.

    Args:
        student: accuracy of the distilled student.
        baseline: accuracy of the same network trained on labels alone.
        reference: accuracy of the ensemble, or of the best teacher.
        smallest: distance up to which there is nothing to recover.

    Returns:
        (student − baseline) / (reference − baseline), which may lie outside [0, 1]; None where the
        reference is not above the baseline by more than `smallest`.
    """
    distance = reference - baseline
    if not distance > smallest:
        return None
    return (student - baseline) / distance


def agreement_matrix(log_probs: Sequence[Tensor]) -> NDArray[np.float64]:
    """Share of samples on which two models have the same top class.

    Args:
        log_probs: [N, C] of each of M models.

    Returns:
        Symmetric [M, M] in [0, 1], ones on the diagonal.
    """
    top_MN = torch.stack([model.argmax(dim=1) for model in log_probs]).cpu().numpy()
    same_MMN = top_MN[:, None, :] == top_MN[None, :, :]
    return np.asarray(same_MMN.mean(axis=2), dtype=np.float64)


def error_correlation(scores_MN: Tensor) -> NDArray[np.float64]:
    """Pearson correlation of how wrong models are: near 1, two of them make the same mistakes.

    Args:
        scores_MN: how each of M models did on each labelled sample: right or wrong, squared error, ...

    Returns:
        Symmetric [M, M] in [−1, 1], ones on the diagonal; NaN beside a model that does the same on all
        samples, such as one that is always right.
    """
    scores_MN = scores_MN.double()
    centred = (scores_MN - scores_MN.mean(dim=1, keepdim=True)).cpu().numpy()
    covariance = centred @ centred.T
    scale = np.sqrt(np.diag(covariance))
    scale = np.where(scale > 0, scale, np.nan)
    correlation = covariance / scale[:, None] / scale[None, :]
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation, dtype=np.float64)


def _agreement(first_NC: Tensor, second_NC: Tensor) -> float:
    return float((first_NC.argmax(dim=1) == second_NC.argmax(dim=1)).double().mean())


def _kl(target_NC: Tensor, other_NC: Tensor) -> float:
    """Mean KL(target ‖ other) in nats; a class of probability 0 in the target adds nothing."""
    target, other = target_NC.double(), other_NC.double()
    terms = torch.where(target == -torch.inf, 0.0, target.exp() * (target - other))
    return float(terms.sum(dim=1).mean())
