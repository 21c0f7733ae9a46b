"""Losses of several foundation teachers: similarities to a queue of a teacher's vectors, and UNIC's mean with dropping.

Shape suffixes: B batch, Q vectors of a queue, D features, T teachers. They need more than a student's and a teacher's
feature (a queue, or the losses of all teachers), so that they are no loss of a recipe.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import prepare, prepare_equal, product, unit


def queue_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    queue: Tensor,
    student_temperature: float = 0.07,
    teacher_temperature: float = 0.07,
) -> Tensor:
    """How alike a sample is to many others, which a queue of the teacher's vectors stands for.

    loss_b = KL(softmax_j(cos(t, q_j) / τ_t) ‖ softmax_j(cos(s, q_j) / τ_s)). Fang et al. 2021 (SEED), which is its
    cross-entropy form with τ_s = 0.2, τ_t = 0.01; 0.07 are LightlyTrain's. A vector of zeros is an empty place of the
    queue, which counts nowhere: in published code, whose queue begins with zeros, these places make the first targets
    flat. Loss and gradient are 0 while the queue is empty.

    Args:
        student: projected vectors [B, D].
        teacher: [B, D]; detached.
        queue: the teacher's vectors of other samples, [Q, D]; detached.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.

    Returns:
        loss_B in [0, ∞) nats.

    Raises:
        ValueError: shapes differ or are not [B, D]; a temperature not above 0.
    """
    student_BD, teacher_BD = prepare_equal(student, teacher)
    if student_BD.ndim != 2 or queue.ndim != 2 or queue.shape[1] != student_BD.shape[1]:
        raise ValueError(
            f"vectors must be [B, D] and the queue [Q, D], found {tuple(student.shape)} and {tuple(queue.shape)}"
        )
    if min(student_temperature, teacher_temperature) <= 0:
        raise ValueError(
            f"temperatures must be above 0, found {student_temperature} and {teacher_temperature}"
        )
    queue_QD = unit(queue.detach().to(student_BD.dtype), dim=1)
    filled_Q = queue_QD.square().sum(1) > 0
    near_s_BQ = product(unit(student_BD, dim=1), queue_QD.T) / student_temperature
    near_t_BQ = product(unit(teacher_BD, dim=1), queue_QD.T) / teacher_temperature
    log_q_BQ, log_p_BQ = _over(near_s_BQ, filled_Q), _over(near_t_BQ, filled_Q)
    divergence_BQ = log_p_BQ.exp() * (log_p_BQ - log_q_BQ)
    return torch.where(filled_Q, divergence_BQ, 0.0).sum(1)


def unic_terms(
    student_class: Tensor,
    teacher_class: Tensor,
    student_patches: Tensor,
    teacher_patches: Tensor,
) -> Tensor:
    """What one teacher's features cost each image: half a cosine and half a smooth L1, of class token and patches.

    loss_b = ½ [ℓ(class) + mean_p ℓ(patch p)], ℓ = ½ (1 − cos) + ½ smooth-L1. Sariyildiz et al. 2024 (UNIC)
    The teacher's features are taken as they are: standardise them with statistics that are no part of what is stored.

    Args:
        student_class: projected class tokens [B, D].
        teacher_class: [B, D]; detached.
        student_patches: projected patch tokens [B, L, D].
        teacher_patches: [B, L, D]; detached.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ.
    """
    class_B = _half_and_half(*prepare_equal(student_class, teacher_class))
    patches_BL = _half_and_half(*prepare_equal(student_patches, teacher_patches))
    return 0.5 * (class_B + patches_BL.mean(1))


def unic_coefficients(losses_TB: Tensor, draws_TB: Tensor, *, probability: float = 0.5) -> Tensor:
    """Which teachers an image learns from: each is dropped with a probability, but the one of the largest loss.

    Args:
        losses_TB: what each teacher's features cost.
        draws_TB: uniform in [0, 1).
        probability: a draw below it drops the teacher.

    Returns:
        0 or 1 of each teacher and image, [T, B].
    """
    largest_TB = losses_TB.detach() == losses_TB.detach().amax(0, keepdim=True)
    return ((draws_TB >= probability) | largest_TB).to(losses_TB.dtype)


def unic(
    losses_TB: Tensor,
    draws_TB: Tensor,
    *,
    probability: float = 0.5,
    per_image: bool = True,
) -> Tensor:
    """The mean over the teachers that an image learns from.

    loss_b = Σ_k c_kb ℓ_kb / Σ_k c_kb, c of `unic_coefficients`. Sariyildiz et al. 2024 (UNIC) The
    authors' code divides by the sum over teachers *and* images, so that images of which more teachers are dropped count
    less: `per_image=False` gives that, as loss_b = B Σ_k c_kb ℓ_kb / Σ_kb c_kb. With probability 0 both are the mean.
    Dropping is for training alone.

    Args:
        losses_TB: what each teacher's features cost, e.g. `unic_terms`.
        draws_TB: uniform in [0, 1), the same on every resumption.
        probability: of dropping a teacher, in [0, 1].
        per_image: every image counts alike.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ or are not [T, B]; a probability outside [0, 1].
    """
    if losses_TB.ndim != 2 or draws_TB.shape != losses_TB.shape:
        raise ValueError(
            f"losses and draws must be [T, B], found {tuple(losses_TB.shape)} and {tuple(draws_TB.shape)}"
        )
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be within [0, 1], found {probability}")
    kept_TB = unic_coefficients(losses_TB, draws_TB, probability=probability)
    counts_B = kept_TB.sum(0)
    sums_B = (kept_TB * losses_TB).sum(0)
    return sums_B / (counts_B if per_image else counts_B.mean())


def unic_moments(
    mean_D: Tensor, std_D: Tensor, features_ND: Tensor, *, momentum: float
) -> tuple[Tensor, Tensor]:
    """Moving mean and deviation of a teacher's features, after one more batch.

    UNIC standardises a batch with the moments *before* its update (mean 0, deviation 1 for the first), DUNE with the
    batch's own: either way a target that depends on the batch, of which nothing may be stored.

    Args:
        mean_D: before.
        std_D: before.
        features_ND: of the batch, N ≥ 2.
        momentum: share of the batch; 1 for the first.

    Returns:
        mean and unbiased deviation [D].
    """
    return (
        (1 - momentum) * mean_D + momentum * features_ND.mean(0),
        (1 - momentum) * std_D + momentum * features_ND.std(0),
    )


def _half_and_half(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = prepare(student, teacher)
    cosine = (unit(student, dim=-1) * unit(teacher, dim=-1)).sum(-1)
    return 0.5 * (1 - cosine) + 0.5 * F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)


def _over(near_BQ: Tensor, filled_Q: Tensor) -> Tensor:
    """Log softmax over the filled places; 0 at the others."""
    lowest = torch.finfo(near_BQ.dtype).min
    masked_BQ = torch.where(filled_Q, near_BQ, lowest)
    return torch.where(filled_Q, masked_BQ.log_softmax(-1), 0.0)
