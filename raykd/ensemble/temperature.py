"""Temperature scaling: how over-confident a model is, from held-out labels.

Shape suffixes: N units, C classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TEMPERATURE_BOUNDS = (0.01, 100.0)
SHARPENING_BOUNDS = (0.05, 20.0)
"""Of the temperature of a mixture that a student is to learn."""
_ITERATIONS = 60
_ACCURACY = 1e-10  # relative


def calibration_half(ids_N: Tensor) -> Tensor:
    """The fixed half of validation on which temperatures are fitted, bool [N]; the other half chooses.

    It goes by a hash of the id (SplitMix64, Steele et al. 2014), so that a sample stays in its half whatever
    else is in the data.
    """
    mixed = ids_N.cpu().numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return torch.from_numpy(mixed >> np.uint64(63) == 0)


def temperature_of_entropy(logits_NC: Tensor, wanted: float) -> float:
    """The temperature T at which the mean entropy of softmax(z / T) is as wanted; it rises with T.

    For Q-values, whose scale is that of the rewards (Rusu et al. 2015 take T = 0.01).

    Args:
        logits_NC: finite, at least one unit and two classes.
        wanted: nats.

    Returns:
        T in [10⁻⁶, 10⁶]: an end of it where no T has that entropy.
    """
    low, high = math.log(1e-6), math.log(1e6)
    exact_NC = logits_NC.double()
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        if mean_entropy(exact_NC / math.exp(middle)) < wanted:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def mean_entropy(logits_NC: Tensor) -> float:
    """Mean entropy of the units' distributions, nats."""
    log_probs_NC = logits_NC.double().log_softmax(dim=1)
    return float(-(log_probs_NC.exp() * log_probs_NC).sum(dim=1).mean())


def fit_temperature(
    logits_NC: Tensor, labels_N: Tensor, bounds: tuple[float, float] = TEMPERATURE_BOUNDS
) -> float:
    """The temperature T that minimises the mean negative log likelihood of softmax(z / T).

    Guo et al. 2017 (On Calibration of Modern Neural Networks), Sec. 4. The loss is convex in
    1/T, so a Newton search kept inside a shrinking bracket finds the minimum; in float64. The data
    must be held out: on a model's own training data T comes out too small.

    Args:
        logits_NC: the model's logits.
        labels_N: int64, −1 where unlabelled (left out).
        bounds: the least and the greatest T.

    Returns:
        T within the bounds; the lower end where every labelled sample is predicted rightly (the
        loss then has no minimum), the upper where the logits say nothing.

    Raises:
        ValueError: shapes that do not match, fewer than two labelled units, or logits that are not
            finite.
    """
    if logits_NC.ndim != 2 or labels_N.shape != logits_NC.shape[:1]:
        raise ValueError(
            f"logits must be [N, C] and labels [N], found {tuple(logits_NC.shape)} and "
            f"{tuple(labels_N.shape)}"
        )
    known_N = labels_N >= 0
    logits_NC = logits_NC.detach()[known_N].double()
    if len(logits_NC) < 2:
        raise ValueError(
            f"a temperature needs at least two labelled samples, found {len(logits_NC)}"
        )
    if not bool(logits_NC.isfinite().all()):
        raise ValueError("a temperature needs finite logits")
    logits_NC = logits_NC - logits_NC.amax(1, keepdim=True)
    target_N = logits_NC.gather(1, labels_N[known_N].unsqueeze(1)).squeeze(1)
    return 1.0 / _lowest_loss(logits_NC, target_N, 1 / bounds[1], 1 / bounds[0])


def _lowest_loss(logits_NC: Tensor, target_N: Tensor, low: float, high: float) -> float:
    """The inverse temperature within [low, high] at which the derivative of the loss is 0."""
    if _derivatives(logits_NC, target_N, low)[0] >= 0:
        return low
    if _derivatives(logits_NC, target_N, high)[0] <= 0:
        return high
    inverse = 1.0
    for _ in range(_ITERATIONS):
        slope, curvature = _derivatives(logits_NC, target_N, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low * high) ** 0.5
        if abs(following - inverse) <= _ACCURACY * inverse:
            return following
        inverse = following
    return inverse


def _derivatives(logits_NC: Tensor, target_N: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean loss by the inverse temperature."""
    probs_NC = torch.softmax(logits_NC * inverse, dim=-1)
    mean_N = (probs_NC * logits_NC).sum(-1)
    variance_N = (probs_NC * (logits_NC - mean_N.unsqueeze(1)).square()).sum(-1)
    return float((mean_N - target_N).mean()), float(variance_N.mean())
