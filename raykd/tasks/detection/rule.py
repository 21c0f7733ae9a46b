"""labels·boxes + soft_targets·(the teachers location by location, or their fused boxes) + Σ features.

A unit is an image. Shapes: B images, T teachers, A numbers of an answer, M boxes; see `raykd.detection.layout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raykd.config.methods import SoftLoss
from raykd.config.objective import Labels, SoftTargets
from raykd.detection.layout import BOX, Layout, layout_for, layout_of, rows_of, true_boxes, unpacked
from raykd.detection.locations import painted
from raykd.detection.structured import are_structured
from raykd.ensemble.detectors import fused_answers, mean_answers
from raykd.losses import LOSSES
from raykd.losses.detection import localisation_of_answers
from raykd.objective.rule import LearningRule
from raykd.objective.teacher_batch import TeacherBatch
from raykd.tasks.detection.labels import STRIDE
from raykd.types import Batch, Dense, is_labelled

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
        loss_B = LOSSES[loss.type](student_BA, mean_BA, **loss.arguments)
        return loss_B + _localised(loss, student_BA, stacked_TBA, weights_TN, layout), answered_B
    found, known_BC = fused_answers(
        stacked_TBA,
        weights_TN,
        layout=layout,
        threshold=float(str(loss.knob("threshold"))),
        iou=float(str(loss.knob("iou"))),
        suppression=loss.knob("suppression"),
    )
    rows_BL = rows_of(found.boxes_BN4, found.scores_BN, found.classes_BN, _MOST, soft=True)
    loss_B = LOSSES[loss.type](student_BA, rows_BL, known_BC=known_BC, **loss.arguments)
    return loss_B, answered_B


def _localised(
    loss: SoftLoss, student_BA: Tensor, stacked_TBA: Tensor, weights_TB: Tensor, layout: Layout
) -> Tensor:
    """Localisation distillation by each teacher [B], the weighted sum, so that its gradient is that of all.

    λ Σ_t w_t Σ_n m_tn LD_tn / max(1, Σ_t w_t Σ_n m_tn), with m_tn the teacher's largest probability at the location.
    """
    weight = float(str(loss.knob("localisation")))
    if not weight:
        return student_BA.new_zeros(len(student_BA))
    temperature = float(str(loss.knob("edge_temperature")))
    total_B, count_B = student_BA.new_zeros(len(student_BA)), student_BA.new_zeros(len(student_BA))
    for one_BA, weight_B in zip(stacked_TBA, weights_TB, strict=True):
        safe_BA = torch.where(weight_B[:, None] > 0, one_BA, 0.0)
        sure_BN = unpacked(safe_BA, layout).scores_BNC.amax(-1) * weight_B[:, None]
        total_B = total_B + localisation_of_answers(
            student_BA, safe_BA, sure_BN, temperature=temperature
        )
        count_B = count_B + sure_BN.sum(1)
    return weight * total_B / count_B.clamp(min=1.0)


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


def _foreground(kind: str, batch: Batch, answers: Sequence[Dense]) -> Tensor:
    """How much each place counts, [B, rows, columns]: 1 within true boxes, or the teachers' largest probability there.

    Of an image without labels, or without answers, nothing counts. Of boxes at no fixed locations the fused ones count with
    their scores, throughout.
    """
    (image,) = batch.inputs.values()
    height, width = image.shape[-2:]
    layout = layout_for(1, height, width, stride=STRIDE)
    if kind == "truth":
        truth = true_boxes(batch.labels)
        scores_BM = (truth.present_BM & (truth.scores_BM > 0)).to(image)
        return _map(painted(layout.centres(image), truth.boxes_BM4.to(image), scores_BM), layout)
    stacked_TBA = torch.stack([one.values_NC for one in answers])
    answered_TB = torch.stack([one.valid_N for one in answers]).to(stacked_TBA)
    said = stacked_TBA.flatten(0, 1)
    said = said[said[:, 0] > 0][:1]
    if not len(said):
        return image.new_zeros(len(image), layout.rows, layout.columns)
    own = layout_of(said)
    if any(are_structured(one_BA) for one_BA in stacked_TBA):
        found, _ = fused_answers(stacked_TBA, answered_TB, layout=own, threshold=0.0)
        return _map(painted(own.centres(stacked_TBA), found.boxes_BN4, found.scores_BN), own)
    scores_BN = unpacked(mean_answers(stacked_TBA, answered_TB, own), own).scores_BNC.amax(-1)
    return _map(scores_BN, own)


def _map(values_BN: Tensor, layout: Layout) -> Tensor:
    return values_BN.reshape(len(values_BN), layout.rows, layout.columns)


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_fused_labels,
    foreground=_foreground,
)
