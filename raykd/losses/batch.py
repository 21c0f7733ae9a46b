"""Losses between the statistics of a batch: MLKD's class and sample relations, and ITRD's two terms.

Shape suffixes: B local batch, A batch of all workers (A = B without `gather`), N units, C classes, D features.
Each function gives one value per local row whose mean over all rows of all workers is the published scalar; with
`gather` it does not depend on the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raykd.losses.common import (
    Gather,
    Temperature,
    gathered,
    prepare,
    prepare_logits,
    product,
    tempered,
    unit,
)
from raykd.losses.correlation import correlation


def mlkd_class(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Temperature = 1.0,
    standardise: bool = False,
    per_sample: bool = False,
    gather: Gather | None = None,
) -> Tensor:
    """Class relations of multi-level logit distillation: equal products of the classes' probabilities.

    loss = ‖PᵀP − QᵀQ‖² / C with the tempered probabilities P (teacher) and Q (student) of the batch; one number,
    given to every row. Jin et al. 2023 (MLKD), without a factor T². PᵀP is a sum over the batch, so that the
    published value grows with the square of its size: `per_sample` divides both products by it.

    Args:
        student: logits [B, C].
        teacher: logits [B, C]; detached.
        temperature: T > 0; the authors take the mean over T = 2, 3, 4, 5 and 6.
        standardise: z-score both logits first.
        per_sample: divide the products by the number of rows; of equal strength at any batch size.
        gather: rows of all workers.

    Returns:
        loss_B in [0, ∞), without unit.

    Raises:
        ValueError: shapes differ or are not [B, C]; temperature not above 0.
    """
    q_BC, p_BC = _probabilities(student, teacher, temperature, standardise)
    q_AC, p_AC = gathered(q_BC, gather), gathered(p_BC, gather)
    difference_CC = product(p_AC.T, p_AC) - product(q_AC.T, q_AC)
    if per_sample:
        difference_CC = difference_CC / max(len(q_AC), 1)
    return (difference_CC.square().sum() / q_BC.shape[1]).expand(len(q_BC))


def mlkd_batch(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Temperature = 1.0,
    standardise: bool = False,
    gather: Gather | None = None,
) -> Tensor:
    """Sample relations of multi-level logit distillation: equal products of the samples' probabilities.

    loss_i = Σ_j (⟨p_i, p_j⟩ − ⟨q_i, q_j⟩)², so that the mean is ‖PPᵀ − QQᵀ‖² / B. Jin et al. 2023 (MLKD),
    without a factor T².

    Args:
        student: logits [B, C].
        teacher: logits [B, C]; detached.
        temperature: T > 0; the authors take the mean over T = 2, 3, 4, 5 and 6.
        standardise: z-score both logits first.
        gather: rows of all workers.

    Returns:
        loss_B in [0, A], without unit.

    Raises:
        ValueError: as `mlkd_class`.
    """
    q_BC, p_BC = _probabilities(student, teacher, temperature, standardise)
    q_AC, p_AC = gathered(q_BC, gather), gathered(p_BC, gather)
    return (product(p_BC, p_AC.T) - product(q_BC, q_AC.T)).square().sum(1)


def itrd(
    student: Tensor, teacher: Tensor, *, alpha: float = 1.5, gather: Gather | None = None
) -> Tensor:
    """Information-theoretic representation distillation: every feature correlates with the teacher's.

    loss = log₂ Σ_d |c_d − 1|^{2α}, c_d the correlation of feature d over the batch; one number, given to every row.
    Miles et al. 2022 (ITRD) As in the authors' code the deviations are unbiased and the products are divided
    by A, so that c_d is at most 1 − 1/A and the loss at least log₂ D − 2α log₂ A, which it is at student = teacher.
    A feature that does not vary, which is NaN in that code, has correlation 0 and gets no gradient.

    Args:
        student: projected features [B, ...], flattened to [B, D].
        teacher: the same shape; detached.
        alpha: α > 0.
        gather: rows of all workers.

    Returns:
        loss_B in [log₂ D − 2α log₂ A, log₂ D + 2α], in bits; log₂ D with one row.

    Raises:
        ValueError: shapes differ; α not above 0.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, found {alpha}")
    if student.shape != teacher.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}; they must be equal: "
            "project the student first"
        )
    student_BD, teacher_BD = (x.flatten(1) for x in prepare(student, teacher))
    student_AD, teacher_AD = gathered(student_BD, gather), gathered(teacher_BD, gather)
    rows = max(len(student_AD), 1)
    correlation_D = correlation(student_AD, teacher_AD, dim=0) * ((rows - 1) / rows)
    missing_D = (1 - correlation_D).abs()
    return missing_D.pow(2 * alpha).sum().log2().expand(len(student_BD))


def itrd_mutual(student: Tensor, teacher: Tensor, *, gather: Gather | None = None) -> Tensor:
    """The second term of ITRD: similarities between samples that the teacher's do not share are taken away.

    loss = Σ_ij (Ĝ_ij² − Ĥ_ij²), with G the cosines between the student's rows, H those times the teacher's, and both
    divided by their trace. Miles et al. 2022 (ITRD) It is an entropy less a mutual information, so that it
    is not 0 at student = teacher. A row of zeros is alike to none.

    Args:
        student: features [B, ...]; the width is free.
        teacher: features [B, ...]; detached.
        gather: rows of all workers.

    Returns:
        loss_B ≥ 0, without unit; their mean over all rows is the published scalar.

    Raises:
        ValueError: different batch sizes.
    """
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} rows and teacher {len(teacher)}")
    student_BD, teacher_BD = (unit(x.flatten(1), dim=1) for x in prepare(student, teacher))
    student_AD, teacher_AD = gathered(student_BD, gather), gathered(teacher_BD, gather)
    own_BA = product(student_BD, student_AD.T)
    joint_BA = own_BA * product(teacher_BD, teacher_AD.T)
    own_A, theirs_A = student_AD.square().sum(1), teacher_AD.square().sum(1)
    own_trace, joint_trace = own_A.sum(), (own_A * theirs_A).sum()
    own_BA = own_BA / torch.where(own_trace > 0, own_trace, 1.0)
    joint_BA = joint_BA / torch.where(joint_trace > 0, joint_trace, 1.0)
    return len(student_AD) * (own_BA.square() - joint_BA.square()).sum(1)


def _probabilities(
    student: Tensor, teacher: Tensor, temperature: Temperature, standardise: bool
) -> tuple[Tensor, Tensor]:
    student_BC, teacher_BC = prepare_logits(student, teacher, standardise=standardise)
    return (
        tempered(student_BC, temperature).softmax(-1),
        tempered(teacher_BC, temperature).softmax(-1),
    )
