"""Objectives whose target depends on nothing of the student: all of it but the student's softmax is made beforehand.

Such an objective is a cross-entropy with distributions that are known before the student sees the batch:

    L = Σ_n a_n T² KL(t_n ‖ q_n^T) + b_n CE(y_n, q_n),        ∂L/∂z_n = T a_n (q_n^T − t_n) + b_n (q_n − y_n)

with q^T = softmax(z / T), the ensemble's target t (Hinton et al. 2015, Sec. 2), the label's distribution y, and how
much each unit counts, a and b, which hold the weights of the terms and their means over the batch.

Shape suffixes: N units, T teachers, C classes, S steps, E sums of an ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from raykd.objective.schedules import Strengths
from raykd.objective.terms import Losses, Sum


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleTarget:
    """What the teachers make of some units, whatever the student says of them.

    Attributes:
        sums_NE: `ensemble_rows`, float64 [N, T + 4].
        counts_N: how much each unit counts in the soft targets, 0 where no teacher answered.
        target_NC: t; None where only labels are learnt.
        pseudo_N: the ensemble's answers as labels, −1 where there is none; None where they stand for no label.
    """

    sums_NE: Tensor
    counts_N: Tensor
    target_NC: Tensor | None
    pseudo_N: Tensor | None

    def __getitem__(self, index_N: Tensor) -> EnsembleTarget:
        """Those of some of the units."""
        return self._with(lambda part: part[index_N])

    def __setitem__(self, index_N: Tensor, some: EnsembleTarget) -> None:
        """Put those of some units in their places."""
        for part, theirs in zip(self._parts.values(), some._parts.values(), strict=True):
            if part is not None and theirs is not None:
                part[index_N] = theirs

    def empty(self, units: int) -> EnsembleTarget:
        """Room for so many units."""
        return self._with(lambda part: part.new_empty(units, *part.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(part.nbytes for part in self._parts.values() if part is not None)

    def _with(self, change: Callable[[Tensor], Tensor]) -> EnsembleTarget:
        parts: dict[str, Any] = {
            name: None if part is None else change(part) for name, part in self._parts.items()
        }
        return EnsembleTarget(**parts)

    @property
    def _parts(self) -> dict[str, Tensor | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False, kw_only=True)
class SettledUnits:
    """The units of some steps, with all that their losses need but the student's outputs.

    Attributes:
        labels_NC: y, the distributions of the labels; anything where these count nothing.
        labelled_N: how much each label counts.
        known_N: where a label takes the place of the ensemble's target.
        ensemble: what the teachers make of the units; None without teachers.
        soft: whether the target is learnt.
        soft_scale: factor of the soft targets that comes with the weighting.
    """

    labels_NC: Tensor
    labelled_N: Tensor
    known_N: Tensor
    ensemble: EnsembleTarget | None
    soft: bool
    soft_scale: float


class SettledSteps:
    """Some steps in a row: the gradient of each, and afterwards the losses of all.

    Args:
        units: of all steps, one after the other, in the student's precision.
        sizes: units of each step.
        strengths: of each step; all of one temperature.
        all_sum: adds over workers.
        workers: how many share each step.
    """

    def __init__(
        self,
        units: SettledUnits,
        sizes: Sequence[int],
        strengths: Sequence[Strengths],
        all_sum: Sum,
        workers: int,
    ) -> None:
        self._units, self._sizes, self._strengths, self._workers = units, sizes, strengths, workers
        self.temperature = strengths[0].temperature if units.soft else 1.0
        dtype = units.labels_NC.dtype
        terms = {"labels": (torch.zeros_like(units.labelled_N), units.labelled_N)}
        if units.soft and units.ensemble is not None:
            counts_N = units.ensemble.counts_N.to(dtype)
            terms["soft_targets"] = (
                torch.where(units.known_N, 0.0, counts_N),
                torch.where(units.known_N, units.labelled_N, 0.0),
            )
        sums_JS = torch.stack([self._per_step(a_N + b_N) for a_N, b_N in terms.values()])
        sums_JS = all_sum(sums_JS).clamp(min=torch.finfo(dtype).tiny)
        self._terms = {}
        soft_N, label_N = torch.zeros_like(units.labelled_N), torch.zeros_like(units.labelled_N)
        for (name, (a_N, b_N)), sums_S in zip(terms.items(), sums_JS, strict=True):
            means_N, weights_N = self._per_unit(sums_S), self._per_unit(self._weights_of(name))
            self._terms[name] = a_N / means_N, b_N / means_N
            soft_N += weights_N * self._terms[name][0]
            label_N += weights_N * self._terms[name][1]
        self._aim(soft_N * self.temperature * workers, label_N * workers)

    def _aim(self, soft_N: Tensor, label_N: Tensor) -> None:
        """Per step what the gradient is made of: Σ of the targets, and what the student's softmax is multiplied by."""
        aims_NC = label_N[:, None] * self._units.labels_NC
        if self._target is not None:
            aims_NC = aims_NC + soft_N[:, None] * self._target
        factors = [label_N + soft_N] if self.temperature == 1.0 else [label_N, soft_N]
        self._aims = aims_NC.split(list(self._sizes))
        self._factors = [factor_N[:, None].split(list(self._sizes)) for factor_N in factors]

    @property
    def _target(self) -> Tensor | None:
        ensemble = self._units.ensemble
        target_NC = ensemble.target_NC if ensemble is not None and self._units.soft else None
        return None if target_NC is None else target_NC.to(self._units.labels_NC.dtype)

    @torch.no_grad()
    def gradient(self, step: int, outputs_NC: Tensor) -> tuple[Tensor, Tensor]:
        """∂L/∂z [N, C] of a step of which `outputs_NC` are the logits, times the workers; and log q [N, C]."""
        log_q_NC = outputs_NC.log_softmax(dim=1)
        gradient_NC = log_q_NC.exp().mul_(self._factors[0][step])
        if len(self._factors) > 1:
            tempered_NC = (outputs_NC / self.temperature).softmax(dim=1)
            gradient_NC.addcmul_(tempered_NC, self._factors[1][step])
        return gradient_NC.sub_(self._aims[step]), log_q_NC

    @torch.no_grad()
    def losses(self, logs: Sequence[Tensor]) -> list[Losses]:
        """The losses of the first steps, as `reduce_terms` gives them.

        Args:
            logs: log q of each of them.
        """
        done, count = len(logs), sum(len(log_NC) for log_NC in logs)
        log_q_NC = torch.cat(list(logs))
        units, ensemble = self._units, self._units.ensemble
        label_loss_N = -(units.labels_NC[:count] * log_q_NC).sum(dim=1)
        soft_loss_N = torch.zeros_like(label_loss_N)
        if self._target is not None:
            target_NC = self._target[:count]
            if self.temperature != 1.0:
                log_q_NC = (log_q_NC / self.temperature).log_softmax(dim=1)
            soft_loss_N = (torch.xlogy(target_NC, target_NC) - target_NC * log_q_NC).sum(dim=1)
            soft_loss_N *= self.temperature**2
        shares = {
            name: self._per_step(a_N[:count] * soft_loss_N + b_N[:count] * label_loss_N, done)
            for name, (a_N, b_N) in self._terms.items()
        }
        total_S = sum(self._weights_of(name)[:done] * share_S for name, share_S in shares.items())
        assert isinstance(total_S, Tensor), "there is a term"
        ensemble_S = None
        if ensemble is not None:
            ensemble_S = [part.sum(dim=0) for part in ensemble.sums_NE.split(list(self._sizes))]
        return [
            Losses(
                total=total_S[step] * self._workers,
                terms={name: share_S[step] for name, share_S in shares.items()},
                ensemble=None if ensemble_S is None else ensemble_S[step],
            )
            for step in range(done)
        ]

    def _weights_of(self, name: str) -> Tensor:
        if name == "labels":
            weights = [strengths.labels for strengths in self._strengths]
        else:
            scale = self._units.soft_scale
            weights = [scale * strengths.soft_targets for strengths in self._strengths]
        return self._units.labelled_N.new_tensor(weights)

    def _per_step(self, values_N: Tensor, steps: int | None = None) -> Tensor:
        """Sums [S] over the units of each step."""
        parts = values_N.split(list(self._sizes[:steps]))
        return torch.stack([part.sum() for part in parts])

    def _per_unit(self, values_S: Tensor) -> Tensor:
        """Numbers of steps, for each of their units [N]."""
        sizes = torch.tensor(self._sizes, device=values_S.device)
        return values_S.repeat_interleave(sizes, output_size=sum(self._sizes))
