"""KL to the mean of the teachers in few passes over memory, together with its gradient.

Shape suffixes: N units, T teachers, C classes, M rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raykd.ensemble import mean_probabilities
from raykd.losses import kl_from_log_probs
from raykd.losses.common import at_least_float32
from raykd.types import host_sees

_CHUNK_BYTES = 360_000
"""Of one [M, C] tensor on a processor: the four in use at a time then fit into a core's cache."""


def kl_to_mean(
    student_NC: Tensor, teachers: Sequence[Tensor], weights_TN: Tensor, *, temperature: float
) -> Tensor:
    """Forward KL from the mean of the teachers' probabilities to the student's, once differentiable.

    loss_n = T² KL(p ‖ q) with p = Σ_k w_k softmax(z_k / T); its gradient is T (q − p). Value and
    gradient are computed together, on so many rows at a time that they stay in the processor's cache,
    and the teachers' exponentials without subtracting the largest logit first. Where these leave the
    range of numbers, or a silent teacher's logits are none, it is `plain_kl_to_mean`; on a GPU, too.

    Args:
        student_NC: logits, with gradient.
        teachers: logits [N, C] of each; anything where the weight is 0.
        weights_TN: weights, summing to 1 over teachers; all 0 for a unit that no teacher answered.
        temperature: T > 0, of student and teachers.

    Returns:
        loss_N in [0, ∞) nats; a harmless value for a unit without any weight.
    """
    student_NC = at_least_float32(student_NC)
    if not host_sees(student_NC):
        return plain_kl_to_mean(student_NC, teachers, weights_TN, temperature=temperature)
    with torch.no_grad():
        loss_N, residual_NC, exact = _in_chunks(student_NC, teachers, weights_TN, temperature)
    if not bool(exact):
        return plain_kl_to_mean(student_NC, teachers, weights_TN, temperature=temperature)
    attached_N: Tensor = _Attached.apply(  # type: ignore[no-untyped-call]
        student_NC, loss_N, residual_NC, temperature
    )
    return attached_N


def plain_kl_to_mean(
    student_NC: Tensor, teachers: Sequence[Tensor], weights_TN: Tensor, *, temperature: float
) -> Tensor:
    """`kl_to_mean` as it is defined, for any logits."""
    logits_TNC = torch.stack(tuple(teachers))
    mean_NC = mean_probabilities(logits_TNC, weights_TN, temperatures_T=temperature)
    return kl_from_log_probs(student_NC, mean_NC, temperature=temperature)


def _in_chunks(
    student_NC: Tensor, teachers: Sequence[Tensor], weights_TN: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """loss_N, p − q [N, C], and whether both are exact (a bool tensor)."""
    units, classes = student_NC.shape
    rows = max(1, units)
    if student_NC.device.type == "cpu":
        rows = min(rows, max(1, _CHUNK_BYTES // (classes * student_NC.element_size())))
    dtype, tiny = student_NC.dtype, torch.finfo(student_NC.dtype).tiny
    residual_NC = torch.empty_like(student_NC)
    spare = student_NC.new_empty(rows, classes)
    chunks = zip(
        torch.split(student_NC, rows),
        torch.split(residual_NC, rows),
        torch.split(weights_TN.to(dtype).unsqueeze(2), rows, dim=1),
        *(torch.split(teacher_NC.to(dtype), rows) for teacher_NC in teachers),
        strict=True,
    )
    losses, totals = [], []
    for student_MC, mean_MC, weights_TM1, *answers in chunks:
        exp_MC = spare[: len(student_MC)]
        for k, (answer_MC, weight_M1) in enumerate(zip(answers, weights_TM1.unbind(), strict=True)):
            total_M1 = torch.mul(answer_MC, 1 / temperature, out=exp_MC).exp_().sum(1, keepdim=True)
            totals.append(total_M1)
            if k == 0:
                torch.mul(exp_MC, weight_M1 / total_M1, out=mean_MC)
            else:
                mean_MC.addcmul_(exp_MC, weight_M1 / total_M1)
        log_p_MC = torch.log(mean_MC.clamp_min_(tiny), out=exp_MC)
        log_q_MC = (student_MC / temperature).log_softmax(1)
        losses.append(log_p_MC.sub_(log_q_MC).mul_(mean_MC).sum(1))
        mean_MC.sub_(log_q_MC.exp_())
    loss_N = torch.cat(losses) * temperature**2
    exact = loss_N.isfinite().all() & (torch.cat(totals) > tiny**0.5).all()
    return loss_N, residual_NC, exact


class _Attached(torch.autograd.Function):
    """A loss [N] with its gradient −T · residual_NC."""

    @staticmethod
    def forward(
        ctx: Any, _student_NC: Tensor, loss_N: Tensor, residual_NC: Tensor, temperature: float
    ) -> Tensor:
        ctx.save_for_backward(residual_NC)
        ctx.temperature = temperature
        return loss_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None, None]:
        (residual_NC,) = ctx.saved_tensors
        return residual_NC * (gradient_N * -ctx.temperature).unsqueeze(1), None, None, None
