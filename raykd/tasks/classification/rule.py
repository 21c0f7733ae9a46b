"""labels·CE + soft_targets·T²KL + Σ features, of logits of classes.

Shape suffixes: N units, T teachers, C classes, M the first units of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import Labels, SoftTargets
from raykd.ensemble import jensen_shannon, mean_of_known, mean_probabilities
from raykd.objective.rule import LearningRule, knows_few, stacked
from raykd.objective.soft_targets import agreement_weights, ensemble_loss, own_losses
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.types import UNLABELLED, TeacherOutputs

_COMPARED = 16
"""Units of a batch on which the teachers' disagreement is measured."""


def _label_loss(settings: Labels, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N] in nats."""
    loss_N = F.cross_entropy(
        logits_NC, labels_N.clamp(min=0), reduction="none", label_smoothing=settings.smoothing
    )
    return loss_N, (labels_N != UNLABELLED).to(loss_N.dtype)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    loss_N = ensemble_loss(settings, teacher_batch, weights_TN, own_TN)
    if settings.disagreement is not None:
        return loss_N, agreement_weights(settings.disagreement, teacher_batch)
    return loss_N, teacher_batch.available_TN.any(dim=0)


def _most_probable(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The ensemble's most probable class [N]; −1 where no teacher answered."""
    logits_TNC, temperatures_T = stacked(teacher_batch), teacher_batch.temperatures_T
    if teacher_batch.known is not None:
        known_TC = torch.ones_like(logits_TNC[:, 0], dtype=torch.bool)
        for known_C, some in zip(known_TC, teacher_batch.known, strict=True):
            if some is not None:
                known_C.fill_(False).scatter_(0, some, True)
        tempered_TNC = logits_TNC / temperatures_T[:, None, None]
        mixed_NC = mean_of_known(tempered_TNC, weights_TN, known_TC)
    else:
        mixed_NC = mean_probabilities(logits_TNC, weights_TN, temperatures_T=temperatures_T)
    answered_N = weights_TN.sum(dim=0) > 0
    return torch.where(answered_N, mixed_NC.argmax(dim=1), UNLABELLED)


def _disagreement(
    teacher_infos: Sequence[TeacherInfo],
    targets: TeacherOutputs,
    weights_TN: Tensor,
    temperatures_T: Tensor,
) -> Tensor | None:
    """Of the first units; None where there is one teacher, or where one knows only some classes."""
    if len(teacher_infos) < 2 or knows_few(teacher_infos):
        return None
    first_TMC = torch.stack([targets[t.name].values_NC[:_COMPARED] for t in teacher_infos])
    weights_TM = weights_TN[:, :_COMPARED]
    answered_M = weights_TM.sum(dim=0) > 0
    return jensen_shannon(first_TMC, weights_TM, temperatures_T)[answered_M]


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_most_probable,
    own_losses=own_losses,
    disagreement=_disagreement,
    labels_are_classes=True,
)
