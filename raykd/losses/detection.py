"""Losses of detectors that answer at fixed locations.

Shape suffixes: N units (locations), C classes, 4 edges, K bins of an edge's distance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.detection.boxes import generalised_iou
from raykd.losses.common import prepare_equal


def quality_focal(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, known_C: Tensor | None = None
) -> Tensor:
    """Dense logits against a teacher's, in the quality-focal form.

    loss_n = Σ_c |q_c − p_c|^β BCE(q_c, p_c), q = σ(student), p = σ(teacher). Li et al. 2020 (generalised focal loss),
    eq. 4, with the teacher's probability in place of the quality; β = 1 in the code of CrossKD (Wang et al. 2024), 2 in
    that of the generalised focal loss. The factor is part of the loss and has a gradient, as in both.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        beta: β ≥ 0.
        known_C: bool [C] or [N, C], the classes that the teacher knows; the others add nothing, so that a class it has
            never seen is not learnt to be background. None is all of them.

    Returns:
        loss_N in [0, ∞) nats. Their sum is divided by Σ_n max_c p_nc where it is to be as published.

    Raises:
        ValueError: shapes differ; β below 0.
    """
    student_NC, teacher_NC = prepare_equal(student, teacher)
    return soft_focal(student_NC, teacher_NC.sigmoid(), beta=beta, known_C=known_C)


def soft_focal(
    student: Tensor, target: Tensor, *, beta: float = 2.0, known_C: Tensor | None = None
) -> Tensor:
    """Dense logits against soft targets: Σ_c |q_c − y_c|^β BCE(q_c, y_c).

    As `quality_focal`, of probabilities: the score of a fused box at its locations and 0 elsewhere, or a label as 1.

    Args:
        student: logits [N, C].
        target: probabilities [N, C]; detached.
        beta: β ≥ 0.
        known_C: bool [C] or [N, C]; the others add nothing.

    Raises:
        ValueError: shapes differ; β below 0.
    """
    if beta < 0:
        raise ValueError(f"beta must be at least 0, found {beta}")
    student_NC, target_NC = prepare_equal(student, target)
    away = (student_NC.sigmoid() - target_NC).abs()
    # at 0 the power has no finite gradient for β below 1, and none that matters: there the cross-entropy's is 0, too
    factor = torch.where(away > 0, away, 1.0).pow(beta) * (away > 0) if beta else 1.0
    loss_NC = factor * F.binary_cross_entropy_with_logits(student_NC, target_NC, reduction="none")
    return (loss_NC if known_C is None else torch.where(known_C, loss_NC, 0.0)).sum(1)


def giou(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − GIoU of boxes: how far the student's box is from the teacher's. Rezatofighi et al. 2019, algorithm 2.

    Args:
        student: corners [N, 4].
        teacher: corners [N, 4]; detached.

    Returns:
        loss_N in [0, 2).

    Raises:
        ValueError: shapes differ.
    """
    return 1 - generalised_iou(*prepare_equal(student, teacher))


def localisation(student: Tensor, teacher: Tensor, *, temperature: float = 10.0) -> Tensor:
    """Localisation distillation: distributions of the edges' distances.

    loss_n = T² Σ_e KL(softmax(t_e / T) ‖ softmax(s_e / T)), over the four edges, KL summed over the bins. Zheng et al. 2022
    (LD), eq. 5 and 6; theirs: T = 10. The authors' code takes the mean over the bins in place of the sum, so that it
    is a K-th of this: their weight 0.25 at 17 bins is 0.25/17 here.

    Args:
        student: logits [N, 4, K].
        teacher: logits [N, 4, K]; detached.
        temperature: T > 0.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes differ, or are not [N, 4, K]; T not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    student_N4K, teacher_N4K = prepare_equal(student, teacher)
    if student_N4K.ndim != 3 or student_N4K.shape[1] != 4:
        raise ValueError(f"edges need logits [N, 4, K], found {list(student_N4K.shape)}")
    log_q = (student_N4K / temperature).log_softmax(-1)
    log_p = (teacher_N4K / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum((1, 2))
