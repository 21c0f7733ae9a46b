"""How several teachers become one voice: weights, combined targets, calibration.

Every weighting is `(logits_TNC, labels_N | None, *, knobs, **common) -> weights_TN`: non-negative,
detached, summing to 1 over the teachers that answered (all 0 where nobody did). The common keywords
`student_logits`, `losses_TN`, `available_TN` and `generator` are accepted by all of them. Where a
label is −1, a weighting that goes by labels is uniform.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from raykd.ensemble.certainty import confidence, entropy
from raykd.ensemble.combine import (
    effective_teachers,
    effective_teachers_per_unit,
    jensen_shannon,
    mean_logits,
    mean_probabilities,
)
from raykd.ensemble.given import accuracy, fixed, inverse_error, uniform
from raykd.ensemble.gradients import gradient
from raykd.ensemble.info import WeightingInfo
from raykd.ensemble.partial import labels_of_known, mean_of_known, unknown
from raykd.ensemble.stochastic import drop, sample
from raykd.ensemble.temperature import TEMPERATURE_BOUNDS, fit_temperature
from raykd.ensemble.votes import agreement, sample_weights

WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "fixed": fixed,
    "accuracy": accuracy,
    "inverse_error": inverse_error,
    "entropy": entropy,
    "confidence": confidence,
    "gradient": gradient,
    "agreement": agreement,
    "sample": sample,
    "drop": drop,
}

INFO: dict[str, WeightingInfo] = {
    "uniform": WeightingInfo(formula="1/K", paper="You et al. 2017", looks=False),
    "fixed": WeightingInfo(
        formula="given w_k", paper="given weights", needs=("weights",), looks=False
    ),
    "accuracy": WeightingInfo(
        formula="a_k^power, a = validation accuracy",
        paper="weighted voting",
        needs=("accuracies",),
        looks=False,
    ),
    "inverse_error": WeightingInfo(
        formula="1/e_k, e = validation error",
        paper="inverse-variance mean",
        needs=("errors",),
        looks=False,
    ),
    "entropy": WeightingInfo(
        formula="1 − H_k / Σ_j H_j", paper="Kwon et al. 2020 (EBKD), as in the CA-MKD code"
    ),
    "confidence": WeightingInfo(
        formula="(1 − softmax_k(CE_k)) / (K−1)",
        paper="Zhang et al. 2022 (CA-MKD)",
        needs=("labels",),
    ),
    "gradient": WeightingInfo(
        formula="argmin ‖Σ_k w_k (q − p_k)‖², Σw = 1, 0 ≤ w_k ≤ C_tol",
        paper="Du et al. 2020 (AE-KD)",
        needs=("student_logits",),
        stored=False,
    ),
    "agreement": WeightingInfo(formula="1[votes for argmax z_k are the most]", paper="vote"),
    "sample": WeightingInfo(
        formula="1 for one teacher drawn from π",
        paper="stochastic teachers",
        random=True,
        looks=False,
    ),
    "drop": WeightingInfo(
        formula="1 for the highest loss, else 1 with probability ½",
        paper="Sariyildiz et al. 2024 (UNIC)",
        needs=("losses_TN",),
        stored=False,
        random=True,
        looks=False,
    ),
}

__all__ = [
    "INFO",
    "TEMPERATURE_BOUNDS",
    "WEIGHTINGS",
    "WeightingInfo",
    "accuracy",
    "agreement",
    "confidence",
    "drop",
    "effective_teachers",
    "effective_teachers_per_unit",
    "entropy",
    "fit_temperature",
    "fixed",
    "gradient",
    "inverse_error",
    "jensen_shannon",
    "labels_of_known",
    "mean_logits",
    "mean_of_known",
    "mean_probabilities",
    "sample",
    "sample_weights",
    "uniform",
    "unknown",
]
