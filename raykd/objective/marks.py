"""The objective of several yes-or-no labels.

Shapes: N units, T teachers, K labels. Every term is a mean over the labels, so that their number does
not change its strength.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble import mean_logits
from raykd.ensemble.binary import mean_label_probabilities
from raykd.losses.binary import bernoulli_kl, two_class
from raykd.losses.logits import kl_from_log_probs
from raykd.objective.distill import DistillObjective
from raykd.objective.teacher_batch import TeacherBatch
from raykd.types import UNLABELLED, Batch, TeacherOutputs, is_labelled


class MultilabelObjective(DistillObjective):
    """labels·BCE + soft_targets·T²KL of Bernoulli distributions + Σ features."""

    classes = False

    def _soft_targets(
        self,
        teacher_batch: TeacherBatch,
        weights_TN: Tensor,
        own_TN: Tensor | None,  # noqa: ARG002 (none is asked for)
        batch: Batch,
        targets: TeacherOutputs,
    ) -> tuple[Tensor, Tensor]:
        settings = self.settings.soft_targets
        assert settings is not None, "the term is only computed when it is configured"
        told_N = torch.ones_like(batch.present_B)
        logits_NC, logits_TNK = teacher_batch.student_NC, self._stack(targets)
        temperature = teacher_batch.temperature
        if settings.combine == "logits":
            mixed_NK = mean_logits(logits_TNK / self.temperatures_T[:, None, None], weights_TN)
            return bernoulli_kl(logits_NC, mixed_NK, temperature=temperature), told_N
        odds_NK = mean_label_probabilities(
            logits_TNK, weights_TN, temperatures_T=self.temperatures_T * temperature
        )
        mixed = F.log_softmax(two_class(odds_NK).flatten(0, 1), dim=1)
        student = two_class(logits_NC).flatten(0, 1)
        loss = kl_from_log_probs(student, mixed, temperature=temperature)
        return loss.reshape(logits_NC.shape).mean(dim=1), told_N

    def _guess(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor:
        """What the ensemble holds for more likely than not [N, K]; −1 where no teacher answered."""
        odds_NK = mean_label_probabilities(
            self._stack(targets), weights_TN, temperatures_T=self.temperatures_T
        )
        answered_N1 = (weights_TN.sum(dim=0) > 0).unsqueeze(1)
        return torch.where(answered_N1, (odds_NK > 0).long(), UNLABELLED)

    def _label_loss(self, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy [N] in nats, mean over the labels, and how much each unit counts [N]."""
        smoothing = self.settings.labels.smoothing
        wanted_NK = labels_N.clamp(min=0).to(logits_NC.dtype) * (1 - smoothing) + smoothing / 2
        loss_NK = F.binary_cross_entropy_with_logits(logits_NC, wanted_NK, reduction="none")
        return loss_NK.mean(dim=1), is_labelled(labels_N).to(logits_NC.dtype)
