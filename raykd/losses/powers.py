"""Losses whose teacher is tempered by itself, or apart from its target class: TTM, WTTM and NKD.

Shape suffixes: N units, C classes. p is the teacher's distribution and q the student's, both at temperature 1
unless a formula says otherwise; all is computed in log space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import Temperature, check_class_labels, prepare_logits, scaled, tempered
from raykd.types import UNLABELLED


def ttm(
    student: Tensor,
    teacher: Tensor,
    *,
    gamma: float = 0.1,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Transformed teacher matching: the teacher is tempered, the student is not.

    loss_n = KL(p^γ / Σ_c p_c^γ ‖ q), without a factor T². Zheng & Yang 2024 (TTM); the power γ is 1/T on the
    teacher's side alone. γ = 1 is `kl` at T = 1.

    Args:
        student: logits [N, C].
        teacher: logits [N, C], or log probabilities; detached.
        gamma: γ > 0; the authors use 0.1 to 0.5.
        temperature: without effect: the student is compared at temperature 1.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats, at least float32.

    Raises:
        ValueError: shapes differ or are not [N, C]; γ not above 0.
    """
    del temperature
    log_q_NC, log_power_NC = _powers(student, teacher, gamma, standardise)
    return _divergence(log_power_NC.log_softmax(-1), log_q_NC)


def wttm(
    student: Tensor,
    teacher: Tensor,
    *,
    gamma: float = 0.1,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Weighted transformed teacher matching: unsure answers of the teacher count more.

    loss_n = U_n KL(p^γ / U_n ‖ q) with U_n = Σ_c p_c^γ. Zheng & Yang 2024 (TTM) U is 1 at γ = 1 and tends
    to C for γ → 0, so that the strength of the term grows with the number of classes; it is a constant of the
    teacher.

    Args:
        student: logits [N, C].
        teacher: logits [N, C], or log probabilities; detached.
        gamma: γ in (0, 1].
        temperature: without effect, as of `ttm`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: γ outside (0, 1]; otherwise as `ttm`.
    """
    del temperature
    if gamma > 1:
        raise ValueError(f"gamma must be within (0, 1], found {gamma}")
    log_q_NC, log_power_NC = _powers(student, teacher, gamma, standardise)
    power_sum_N = log_power_NC.logsumexp(-1).exp()
    return power_sum_N * _divergence(log_power_NC.log_softmax(-1), log_q_NC)


def nkd(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Normalised knowledge distillation: the other classes are compared as distributions of their own.

    loss_n = −p_y log q_y − γ T² Σ_{c≠y} P_c log Q_c, with P and Q the softmax of z/T over the classes but y. Yang et
    al. 2023 (NKD) Both parts are cross-entropies, so the value holds the teacher's entropy and is not 0 at
    student = teacher; the authors add the usual cross-entropy with the labels, which is a term of its own here. An
    unlabelled unit (−1) takes the teacher's most probable class as y. With two classes the second part is 0.

    Args:
        student: logits [N, C], C ≥ 2.
        teacher: logits [N, C], or log probabilities; detached.
        labels: int64 [N], −1 where unlabelled.
        gamma: γ, the weight of the other classes.
        temperature: T > 0 of the other classes; y is compared at temperature 1.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes differ, labels are not [N], fewer than two classes.
    """
    student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
    check_class_labels(labels, student_NC)
    class_N = torch.where(labels == UNLABELLED, teacher_NC.argmax(-1), labels)
    class_N1 = class_N.unsqueeze(1)
    target_p_N = teacher_NC.softmax(-1).gather(1, class_N1).squeeze(1)
    target_q_N = student_NC.log_softmax(-1).gather(1, class_N1).squeeze(1)
    log_q_NC = _without(tempered(student_NC, temperature), class_N1)
    log_p_NC = _without(tempered(teacher_NC, temperature), class_N1)
    is_target_NC = torch.zeros_like(log_p_NC, dtype=torch.bool).scatter_(1, class_N1, True)
    others_N = (log_p_NC.exp() * log_q_NC).masked_fill(is_target_NC, 0.0).sum(-1)
    return -target_p_N * target_q_N - gamma * scaled(others_N, temperature)


def _powers(
    student: Tensor, teacher: Tensor, gamma: float, standardise: bool
) -> tuple[Tensor, Tensor]:
    """Log q and γ log p, both [N, C]."""
    if gamma <= 0:
        raise ValueError(f"gamma must be above 0, found {gamma}")
    student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
    return student_NC.log_softmax(-1), gamma * teacher_NC.log_softmax(-1)


def _divergence(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    return F.kl_div(log_q_NC, log_p_NC, reduction="none", log_target=True).sum(-1)


def _without(logits_NC: Tensor, class_N1: Tensor) -> Tensor:
    """Log distribution over the classes but one; 0 at that one."""
    others_NC = logits_NC.scatter(1, class_N1, float("-inf"))
    return (logits_NC - others_NC.logsumexp(-1, keepdim=True)).scatter(1, class_N1, 0.0)
