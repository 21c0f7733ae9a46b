"""The terms of an objective: per-unit losses, which units count, and their one reduction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Sum = Callable[[Tensor], Tensor]
"""Adds a tensor of counts over all workers."""


@dataclass(frozen=True)
class Term:
    """One part of the objective on this worker's part of the batch.

    Attributes:
        loss_N: per-unit loss, finite wherever it counts.
        valid_N: how much each unit counts, ≥ 0 (bool, or sample weights).
        weight: factor of the whole term.
    """

    loss_N: Tensor
    valid_N: Tensor
    weight: float


@dataclass(frozen=True)
class Losses:
    """What one forward pass gives the step.

    Attributes:
        total: scalar to call `backward` on.
        terms: name -> this worker's share of the term's global mean, unweighted; add over the workers.
        weights_T: mean weight of each teacher over the units of this worker, or None.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    weights_T: Tensor | None = None


def reduce_terms(terms: Mapping[str, Term], all_sum: Sum, workers: int) -> Losses:
    """Σ weight · Σ_N loss·valid / (global Σ valid); a term that no unit counts in is 0.

    Dividing by the global count makes one big batch equal its parts on several workers, whatever
    their share of labelled samples. DDP averages gradients over workers, hence the factor `workers`.
    """
    counts = all_sum(torch.stack([term.valid_N.float().sum() for term in terms.values()]).detach())
    shares = {}
    total: Tensor | None = None
    for (name, term), count in zip(terms.items(), counts, strict=True):
        valid_N = term.valid_N.to(term.loss_N.dtype)
        loss_N = torch.where(valid_N > 0, term.loss_N, torch.zeros_like(term.loss_N))
        share = (loss_N * valid_N).sum() / count.clamp(min=torch.finfo(count.dtype).tiny)
        shares[name] = share.detach()
        weighted = share * (term.weight * workers)
        total = weighted if total is None else total + weighted
    assert total is not None, "an objective has at least one term"
    return Losses(total=total, terms=shares)
