"""Losses between models that do not share their classes.

Shape suffixes: N units, C classes of the student, V of the teacher.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import Temperature, prepare, scaled, standardised, tempered


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
