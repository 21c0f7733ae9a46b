"""DIST: a loss that is blind to the scale of the predictions.

Shape suffixes: N units, A units of all workers, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raykd.losses.common import Gather, Temperature, gathered, prepare_logits, scaled, tempered

_CONSTANT = 16  # a vector varies if its deviation exceeds this many rounding errors of its size


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: Temperature = 1.0,
    standardise: bool = False,
    eps: float = 0.0,
    gather: Gather | None = None,
) -> Tensor:
    """One minus Pearson correlation, of each sample over classes and of each class over samples.

    loss_n = T² [β (1 − ρ(p_n·, q_n·)) + γ mean_c (1 − ρ(p_·c, q_·c))]. Huang et al. 2022 (DIST).
    The second term is one number for the batch, given to every row. The factor T² is in the
    authors' code. That code also adds 1e-8 to the denominator of ρ, which damps classes of tiny
    probability at low temperature; we follow the paper (eps = 0). Where either vector is constant,
    ρ is defined as 0 with zero gradient. With two classes the row term is 0 or 2 and has no
    gradient.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        beta: weight of the row (inter-class) term.
        gamma: weight of the column (intra-class) term.
        temperature: T > 0, see `logits.kl`; one number for the batch if `gamma` is not 0.
        standardise: z-score both logits first.
        eps: added to the denominator of ρ; 1e-8 gives the authors' values.
        gather: rows of all workers, for the column term.

    Returns:
        loss_N in [0, 2T²(β + γ)], without unit.

    Raises:
        ValueError: shapes differ or are not [N, C]; temperature not above 0.
    """
    student_NC, teacher_NC = prepare_logits(student, teacher, standardise=standardise)
    q_NC = tempered(student_NC, temperature).softmax(-1)
    p_NC = tempered(teacher_NC, temperature).softmax(-1)
    rows_N = 1 - correlation(q_NC, p_NC, dim=1, eps=eps)
    q_AC, p_AC = gathered(q_NC, gather), gathered(p_NC, gather)
    columns_C = 1 - correlation(q_AC, p_AC, dim=0, eps=eps)
    return scaled(beta * rows_N + gamma * columns_C.mean(), temperature)


def correlation(left: Tensor, right: Tensor, *, dim: int, eps: float = 0.0) -> Tensor:
    """Pearson correlation along `dim`; 0 without gradient where a side is constant.

    Args:
        left: values of any shape.
        right: the same shape.
        dim: along which the two are compared.
        eps: added to the denominator.

    Returns:
        ρ in [−1, 1], of the shape without `dim`.
    """
    left_deviation, left_energy, left_varies = centred(left, dim)
    right_deviation, right_energy, right_varies = centred(right, dim)
    covariance = (left_deviation * right_deviation).sum(dim)
    ratio = covariance / ((left_energy * right_energy).sqrt() + eps)
    return torch.where(left_varies & right_varies, ratio, 0.0)


def centred(values: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations, their sum of squares (1 where constant), and where they are not constant."""
    deviation = values - values.mean(dim, keepdim=True)
    energy = deviation.square().sum(dim)
    rounding = _CONSTANT * torch.finfo(values.dtype).eps
    varies = energy > rounding**2 * values.square().sum(dim)
    return deviation, torch.where(varies, energy, 1.0), varies
