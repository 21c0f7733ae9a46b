"""Losses between Gaussian policies: means, then logarithms of standard deviations.

Shape suffixes: N units, A numbers of an action.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import prepare_equal

LOG_STD = (-10.0, 5.0)
"""Between these a logarithm of a standard deviation counts; beyond them it has no gradient and the loss stays finite."""


def gaussian_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of Gaussians with independent numbers, in nats.

    Σ_a log(σ_s/σ_t) + (σ_t² + (μ_t − μ_s)²)/(2σ_s²) − ½. Kullback & Leibler 1951.

    Args:
        student: [N, 2A], A means and then A logarithms of standard deviations.
        teacher: the same shape; detached.

    Returns:
        loss_N in [0, ∞).

    Raises:
        ValueError: shapes differ, or an odd number of columns.
    """
    (mean_s, log_std_s), (mean_t, log_std_t) = _parts(student, teacher)
    ratio = (2 * (log_std_t - log_std_s)).exp()
    distance = ((mean_t - mean_s) * (-log_std_s).exp()).square()
    return (log_std_s - log_std_t + (ratio + distance - 1) / 2).sum(1)


def huber_means(student: Tensor, teacher: Tensor, *, delta: float = 1.0) -> Tensor:
    """Huber loss of the means: mean_a h(μ_s − μ_t), h(x) = x²/2 for |x| ≤ δ, else δ(|x| − δ/2). Huber 1964.

    Args:
        student: [N, 2A] as of `gaussian_kl`.
        teacher: the same shape; detached.
        delta: δ > 0, in the unit of the actions.

    Returns:
        loss_N in [0, ∞).

    Raises:
        ValueError: shapes differ, or an odd number of columns; δ not above 0.
    """
    if delta <= 0:
        raise ValueError(f"delta must be above 0, found {delta}")
    (mean_s, _), (mean_t, _) = _parts(student, teacher)
    return F.huber_loss(mean_s, mean_t, reduction="none", delta=delta).mean(1)


def _parts(student: Tensor, teacher: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Means and bounded logarithms of standard deviations [N, A] of both."""
    student_NC, teacher_NC = prepare_equal(student, teacher)
    if student_NC.ndim != 2 or student_NC.shape[1] % 2:
        raise ValueError(f"needs [N, 2A], means and logarithms of standard deviations; found {list(student_NC.shape)}")  # fmt: skip
    own, other = student_NC.chunk(2, dim=1), teacher_NC.chunk(2, dim=1)
    return (own[0], own[1].clamp(*LOG_STD)), (other[0], other[1].clamp(*LOG_STD))
