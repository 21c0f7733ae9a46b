"""Losses over very many classes from the student's hidden states and its last layer, a few units at a time.

The student's logits [N, V] never exist as a whole, neither on the way forward nor on the way back: each chunk
of units is multiplied with the last layer, compared with the teacher, and forgotten. The way back makes it
again and writes the gradient directly, so that beside the inputs and their gradients only one chunk is held.

Shape suffixes: N units, n units of a chunk, V classes, K classes kept, S buckets (`raykd.losses.buckets`), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from raykd.losses import buckets
from raykd.losses.common import at_least_float32
from raykd.losses.sparse import Few, at_temperature, require_classes, require_tail
from raykd.types import Sampled, Sparse, host_sees

_CACHED = 1 << 22
_DEVICE = 1 << 26
DIVERGENCES: dict[str, Callable[..., buckets.Divergence]] = {
    "kl": lambda: buckets.kl,
    "reverse_kl": lambda: buckets.reverse_kl,
    "js": lambda beta=0.5: buckets.js(beta),
    "skew_kl": lambda alpha=0.1: buckets.skew_kl(alpha),
}


def head_loss(
    hidden_ND: Tensor,
    head_VD: Tensor,
    teacher: Few | Sampled,
    *,
    bias_V: Tensor | None = None,
    loss: str = "kl",
    temperature: float = 1.0,
    elements: int | None = None,
    **knobs: float,
) -> Tensor:
    """The loss of `raykd.losses.sparse` between a teacher and the student whose logits are hidden · headᵀ + bias.

    With h_b the slope of the divergence by log q_b, the gradient on the logit of a class that was kept is
    T (h_v − q_v Σ_b h_b), and on that of another one T q_v (h_rest/q_rest − Σ_b h_b): student minus teacher for KL.

    Args:
        hidden_ND: the student's hidden states at the units, float [N, D].
        head_VD: weight of its last layer.
        teacher: what is known of the teacher; of draws the loss is cross entropy at the temperature drawn at.
        bias_V: bias of its last layer.
        loss: kl, reverse_kl, js or skew_kl.
        temperature: T > 0, at which the teacher's tail must be known; draws have their own.
        elements: logits that may exist at once; None is 4 million on a processor and 64 million on a GPU.
        knobs: `beta` of js, `alpha` of skew_kl.

    Returns:
        loss_N in nats, times T², at least float32. It can be differentiated once.

    Raises:
        ValueError: shapes that do not match, a knob out of range, reverse_kl without a tail.
        TargetError: the teacher's tail is not known at this temperature.
    """
    if loss not in DIVERGENCES:
        raise ValueError(f"loss must be one of {', '.join(DIVERGENCES)}, found {loss!r}")
    require_classes(torch.Size((len(hidden_ND), len(head_VD))), teacher)
    if isinstance(teacher, Sampled):
        divergence, temperature = buckets.cross_entropy, teacher.temperature
        target = Sparse(
            classes=teacher.classes,
            ids_NK=teacher.ids_NK,
            log_probs_NK=teacher.weights_NK.log(),
            log_tail_N=None,
        )
    else:
        divergence = DIVERGENCES[loss](**knobs)
        target = at_temperature(teacher, temperature)
        if loss == "reverse_kl":
            require_tail(teacher)
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND, head_VD = hidden_ND.to(dtype), head_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    if elements is None:
        elements = _CACHED if host_sees(hidden_ND) else _DEVICE
    rows = max(1, elements // len(head_VD))
    with torch.autocast(device, enabled=False):
        found: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden_ND, head_VD, bias_V, _Plan(target, divergence, temperature, rows)
        )
    return found


@dataclass(frozen=True)
class _Plan:
    target: Sparse
    divergence: buckets.Divergence
    temperature: float
    rows: int

    def chunks(self) -> Iterator[tuple[slice, Sparse]]:
        tail_N = self.target.log_tail_N
        for start in range(0, len(self.target.ids_NK), self.rows):
            part = slice(start, start + self.rows)
            yield (
                part,
                Sparse(
                    classes=self.target.classes,
                    ids_NK=self.target.ids_NK[part],
                    log_probs_NK=self.target.log_probs_NK[part],
                    log_tail_N=None if tail_N is None else tail_N[part],
                ),
            )


@dataclass(frozen=True)
class _Chunk:
    """What the student says of some units.

    Attributes:
        others_nV: tempered logits, −∞ where a class was kept.
        kept_nK: tempered logits of the classes kept.
        real_nK: which of them are no padding.
        total_n1: log-sum-exp of all.
        rest_n1: of the others.
        log_p_nS: the teacher's buckets.
        log_q_nS: its own.
    """

    others_nV: Tensor
    kept_nK: Tensor
    real_nK: Tensor
    total_n1: Tensor
    rest_n1: Tensor
    log_p_nS: Tensor
    log_q_nS: Tensor


def _chunk(logits_nV: Tensor, part: Sparse, temperature: float) -> _Chunk:
    """Overwrites the logits."""
    others_nV = at_least_float32(logits_nV)
    others_nV = others_nV if temperature == 1 else others_nV.div_(temperature)
    real_nK = part.log_probs_NK > -torch.inf
    kept_nK = others_nV.gather(1, part.ids_NK)
    others_nV.scatter_(1, part.ids_NK, -torch.inf)
    rest_n1 = others_nV.logsumexp(1, keepdim=True)
    sure_n1 = kept_nK.masked_fill(~real_nK, -torch.inf).logsumexp(1, keepdim=True)
    total_n1 = torch.logaddexp(sure_n1, rest_n1)
    log_q_nS = (kept_nK - total_n1).masked_fill(~real_nK, buckets.EMPTY)
    if buckets.has_others(part):
        log_q_nS = torch.cat([log_q_nS, (rest_n1 - total_n1).clamp(min=buckets.EMPTY)], dim=1)
    return _Chunk(
        others_nV,
        kept_nK,
        real_nK,
        total_n1,
        rest_n1,
        buckets.of_teacher(part, others_nV.dtype),
        log_q_nS,
    )


def _slope(chunk: _Chunk, plan: _Plan, part: Sparse, scale_n1: Tensor) -> Tensor:
    """Gradient on the logits, [n, V]; overwrites the chunk."""
    h_nS = plan.divergence.slope(chunk.log_p_nS, chunk.log_q_nS) * scale_n1
    sum_n1 = h_nS.sum(1, keepdim=True)
    count = chunk.kept_nK.shape[1]
    factor_n1 = (
        h_nS[:, count:].sum(1, keepdim=True) - sum_n1 * (chunk.rest_n1 - chunk.total_n1).exp()
    )
    gradient_nV = chunk.others_nV.sub_(chunk.rest_n1).exp_().mul_(factor_n1)
    all_nK = -sum_n1 * (chunk.kept_nK - chunk.total_n1).exp()
    own_nK = h_nS[:, :count].masked_fill(~chunk.real_nK, 0.0)
    return gradient_nV.scatter_(1, part.ids_NK, all_nK).scatter_add_(1, part.ids_NK, own_nK)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, bias_V: Tensor | None, plan: _Plan
    ) -> Tensor:
        ctx.save_for_backward(hidden_ND, head_VD, bias_V)
        ctx.plan = plan
        losses = []
        for rows, part in plan.chunks():
            chunk = _chunk(F.linear(hidden_ND[rows], head_VD, bias_V), part, plan.temperature)
            losses.append(plan.divergence.value(chunk.log_p_nS, chunk.log_q_nS))
        return torch.cat(losses) * plan.temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, head_VD, bias_V = ctx.saved_tensors
        plan: _Plan = ctx.plan
        wants_hidden, wants_head, wants_bias, _ = ctx.needs_input_grad
        kept = torch.promote_types(head_VD.dtype, torch.float32)
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        head_grad = torch.zeros_like(head_VD, dtype=kept) if wants_head else None
        bias_grad = torch.zeros_like(bias_V, dtype=kept) if wants_bias else None
        for rows, part in plan.chunks():
            if host_sees(gradient_N) and not gradient_N[rows].any():  # units that do not count
                if hidden_grad is not None:
                    hidden_grad[rows] = 0
                continue
            logits_nV = F.linear(hidden_ND[rows], head_VD, bias_V)
            chunk = _chunk(logits_nV, part, plan.temperature)
            scale_n1 = gradient_N[rows, None] * plan.temperature
            slope_nV = _slope(chunk, plan, part, scale_n1.to(chunk.log_q_nS))
            if bias_grad is not None:
                bias_grad += slope_nV.sum(0)
            slope_nV = slope_nV.to(head_VD.dtype)
            if hidden_grad is not None:
                torch.mm(slope_nV, head_VD, out=hidden_grad[rows])
            if head_grad is not None:
                head_grad += slope_nV.t() @ hidden_ND[rows]
        return (
            hidden_grad,
            None if head_grad is None else head_grad.to(head_VD.dtype),
            None if bias_grad is None else bias_grad.to(bias_V.dtype),
            None,
        )
