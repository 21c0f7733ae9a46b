"""Losses between class distributions: KL both ways, Jensen-Shannon, skewed KL, MSE, decoupled KD.

Shape suffixes: N units, C classes. p is the teacher's distribution and q the student's, both
softmax(z / T) computed in log space; every divergence is in nats, summed over classes and
multiplied by T². Logits must be finite.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import (
    Temperature,
    check_class_labels,
    prepare_equal,
    prepare_logits,
    scaled,
    standardised,
    tempered,
)


def kl(
    student: Tensor, teacher: Tensor, *, temperature: Temperature = 1.0, standardise: bool = False
) -> Tensor:
    """Forward Kullback-Leibler divergence, the loss of classic knowledge distillation.

    loss_n = T² Σ_c p_c (log p_c − log q_c). Hinton, Vinyals & Dean 2015, Sec. 2; their cross
    entropy differs from it by the teacher's entropy, which has no gradient.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        temperature: T > 0; a number, a tensor of one element, or [N, 1]. May require a gradient.
        standardise: z-score both logits first (Sun et al. 2024), see `common.standardised`.

    Returns:
        loss_N in [0, ∞) nats, at least float32.

    Raises:
        ValueError: shapes differ or are not [N, C]; temperature not above 0.
    """
    log_q_NC, log_p_NC = _log_probs(student, teacher, temperature, standardise)
    return scaled(divergence_of(log_p_NC, log_q_NC), temperature)


def kl_from_log_probs(
    student: Tensor,
    teacher_log_probs: Tensor,
    *,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Forward KL to a target that is already a tempered log distribution (a mixed ensemble).

    loss_n = T² Σ_c p_c (log p_c − log q_c), where only q is tempered here. By the identity
    Σ_k w_k KL(p_k ‖ q) = KL(Σ_k w_k p_k ‖ q) + JSD_w it has the gradient of the weighted sum of the
    teachers' own losses.

    Args:
        student: logits [N, C].
        teacher_log_probs: log p [N, C] at this temperature, finite; detached.
        temperature: T > 0 of the student, and the factor T².
        standardise: z-score the student's logits first; the target is taken as it is.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes differ; temperature not above 0.
    """
    student_NC, log_p_NC = prepare_equal(student, teacher_log_probs)
    student_NC = standardised(student_NC) if standardise else student_NC
    log_q_NC = F.log_softmax(tempered(student_NC, temperature), dim=-1)
    return scaled(divergence_of(log_p_NC, log_q_NC), temperature)


def reverse_kl(
    student: Tensor, teacher: Tensor, *, temperature: Temperature = 1.0, standardise: bool = False
) -> Tensor:
    """Reverse Kullback-Leibler divergence: the student avoids what the teacher finds unlikely.

    loss_n = T² Σ_c q_c (log q_c − log p_c). Gu et al. 2024 (MiniLLM), Sec. 2. Its ensemble target
    is the average of logits, not of probabilities.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        temperature: T > 0, see `kl`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: as `kl`.
    """
    log_q_NC, log_p_NC = _log_probs(student, teacher, temperature, standardise)
    return scaled(divergence_of(log_q_NC, log_p_NC), temperature)


