"""labels·BCE + soft_targets·T²KL of Bernoulli distributions + Σ features, of several yes-or-no labels.

Shapes: N units, T teachers, K labels. Every term is a mean over the labels, so that their number does
not change its strength.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import Labels, SoftTargets
from raykd.ensemble import mean_logits
from raykd.ensemble.binary import mean_label_probabilities
from raykd.losses.binary import bernoulli_kl, two_class
from raykd.losses.logits import kl_from_log_probs
from raykd.objective.rule import LearningRule, stacked
from raykd.objective.teacher_batch import TeacherBatch
from raykd.types import UNLABELLED, is_labelled


def _label_loss(settings: Labels, logits_NK: Tensor, labels_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy [N] in nats, mean over the labels."""
    smoothing = settings.smoothing
    targets_NK = labels_NK.clamp(min=0).to(logits_NK.dtype) * (1 - smoothing) + smoothing / 2
    loss_NK = F.binary_cross_entropy_with_logits(logits_NK, targets_NK, reduction="none")
    return loss_NK.mean(dim=1), is_labelled(labels_NK).to(logits_NK.dtype)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    _own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    every_N = torch.ones_like(teacher_batch.batch.present_B)
    logits_NK, logits_TNK = teacher_batch.student_NC, stacked(teacher_batch)
    temperature, temperatures_T = teacher_batch.temperature, teacher_batch.temperatures_T
    if settings.combine == "logits":
        mixed_NK = mean_logits(logits_TNK / temperatures_T[:, None, None], weights_TN)
        return bernoulli_kl(logits_NK, mixed_NK, temperature=temperature), every_N
    odds_NK = mean_label_probabilities(
        logits_TNK, weights_TN, temperatures_T=temperatures_T * temperature
    )
    mixed = F.log_softmax(two_class(odds_NK).flatten(0, 1), dim=1)
    student = two_class(logits_NK).flatten(0, 1)
    loss = kl_from_log_probs(student, mixed, temperature=temperature)
    return loss.reshape(logits_NK.shape).mean(dim=1), every_N


def _more_likely(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """What the ensemble holds for more likely than not [N, K]; −1 where no teacher answered."""
    odds_NK = mean_label_probabilities(
        stacked(teacher_batch), weights_TN, temperatures_T=teacher_batch.temperatures_T
    )
    answered_N1 = (weights_TN.sum(dim=0) > 0).unsqueeze(1)
    return torch.where(answered_N1, (odds_NK > 0).long(), UNLABELLED)


RULE = LearningRule(label_loss=_label_loss, soft_loss=_soft_loss, pseudo_labels=_more_likely)
