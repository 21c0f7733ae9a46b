"""labels·CE + soft_targets·T²KL for every predicted token; its label is the token itself.

Shape suffixes: N units, T teachers, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from raykd.config.objective import Labels
from raykd.data.chunks import TOKEN
from raykd.objective.rule import LearningRule
from raykd.objective.teacher_batch import TeacherBatch
from raykd.tasks.classification.rule import RULE as CLASS_RULE


def _label_loss(settings: Labels, logits_NV: Tensor, labels_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N] in nats."""
    return CLASS_RULE.label_loss(settings, logits_NV, labels_N4[:, TOKEN])


def _no_labels(teacher_batch: TeacherBatch, _weights_TN: Tensor) -> Tensor:
    return teacher_batch.batch.labels


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=CLASS_RULE.soft_loss,
    pseudo_labels=_no_labels,
    own_losses=CLASS_RULE.own_losses,
    disagreement=CLASS_RULE.disagreement,
    labels_are_classes=True,
    classes_of=lambda labels_N4: labels_N4[:, TOKEN],
)