def js(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Generalised Jensen-Shannon divergence, normalised so that β does not act as a weight.

    loss_n = T² [β KL(p ‖ m) + (1−β) KL(q ‖ m)] / (4β(1−β)), with m = βp + (1−β)q. The divergence
    is that of Agarwal et al. 2024 (GKD); it vanishes for β→0 and β→1. The factor 1/(4β(1−β)) is
    ours: it is 1 at β = ½, gives every β the same curvature around student = teacher (a quarter of
    KL's), and makes the limits KL(p ‖ q)/4 and KL(q ‖ p)/4. Probabilities are mixed, not their
    logarithms. GKD has no factor T²; at T = 1 there is no difference.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        beta: weight of the teacher in m, 0 < β < 1.
        temperature: T > 0, see `kl`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats; at most T² ln 2 at β = ½.

    Raises:
        ValueError: β outside (0, 1); otherwise as `kl`.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must be within (0, 1), found {beta}; use kl or reverse_kl instead")
    log_q_NC, log_p_NC = _log_probs(student, teacher, temperature, standardise)
    log_m_NC = log_mixture_of(log_p_NC, log_q_NC, beta)
    towards_p_N = divergence_of(log_p_NC, log_m_NC)
    towards_q_N = divergence_of(log_q_NC, log_m_NC)
    jsd_N = beta * towards_p_N + (1 - beta) * towards_q_N
    return scaled(jsd_N / (4 * beta * (1 - beta)), temperature)


def skew_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    alpha: float = 0.1,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Skewed forward KL: the student is mixed with a little of the teacher, so gradients are bounded.

    loss_n = T² KL(p ‖ αp + (1−α)q). Ko et al. 2024 (DistiLLM). We follow the paper: the authors'
    code leaves out the teacher's entropy (no gradient), so its values are cross entropies; it has
    no factor T² either.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        alpha: share of the teacher, 0 ≤ α < 1; 0 is `kl`.
        temperature: T > 0, see `kl`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, −T² ln α] nats.

    Raises:
        ValueError: α outside [0, 1); otherwise as `kl`.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be within [0, 1), found {alpha}")
    log_q_NC, log_p_NC = _log_probs(student, teacher, temperature, standardise)
    log_m_NC = log_mixture_of(log_p_NC, log_q_NC, alpha) if alpha > 0 else log_q_NC
    return scaled(divergence_of(log_p_NC, log_m_NC), temperature)


def mse(
    student: Tensor,
    teacher: Tensor,
    *,
    centred: bool = False,
    standardise: bool = False,
    temperature: Temperature = 1.0,
) -> Tensor:
    """Mean squared difference of logits or of predicted values.

    loss_n = mean_c (z_s − z_t)²; with `centred`, of the logits minus their mean over classes, so
    that an offset that the softmax ignores costs nothing. Ba & Caruana 2014, Sec. 2.2 (up to their
    factor ½). The temperature cancels, T² ((z_s − z_t)/T)² = (z_s − z_t)²: it is accepted so that
    all logit losses can be called alike.

    Args:
        student: logits or values [N, C], or values [N].
        teacher: the same shape; detached.
        centred: subtract each row's mean first (logits only).
        standardise: z-score both logits first (which centres too; logits only).
        temperature: without effect.

    Returns:
        loss_N in [0, ∞), squared units of the input.

    Raises:
        ValueError: shapes differ, or `centred` or `standardise` with an input that is not [N, C].
    """
    del temperature
    if centred or standardise:
        student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
        difference_NC = student_NC - teacher_NC
        return (difference_NC - difference_NC.mean(-1, keepdim=True)).square().mean(-1)
    student_NC, teacher_NC = prepare_equal(student, teacher)
    return (student_NC - teacher_NC).square().reshape(len(student), -1).mean(-1)


def dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: Temperature = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Decoupled knowledge distillation: target class and other classes are weighted apart.

    loss_n = T² [α TCKD + β NCKD]; TCKD is the KL between (p_y, 1−p_y) and (q_y, 1−q_y), NCKD the
    KL between the distributions over the other classes. KL = TCKD + (1−p_y) NCKD. Zhao et al. 2022,
    Sec. 3. An unlabelled sample (−1) gets the plain T² KL. With two classes NCKD is 0. The
    authors' code takes the logarithm of a softmax that underflows and hides the target class by
    −1000; here all is in log space and the target class is left out, with equal values where
    theirs are finite. Their linear warm-up over 20 epochs is a schedule of the caller.

    Args:
        student: logits [N, C], C ≥ 2.
        teacher: logits [N, C]; detached.
        labels: int64 [N], −1 where unlabelled.
        alpha: weight of TCKD.
        beta: weight of NCKD; the authors use 0.5 to 8 by pair of networks.
        temperature: T > 0, see `kl`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes differ, labels are not [N], fewer than two classes.
    """
    student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
    check_class_labels(labels, student_NC)
    class_N1 = labels.clamp_min(0).unsqueeze(1)
    q_target_N, q_rest_N, q_others_NC = _decoupled(tempered(student_NC, temperature), class_N1)
    p_target_N, p_rest_N, p_others_NC = _decoupled(tempered(teacher_NC, temperature), class_N1)
    target_kd_N = divergence_of(
        torch.stack((p_target_N, p_rest_N), dim=-1), torch.stack((q_target_N, q_rest_N), dim=-1)
    )
    is_target_NC = torch.zeros_like(p_others_NC, dtype=torch.bool).scatter_(1, class_N1, True)
    other_kd_N = (
        F.kl_div(q_others_NC, p_others_NC, reduction="none", log_target=True)
        .masked_fill(is_target_NC, 0.0)
        .sum(-1)
    )
    decoupled_N = alpha * target_kd_N + beta * other_kd_N
    plain_N = target_kd_N + p_rest_N.exp() * other_kd_N
    return scaled(torch.where(labels >= 0, decoupled_N, plain_N), temperature)


def _decoupled(logits_NC: Tensor, class_N1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log p_y, log(1 − p_y) and the log distribution over the other classes (0 at y)."""
    target_N = logits_NC.gather(1, class_N1).squeeze(1)
    others_NC = logits_NC.scatter(1, class_N1, float("-inf"))
    rest_N = others_NC.logsumexp(-1)
    total_N = torch.logaddexp(target_N, rest_N)
    log_others_NC = (logits_NC - rest_N.unsqueeze(1)).scatter(1, class_N1, 0.0)
    return target_N - total_N, rest_N - total_N, log_others_NC


def _log_probs(
    student: Tensor, teacher: Tensor, temperature: Temperature, standardise: bool
) -> tuple[Tensor, Tensor]:
    student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
    log_q_NC = F.log_softmax(tempered(student_NC, temperature), dim=-1)
    return log_q_NC, F.log_softmax(tempered(teacher_NC, temperature), dim=-1)


def divergence_of(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, from log probabilities."""
    return F.kl_div(log_q_NC, log_p_NC, reduction="none", log_target=True).sum(-1)


def log_mixture_of(log_p_NC: Tensor, log_q_NC: Tensor, share: float) -> Tensor:
    """Log of share·p + (1−share)·q."""
    return torch.logaddexp(log_p_NC + math.log(share), log_q_NC + math.log1p(-share))
