"""Losses between predicted values: Huber, teacher-bounded, attentive imitation.

Shape suffixes: N units, D outputs. Values are [N] or [N, D]; a label that is NaN (in any output)
means unlabelled. ‖·‖² sums over outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import at_least_float32, prepare_equal


def huber(student: Tensor, teacher: Tensor, *, delta: float = 1.0) -> Tensor:
    """Huber loss between the predictions of student and teacher.

    loss_n = mean_d h(s − t), h(a) = a²/2 for |a| ≤ δ, else δ(|a| − δ/2). Huber 1964.

    Args:
        student: values [N] or [N, D].
        teacher: the same shape; detached.
        delta: δ > 0, in the unit of the values.

    Returns:
        loss_N in [0, ∞).

    Raises:
        ValueError: shapes differ; δ not above 0.
    """
    student_ND, teacher_ND = _columns(student, teacher)
    if delta <= 0:
        raise ValueError(f"delta must be above 0, found {delta}")
    return F.huber_loss(student_ND, teacher_ND, reduction="none", delta=delta).mean(1)


def bounded(student: Tensor, teacher: Tensor, *, labels: Tensor, margin: float = 0.0) -> Tensor:
    """Teacher-bounded regression: the label teaches, until the student beats the teacher.

    loss_n = ‖s − y‖² if ‖s − y‖² + m > ‖t − y‖², else 0. Chen et al. 2017 (Learning Efficient
    Object Detection Models with Knowledge Distillation). Only the bounded term: their smooth-L1
    to the label is the caller's label term. An unlabelled sample gives 0 without gradient.

    Args:
        student: values [N] or [N, D].
        teacher: the same shape; detached.
        labels: true values y, the same shape; NaN where unlabelled.
        margin: m, in squared units of the values.

    Returns:
        loss_N in [0, ∞), squared units.

    Raises:
        ValueError: shapes differ.
    """
    student_ND, teacher_ND = _columns(student, teacher)
    labels_ND, labelled_N = _known(labels, student)
    student_error_N = (student_ND - labels_ND).square().sum(1)
    teacher_error_N = (teacher_ND - labels_ND).square().sum(1)
    active_N = labelled_N & (student_error_N + margin > teacher_error_N)
    return torch.where(active_N, student_error_N, 0.0)


def imitation(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor,
    error_range: float | Tensor,
    alpha: float = 0.5,
) -> Tensor:
    """Attentive imitation: the teacher is followed where it is right.

    loss_n = α‖s − y‖² + (1−α) Φ_n ‖s − t‖², Φ_n = 1 − ‖t − y‖²/η. Saputra et al. 2019 (Distilling
    Knowledge From a Deep Pose Regressor Network). η is the range of the teacher's squared error
    over the training set. Φ is clamped at 0, or a sample with an error above η would push the
    student away from the teacher. An unlabelled sample gives (1−α)‖s − t‖².

    Args:
        student: values [N] or [N, D].
        teacher: the same shape; detached.
        labels: true values y, the same shape; NaN where unlabelled.
        error_range: η > 0, squared units of the values.
        alpha: share of the label, within [0, 1].

    Returns:
        loss_N in [0, ∞), squared units.

    Raises:
        ValueError: shapes differ; α outside [0, 1]; η not above 0.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within [0, 1], found {alpha}")
    if not isinstance(error_range, Tensor) and error_range <= 0:
        raise ValueError(f"error_range must be above 0, found {error_range}")
    student_ND, teacher_ND = _columns(student, teacher)
    labels_ND, labelled_N = _known(labels, student)
    label_term_N = torch.where(labelled_N, (student_ND - labels_ND).square().sum(1), 0.0)
    teacher_error_N = (teacher_ND - labels_ND).square().sum(1)
    trust_N = torch.where(labelled_N, (1 - teacher_error_N / error_range).clamp_min(0.0), 1.0)
    teacher_term_N = (student_ND - teacher_ND).square().sum(1)
    return alpha * label_term_N + (1 - alpha) * trust_N * teacher_term_N


def _columns(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student_ND, teacher_ND = prepare_equal(student, teacher)
    return student_ND.reshape(len(student), -1), teacher_ND.reshape(len(teacher), -1)


def _known(labels: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [N, D] with 0 for those unknown, and which samples are labelled."""
    if labels.shape != student.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, predictions {tuple(student.shape)}; they "
            "must be equal"
        )
    labels_ND = at_least_float32(labels.detach()).reshape(len(labels), -1)
    labelled_N = ~labels_ND.isnan().any(1)
    return torch.where(labelled_N.unsqueeze(1), labels_ND, 0.0), labelled_N
