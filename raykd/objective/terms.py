"""The terms of an objective: per-unit losses, which units count, and their one reduction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.ensemble import effective_teachers_per_unit

Gather = Callable[[Tensor], Tensor]
"""This worker's rows to the rows of all workers, with gradient."""

Sum = Callable[[Tensor], Tensor]
"""Adds a tensor of counts over all workers."""


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Context:
    """When in training a batch comes, and the other workers that share it.

    Attributes:
        epoch: time since the start of training, in epochs, for schedules.
        seed: of what is drawn in this step; the same on all workers.
        gathering: how many rows this worker has -> what gathers them and those of the other workers, for
            losses that compare samples; None means one worker.
        all_sum: adds over all workers, for running statistics.
    """

    epoch: float = 0.0
    seed: int = 0
    gathering: Callable[[int], Gather] | None = None
    all_sum: Sum = _alone

    def gather(self, count: int) -> Gather | None:
        """What gathers `count` rows of this worker; None where it is the only one. All must ask for it."""
        return None if self.gathering is None else self.gathering(count)

    def gather_counted(self, counted_B: Tensor) -> Gather | None:
        """What gathers the rows that count, bool [B]; as `gather`."""
        return None if self.gathering is None else self.gathering(int(counted_B.sum()))


NOW = Context()
"""The beginning, on one worker."""


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
        ensemble: how the teachers were weighed, added `ensemble_rows`, or None.
        measured: what the task's rule adds up besides, see `Measures`, or None.
        peers: how far peers agree, see `raykd.objective.peers.agreement_sums`, or None.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    ensemble: Tensor | None = None
    measured: Tensor | None = None
    peers: Tensor | None = None


def reduce_terms(terms: Mapping[str, Term], all_sum: Sum, workers: int) -> Losses:
    """Σ weight · Σ_N loss·valid / (global Σ valid); a term that no unit counts in is 0.

    Dividing by the global count makes one big batch equal its parts on several workers, whatever
    their share of labelled samples. DDP averages gradients over workers, hence the factor `workers`.
    """
    counted = [term.valid_N.to(term.loss_N.dtype).sum() for term in terms.values()]
    counts = all_sum(torch.stack(counted).detach())
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


def ensemble_rows(weights_TN: Tensor, jsd_N: Tensor | None = None) -> Tensor:
    """How the teachers were weighed for each unit; to be added over units, steps and workers.

    Args:
        weights_TN: teachers' weights, all 0 for units that no teacher answered.
        jsd_N: Jensen-Shannon divergence of the teachers on each unit, in nats.

    Returns:
        float64 [N, T + 4]: each teacher's weight, the effective number of teachers exp(H(w_n)), and 1 for an
        answered unit; then the divergence, and 1 for a unit that it was computed on.
    """
    answered_N = weights_TN.sum(dim=0) > 0
    nothing_N = torch.zeros_like(answered_N)
    columns = [
        effective_teachers_per_unit(weights_TN),
        answered_N,
        nothing_N if jsd_N is None else torch.where(answered_N, jsd_N, 0.0),
        nothing_N if jsd_N is None else answered_N,
    ]
    return torch.cat([weights_TN.T.double(), torch.stack([c.double() for c in columns], 1)], dim=1)


def ensemble_values(sums: Tensor, names: Sequence[str]) -> dict[str, object]:
    """The means that are logged of added `ensemble_rows`: `weights`, `effective_teachers`, `jsd_nats`.

    Args:
        sums: float64 [T + 4].
        names: of the teachers, in order.
    """
    *weights, effective, units, jsd, compared = sums.tolist()
    if not units:
        return {}
    shares = [weight / units for weight in weights]
    values: dict[str, object] = {
        "weights": dict(zip(names, shares, strict=True)),
        "effective_teachers": effective / units,
    }
    if compared:
        values["jsd_nats"] = jsd / compared
    return values
