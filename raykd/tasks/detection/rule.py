"""labels·boxes + soft_targets·(the teachers location by location, or their fused boxes) + Σ features.

A unit is an image. Shapes: B images, T teachers, A numbers of an answer, M boxes; see `raykd.detection.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raykd.config.objective import Labels, SoftTargets
from raykd.detection.layout import BOX, layout_of, rows_of
from raykd.ensemble.detectors import fused_answers, mean_answers
from raykd.losses import LOSSES
from raykd.objective.rule import LearningRule
from raykd.objective.teacher_batch import TeacherBatch
from raykd.types import is_labelled

_SURE = 0.4
"""Score from which a fused box counts as a label."""
_MOST = 30
"""Fused boxes that are learnt from in an image."""


def _label_loss(settings: Labels, answers_BA: Tensor, labels_BL: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Loss [B] against the true boxes; an image without boxes counts, one without labels does not."""
    known_B = is_labelled(labels_BL)
    loss_B = LOSSES["fused_boxes"](answers_BA, labels_BL)
    return torch.where(known_B, loss_B, 0.0), known_B.to(loss_B.dtype)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    _own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    student_BA, loss = teacher_batch.student_NC, settings.loss
    answered_B = weights_TN.sum(dim=0) > 0
    layout, stacked_TBA = layout_of(student_BA), teacher_batch.stacked
    if settings.mixing == "locations":
        mean_BA = mean_answers(stacked_TBA, weights_TN, layout)
        return LOSSES[loss.type](student_BA, mean_BA, **loss.arguments), answered_B
    found, known_BC = fused_answers(
        stacked_TBA,
        weights_TN,
        layout=layout,
        threshold=float(str(loss.knob("threshold"))),
        iou=float(str(loss.knob("iou"))),
    )
    rows_BL = rows_of(found.boxes_BN4, found.scores_BN, found.classes_BN, _MOST, soft=True)
    loss_B = LOSSES[loss.type](student_BA, rows_BL, known_BC=known_BC, **loss.arguments)
    return loss_B, answered_B


def _fused_labels(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The ensemble's fused boxes as labels; unknown where no teacher answered, or a class is known to none."""
    labels_BL = teacher_batch.batch.labels
    found, known_BC = fused_answers(
        teacher_batch.stacked,
        weights_TN,
        layout=layout_of(teacher_batch.student_NC),
        threshold=_SURE,
    )
    most = labels_BL.shape[1] // BOX
    rows_BL = rows_of(found.boxes_BN4, found.scores_BN, found.classes_BN, most, soft=False)
    return torch.where(known_BC.all(1, keepdim=True), rows_BL, torch.nan)


RULE = LearningRule(label_loss=_label_loss, soft_loss=_soft_loss, pseudo_labels=_fused_labels)
