"""How several teachers become one voice: weights, combined targets, calibration.

Every weighting is `(logits_TNC, labels_N | None, *, knobs, **common) -> weights_TN`: non-negative,
detached, summing to 1 over the teachers that answered (all 0 where nobody did). The common keywords
`student_logits`, `losses_TN`, `available_TN` and `generator` are accepted by all of them. Where a
label is −1, a weighting that goes by labels is uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from torch import Tensor

from raykd.ensemble.certainty import sample_weights
from raykd.ensemble.combine import (
    effective_teachers,
    effective_teachers_per_unit,
    jensen_shannon,
    labels_of_known,
    mean_logits,
    mean_of_known,
    mean_probabilities,
    sharpened,
    unknown,
)
from raykd.ensemble.sequences import bayesian_mixture, routed
from raykd.ensemble.temperature import (
    SHARPENING_BOUNDS,
    TEMPERATURE_BOUNDS,
    calibration_half,
    fit_temperature,
    mean_entropy,
    temperature_of_entropy,
)
from raykd.methods import WEIGHTING_ROWS

WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    name: resolve_name(row.path) for name, row in WEIGHTING_ROWS.items()
}

__all__ = [
    "SHARPENING_BOUNDS",
    "TEMPERATURE_BOUNDS",
    "WEIGHTINGS",
    "bayesian_mixture",
    "calibration_half",
    "effective_teachers",
    "effective_teachers_per_unit",
    "fit_temperature",
    "jensen_shannon",
    "labels_of_known",
    "mean_entropy",
    "mean_logits",
    "mean_of_known",
    "mean_probabilities",
    "routed",
    "sample_weights",
    "sharpened",
    "temperature_of_entropy",
    "unknown",
]
