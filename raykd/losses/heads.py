"""Losses that ask the teacher's head, its last linear layer, about the student's features.

Shape suffixes: B batch, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import at_least_float32, prepare_equal
from raykd.losses.features import channels_first


@dataclass(frozen=True, eq=False)
class Head:
    """A teacher's last linear layer.

    Attributes:
        weight: W, [K, C].
        bias: b, [K], or None.
    """

    weight: Tensor
    bias: Tensor | None = None


def head_logits(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a head says of the mean over positions, [B, K].

    Args:
        features: [B, C, H, W], [B, L, C] or [B, C].
        weight: W, [K, C].
        bias: b, [K]; None = 0.
    """
    pooled_BC = channels_first(at_least_float32(features)).mean(2)
    return F.linear(
        pooled_BC,
        weight.detach().to(pooled_BC.dtype),
        None if bias is None else bias.detach().to(pooled_BC.dtype),
    )


def srrl(
    student: Tensor,
    teacher: Tensor,
    *,
    head_weight: Tensor,
    head_bias: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 5.0,
) -> Tensor:
    """Softmax regression representation learning: equal features, and equal logits of the teacher's own head.

    loss_b = α mean_c (s̄ − t̄)² + β mean_k (W s̄ + b − (W t̄ + b))², s̄ and t̄ the means of the (projected) features over
    the positions. Yang et al. 2021 (SRRL); the weights of the published code. The head gets no gradient.

    Args:
        student: projected features [B, C, H, W], [B, L, C] or [B, C].
        teacher: the same shape; detached.
        head_weight: W of the teacher's last layer, [K, C].
        head_bias: b, [K]; it cancels out.
        alpha: weight of the features.
        beta: weight of the logits.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ, or the head is of another width.
    """
    student_BC, teacher_BC = (channels_first(x).mean(2) for x in prepare_equal(student, teacher))
    if head_weight.ndim != 2 or head_weight.shape[1] != student_BC.shape[1]:
        raise ValueError(
            f"the head must be [K, {student_BC.shape[1]}], found {tuple(head_weight.shape)}"
        )
    feature_B = (student_BC - teacher_BC).square().mean(1)
    said, wanted = (head_logits(x, head_weight, head_bias) for x in (student_BC, teacher_BC))
    return alpha * feature_B + beta * (said - wanted).square().mean(1)
