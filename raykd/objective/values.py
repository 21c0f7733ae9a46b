"""The objective of a regression: labels, the ensemble's mean value, features.

Shapes: N units, T teachers; values are [N, 1]. What leaves a model is in original units; here, and only
here, student, teachers and labels are standardised by the labelled training values, so that weights,
margins and learning rates mean the same whatever the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raykd.config.methods import LossSettings
from raykd.ensemble import mean_logits
from raykd.losses import LOSSES
from raykd.objective.distill import DistillObjective
from raykd.objective.teacher_batch import TeacherBatch
from raykd.objective.terms import NOW, Context, Term
from raykd.types import Batch, TeacherOutputs, is_labelled


class ValueObjective(DistillObjective):
    """labels·MSE + soft_targets·ℓ(student, Σ_k w_k teacher_k, label) + Σ features; standardised."""

    classes = False

    def forward(
        self,
        logits_NC: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: TeacherOutputs,
        context: Context = NOW,
    ) -> tuple[dict[str, Term], Tensor | None]:
        """As in `DistillObjective`, of values in original units."""
        assert self.scale is not None, "the samples of a regression have a scale"
        standardised, mixed = self.scale.standardised, batch.mixed
        if mixed is not None:
            mixed = replace(mixed, partner_labels_B=standardised(mixed.partner_labels_B))
        return super().forward(
            standardised(logits_NC),
            features,
            replace(batch, labels=standardised(batch.labels), mixed=mixed),
            {
                name: replace(answer, values_NC=standardised(answer.values_NC))
                for name, answer in targets.items()
            },
            context,
        )

    def _soft_targets(
        self,
        teacher_batch: TeacherBatch,
        weights_TN: Tensor,
        own_TN: Tensor | None,  # noqa: ARG002 (none is asked for)
        batch: Batch,
        targets: TeacherOutputs,
    ) -> tuple[Tensor, Tensor]:
        settings, logits_NC = self.settings.soft_targets, teacher_batch.student_NC
        assert settings is not None, "the term is only computed when it is configured"
        mean_N1 = mean_logits(self._stack(targets), weights_TN)
        labels_N = _blended(batch)
        labels_N1, told_N = labels_N[:, None], torch.ones_like(batch.present_B)
        loss = settings.loss
        if loss.type == "bounded":
            # It compares errors: without a label it says nothing.
            told_N = is_labelled(labels_N)
            return self._distance(loss, labels=labels_N1)(logits_NC, mean_N1), told_N
        if loss.type == "imitation":
            error_range = self._error_range(loss.knob("error_range"))
            distance = self._distance(loss, labels=labels_N1, error_range=error_range)
            return distance(logits_NC, mean_N1), told_N
        return self._distance(loss)(logits_NC, mean_N1), told_N

    def _guess(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor:
        """The ensemble's mean value [N]; NaN where no teacher answered."""
        mean_N = mean_logits(self._stack(targets), weights_TN)[:, 0]
        return torch.where(weights_TN.sum(dim=0) > 0, mean_N, torch.nan)

    def _label_loss(self, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error [N] in squared deviations (or Huber loss), and how much each unit counts [N]."""
        known_N = is_labelled(labels_N)
        safe_N1 = torch.where(known_N, labels_N, 0.0)[:, None]
        loss_N = self._distance(self.settings.labels.loss)(logits_NC, safe_N1)
        return loss_N, known_N.to(loss_N.dtype)

    def _distance(
        self, loss: LossSettings | None, **more: Any
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The function of a loss with its knobs; of none the squared error."""
        if loss is None:
            return LOSSES["mse"]
        return partial(LOSSES[loss.type], **loss.arguments, **more)

    def _error_range(self, given: float | None) -> float:
        if given is not None:
            return given
        assert self.error_range is not None, "the pipeline tells the range of the ensemble's errors"
        return self.error_range


def _blended(batch: Batch) -> Tensor:
    """Values [N] of samples as shown: of two that are blended their mean by share; NaN where one is not known."""
    if batch.mixed is None:
        return batch.labels
    share_N, partners_N = batch.mixed.share_B, batch.mixed.partner_labels_B
    between_N = share_N * batch.labels + (1 - share_N) * partners_N
    return torch.where(share_N < 1, between_N, batch.labels)
