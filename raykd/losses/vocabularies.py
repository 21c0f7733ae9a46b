"""Losses between models that do not share their classes.

Shape suffixes: N units, C classes of the student, V of the teacher, S spans (`raykd.spans`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import Temperature, prepare, prepare_equal, scaled, standardised, tempered

_SURE = -1e-6


def uld(
    student: Tensor, teacher: Tensor, *, temperature: Temperature = 1.0, standardise: bool = False
) -> Tensor:
    """Distance between the sorted probabilities of two vocabularies, the shorter filled up with zeros.

    loss_n = T² Σ_i |p_(i) − q_(i)|, p_(1) ≥ p_(2) ≥ …; it is Wasserstein's distance where every class is as
    far from every other. Boizard et al. 2024 (Universal Logit Distillation). Theirs has no factor T²; at T = 1
    there is no difference. Which class has which probability does not count, so that between equal
    vocabularies it is 0 for a student that has exchanged any two classes.

    Args:
        student: logits [N, C].
        teacher: logits [N, V] at the same units; detached.
        temperature: T > 0, see `raykd.losses.logits.kl`.
        standardise: z-score both logits first.

    Returns:
        loss_N in [0, 2T²].

    Raises:
        ValueError: not [N, C] and [N, V]; temperature not above 0.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}; logits [N, C] and "
            "[N, V] of the same units are needed"
        )
    student_NC, teacher_NV = prepare(student, teacher)
    if standardise:
        student_NC, teacher_NV = standardised(student_NC), standardised(teacher_NV)
    q_NC = tempered(student_NC, temperature).softmax(-1).sort(-1, descending=True).values
    p_NV = tempered(teacher_NV, temperature).softmax(-1).sort(-1, descending=True).values
    more = p_NV.shape[1] - q_NC.shape[1]
    difference_N = (F.pad(p_NV, (0, max(0, -more))) - F.pad(q_NC, (0, max(0, more)))).abs().sum(-1)
    return scaled(difference_N, temperature)


def span_likelihood(
    student_log_probs: Tensor, teacher_log_probs: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """KL between what both models give to a span and to everything else, for teachers of another vocabulary.

    loss_s = a log(a/b) + (1−a) log((1−a)/(1−b)), with a = p(span)^(1/τ) of the teacher and b that of the
    student. Minixhofer et al. 2025 (Approximate Likelihood Matching), their binarised f-divergence with KL. With
    τ = 1 a long span that both find unlikely counts for little; a larger τ compares their log-probabilities.

    Args:
        student_log_probs: [S], log-probability of each span, see `raykd.spans.span_log_probs`.
        teacher_log_probs: [S], of the same spans; detached.
        temperature: τ > 0.

    Returns:
        loss_S in [0, ∞) nats, at least float32; NaN where either is. Above 1 − 1e-6 a probability counts as that.

    Raises:
        ValueError: shapes differ; temperature not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    student_S, teacher_S = prepare_equal(student_log_probs, teacher_log_probs)
    log_b_S, log_a_S = (x.div(temperature).clamp(max=_SURE) for x in (student_S, teacher_S))
    other_a_S, other_b_S = _log_rest(log_a_S), _log_rest(log_b_S)
    return log_a_S.exp() * (log_a_S - log_b_S) + other_a_S.exp() * (other_a_S - other_b_S)


def _log_rest(log_p: Tensor) -> Tensor:
    """log(1 − p), with all digits at both ends."""
    near = log_p > -math.log(2)
    by_difference = torch.where(near, log_p, -1.0).expm1().neg().log()
    return torch.where(near, by_difference, torch.where(near, -1.0, log_p).exp().neg().log1p())
