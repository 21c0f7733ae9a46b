"""Divergences between two distributions over few buckets, with their slopes written out.

Shape suffixes: N units, V classes, K classes kept, S buckets: the K classes, and one of all others. A bucket that is empty on one side has log-probability `EMPTY`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.losses.logits import divergence_of, log_mixture_of
from raykd.types import Sparse

EMPTY = -1e4
"""exp of it is 0 in every dtype, and unlike −∞ it can be multiplied with 0."""


@dataclass(frozen=True)
class Divergence:
    """A divergence of buckets.

    Attributes:
        value: (log p, log q), each [N, S] -> [N], nats. Differentiable.
        slope: the same -> its derivative by log q, each log q by itself, [N, S].
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


kl = Divergence(divergence_of, lambda log_p_NS, _: -log_p_NS.exp())
reverse_kl = Divergence(
    lambda log_p_NS, log_q_NS: divergence_of(log_q_NS, log_p_NS),
    lambda log_p_NS, log_q_NS: log_q_NS.exp() * (log_q_NS - log_p_NS + 1),
)
cross_entropy = Divergence(
    lambda log_p_NS, log_q_NS: -(log_p_NS.exp() * log_q_NS).sum(-1), kl.slope
)


def skew_kl(alpha: float) -> Divergence:
    """KL(p ‖ αp + (1−α)q).

    Raises:
        ValueError: α outside [0, 1).
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be within [0, 1), found {alpha}")
    if alpha == 0:
        return kl

    def value(log_p_NS: Tensor, log_q_NS: Tensor) -> Tensor:
        return divergence_of(log_p_NS, log_mixture_of(log_p_NS, log_q_NS, alpha))

    def slope(log_p_NS: Tensor, log_q_NS: Tensor) -> Tensor:
        log_m_NS = log_mixture_of(log_p_NS, log_q_NS, alpha)
        return -(1 - alpha) * (log_p_NS + log_q_NS - log_m_NS).exp()

    return Divergence(value, slope)


def js(beta: float) -> Divergence:
    """[β KL(p ‖ m) + (1−β) KL(q ‖ m)] / (4β(1−β)) with m = βp + (1−β)q.

    Raises:
        ValueError: β outside (0, 1).
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must be within (0, 1), found {beta}; use kl or reverse_kl instead")
    factor = 1 / (4 * beta * (1 - beta))

    def value(log_p_NS: Tensor, log_q_NS: Tensor) -> Tensor:
        log_m_NS = log_mixture_of(log_p_NS, log_q_NS, beta)
        towards_p_N = divergence_of(log_p_NS, log_m_NS)
        return factor * (beta * towards_p_N + (1 - beta) * divergence_of(log_q_NS, log_m_NS))

    def slope(log_p_NS: Tensor, log_q_NS: Tensor) -> Tensor:
        log_m_NS = log_mixture_of(log_p_NS, log_q_NS, beta)
        return factor * (1 - beta) * log_q_NS.exp() * (log_q_NS - log_m_NS)

    return Divergence(value, slope)


def of_teacher(target: Sparse, dtype: torch.dtype) -> Tensor:
    """Log p of the buckets, [N, S], detached."""
    parts = [target.log_probs_NK]
    if target.log_tail_N is not None:
        parts.append(target.log_tail_N[:, None])
    elif has_others(target):
        parts.append(torch.full_like(target.log_probs_NK[:, :1], EMPTY))
    return torch.cat(parts, dim=1).detach().to(dtype).clamp(min=EMPTY)


def has_others(target: Sparse) -> bool:
    """Whether there is a bucket of the others: it is empty on both sides at most where K = V."""
    return target.log_tail_N is not None or target.ids_NK.shape[1] < target.classes


def of_student(logits_NV: Tensor, target: Sparse) -> Tensor:
    """Log q of the same buckets, [N, S].

    Args:
        logits_NV: at the temperature of the target, at least float32.
        target: whose classes are the buckets.
    """
    total_N1 = logits_NV.logsumexp(1, keepdim=True)
    padding_NK = target.log_probs_NK == -torch.inf
    kept_NK = (logits_NV.gather(1, target.ids_NK) - total_N1).masked_fill(padding_NK, EMPTY)
    if not has_others(target):
        return kept_NK
    others_NV = logits_NV.scatter(1, target.ids_NK, -torch.inf)
    if target.ids_NK.shape[1] < target.classes:
        return torch.cat([kept_NK, others_NV.logsumexp(1, keepdim=True) - total_N1], dim=1)
    none_N1 = (~padding_NK).all(1, keepdim=True)  # logsumexp of nothing has no gradient
    rest_N1 = others_NV.masked_fill(none_N1, 0.0).logsumexp(1, keepdim=True) - total_N1
    return torch.cat([kept_NK, rest_N1.masked_fill(none_N1, EMPTY)], dim=1)
