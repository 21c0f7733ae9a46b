"""Losses between maps or tokens, position by position: CWD, PKD, token similarities, SimKD.

Shape suffixes: B batch, A batch of all workers, C channels, P positions (H·W or L). Features are maps [B, C, H, W]
or tokens [B, L, D], of which D are the channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raykd.losses.common import Gather, gathered, prepare, prepare_equal, product, unit
from raykd.losses.correlation import centred
from raykd.losses.features import channels_first, hint, pooled, positioned

_STD_EPS = 1e-6  # the constant of the PKD authors' code, part of its values
_ROUNDING = 16
"""A channel varies if its deviations are more than so many roundings of its values."""


def cwd(
    student: Tensor, teacher: Tensor, *, tau: float = 1.0, mask_BP: Tensor | None = None
) -> Tensor:
    """Channel-wise distillation: where in the image each channel is active, as a distribution over positions.

    loss_b = τ² mean_c KL(softmax_p(t_cp / τ) ‖ softmax_p(s_cp / τ)). Shu et al. 2021 (CWD), divided by B·C as
    in the authors' code. Theirs: τ = 1 for features, 4 for maps of logits.

    Args:
        student: projected maps [B, C, H, W] or tokens [B, L, D].
        teacher: the same shape; detached.
        tau: τ > 0.
        mask_BP: w ≥ 0, how much each position counts: both distributions are w exp(·/τ) / Σ, so that a position of weight
            0 is in neither. An image without any weight has the loss 0. None = all positions alike.

    Returns:
        loss_B in [0, ∞) nats.

    Raises:
        ValueError: shapes differ, or no positions; τ not above 0; the mask does not fit.
    """
    if tau <= 0:
        raise ValueError(f"tau must be above 0, found {tau}")
    student_BCP, teacher_BCP = positioned(*prepare_equal(student, teacher))
    if mask_BP is not None:
        return tau**2 * _divergence_within(student_BCP / tau, teacher_BCP / tau, mask_BP).mean(1)
    log_q_BCP = (student_BCP / tau).log_softmax(-1)
    log_p_BCP = (teacher_BCP / tau).log_softmax(-1)
    divergence_BC = (log_p_BCP.exp() * (log_p_BCP - log_q_BCP)).sum(-1)
    return tau**2 * divergence_BC.mean(1)


def pkd(
    student: Tensor,
    teacher: Tensor,
    *,
    gather: Gather | None = None,
    mask_BP: Tensor | None = None,
) -> Tensor:
    """Pearson distillation: squared difference of maps that are standardised per channel.

    loss_b = ½ mean_cp (ŝ − t̂)², ŝ and t̂ with mean 0 and deviation 1 of each channel over the batch and all positions.
    Cao et al. 2022 (PKD); as in the authors' code the deviation is unbiased and 1e-6 is added to it. The mean is
    1 − the mean correlation of the channels, up to n/(n − 1). A channel that does not vary becomes 0.

    Args:
        student: projected features [B, C, H, W], [B, L, D] or [B, D].
        teacher: the same shape; detached.
        gather: rows of all workers.
        mask_BP: w ≥ 0, how much each position counts, in the means and deviations of the channels (Σ w in place of n) and
            in the mean over positions of each image; one without any weight has the loss 0. None = all alike.

    Returns:
        loss_B in [0, ∞); without a mask their mean over all rows is in [0, 2].

    Raises:
        ValueError: shapes differ; the mask does not fit.
    """
    student_BCP, teacher_BCP = (channels_first(x) for x in prepare_equal(student, teacher))
    if mask_BP is not None:
        return _pearson_within(student_BCP, teacher_BCP, mask_BP, gather)
    difference_BCP = _standard(student_BCP, gather) - _standard(teacher_BCP, gather)
    return 0.5 * difference_BCP.square().mean((1, 2))


def token_similarity(student: Tensor, teacher: Tensor, *, tau: float = 0.07) -> Tensor:
    """Similarities between the positions of one image, as distributions over them.

    loss_b = mean_i KL(softmax_j(cos(t_i, t_j) / τ) ‖ softmax_j(cos(s_i, s_j) / τ)), a position among its own
    neighbours included. Used by LightlyTrain 2025 with τ = 0.07. Maps are pooled to the smaller size.

    Args:
        student: maps [B, C, H, W] or tokens [B, L, D]; the width is free.
        teacher: as the student; detached.
        tau: τ > 0.

    Returns:
        loss_B in [0, 2/τ + ln P] nats.

    Raises:
        ValueError: not maps or tokens, or tokens of different length; τ not above 0.
    """
    if tau <= 0:
        raise ValueError(f"tau must be above 0, found {tau}")
    pair = positioned(*pooled(*prepare(student, teacher)))
    student_BCP, teacher_BCP = (unit(x, dim=1) for x in pair)
    log_q_BPP = (product(student_BCP.transpose(1, 2), student_BCP) / tau).log_softmax(-1)
    log_p_BPP = (product(teacher_BCP.transpose(1, 2), teacher_BCP) / tau).log_softmax(-1)
    return (log_p_BPP.exp() * (log_p_BPP - log_q_BPP)).sum(-1).mean(-1)


def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    """The feature term of SimKD: mean squared difference of the last maps, at the smaller of both sizes.

    loss_b = mean (c(F_s) − F_t)². Chen et al. 2022 (SimKD) It is meant for a student that predicts with the
    teacher's head on c(F_s) (`raykd.losses.heads.head_logits`); without that head it is a hint.

    Args:
        student: projected maps [B, C, H, W], or features of any other equal shape.
        teacher: maps [B, C, H', W'], or the same shape; detached.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ in more than height and width.
    """
    return hint(*pooled(*prepare(student, teacher)))


def _standard(values_BCP: Tensor, gather: Gather | None) -> Tensor:
    """Values with mean 0 and deviation 1 of each channel over the batch of all workers and the positions."""
    channels = values_BCP.shape[1]
    rows_CN = gathered(values_BCP, gather).transpose(0, 1).reshape(channels, -1)
    mean_C1 = rows_CN.mean(1, keepdim=True)
    _, energy_C, varies_C = centred(rows_CN, dim=1)
    deviation_C = (energy_C / max(rows_CN.shape[1] - 1, 1)).sqrt()
    scale_C = torch.where(varies_C, 1 / (deviation_C + _STD_EPS), 0.0)
    return (values_BCP - mean_C1) * scale_C[:, None]


def _divergence_within(student_BCP: Tensor, teacher_BCP: Tensor, mask_BP: Tensor) -> Tensor:
    """KL(p ‖ q) [B, C] of w exp(·) / Σ; 0 for images without any weight."""
    mask_BP = _fitting(mask_BP, student_BCP)
    empty_B1 = (mask_BP <= 0).all(1, keepdim=True)
    weight_BP = torch.where(empty_B1, 1.0, mask_BP)
    there_BP = weight_BP > 0
    log_w_B1P = torch.where(there_BP, weight_BP, 1.0).log()[:, None]
    log_q, log_p = (
        (x + log_w_B1P).masked_fill(~there_BP[:, None], -torch.inf).log_softmax(-1)
        for x in (student_BCP, teacher_BCP)
    )
    apart = torch.where(there_BP[:, None], log_p - log_q, 0.0)
    return torch.where(empty_B1, 0.0, (log_p.exp() * apart).sum(-1))


def _pearson_within(
    student_BCP: Tensor, teacher_BCP: Tensor, mask_BP: Tensor, gather: Gather | None
) -> Tensor:
    mask_BP = _fitting(mask_BP, student_BCP)
    weight_N = gathered(mask_BP, gather).flatten()
    away_BCP = _standard_within(student_BCP, weight_N, gather) - _standard_within(
        teacher_BCP, weight_N, gather
    )
    total_B = mask_BP.sum(1)
    square_B = (away_BCP.square().mean(1) * mask_BP).sum(1)
    return 0.5 * square_B / torch.where(total_B > 0, total_B, 1.0)


def _standard_within(values_BCP: Tensor, weight_N: Tensor, gather: Gather | None) -> Tensor:
    """As `_standard`, with weights of all positions of the batch of all workers."""
    channels = values_BCP.shape[1]
    rows_CN = gathered(values_BCP, gather).transpose(0, 1).reshape(channels, -1)
    total = weight_N.sum()
    mean_C1 = (rows_CN * weight_N).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)
    energy_C = ((rows_CN - mean_C1).square() * weight_N).sum(1)
    rounding = torch.finfo(rows_CN.dtype).eps * _ROUNDING
    varies_C = energy_C > rounding**2 * (rows_CN.square() * weight_N).sum(1)
    deviation_C = (torch.where(varies_C, energy_C, 1.0) / (total - 1).clamp(min=1)).sqrt()
    scale_C = torch.where(varies_C, 1 / (deviation_C + _STD_EPS), 0.0)
    return (values_BCP - mean_C1) * scale_C[:, None]


def _fitting(mask_BP: Tensor, values_BCP: Tensor) -> Tensor:
    if mask_BP.shape != (values_BCP.shape[0], values_BCP.shape[2]):
        raise ValueError(
            f"a mask of positions must be {[values_BCP.shape[0], values_BCP.shape[2]]}, found {list(mask_BP.shape)}"
        )
    return mask_BP.detach().to(values_BCP)
