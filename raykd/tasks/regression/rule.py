"""labels·MSE + soft_targets·ℓ(student, Σ_k w_k teacher_k, label) + Σ features, of values.

Shapes: N units, T teachers; values are [N, 1]. What leaves a model is in original units; here, and only
here, student, teachers and labels are standardised by the labelled training values, so that weights,
margins and learning rates mean the same whatever the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from raykd.config.methods import LossSettings
from raykd.config.objective import Labels, Objective, SoftTargets
from raykd.ensemble import mean_logits
from raykd.losses import LOSSES
from raykd.objective.rule import LearningRule, Validated, stacked
from raykd.objective.teacher_batch import TeacherBatch
from raykd.types import Batch, Scale, TeacherOutputs, is_labelled

_RANGE = "error_range"


def _standardise(
    values_N1: Tensor, batch: Batch, targets: TeacherOutputs, scale: Scale | None
) -> tuple[Tensor, Batch, TeacherOutputs]:
    assert scale is not None, "the samples of a regression have a scale"
    standardised, mixed = scale.standardised, batch.mixed
    if mixed is not None:
        mixed = replace(mixed, partner_labels_B=standardised(mixed.partner_labels_B))
    return (
        standardised(values_N1),
        replace(batch, labels=standardised(batch.labels), mixed=mixed),
        {
            name: replace(answer, values_NC=standardised(answer.values_NC))
            for name, answer in targets.items()
        },
    )


def _label_loss(settings: Labels, values_N1: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error [N] in squared deviations, or Huber loss."""
    known_N = is_labelled(labels_N)
    safe_N1 = torch.where(known_N, labels_N, 0.0)[:, None]
    loss_N = _distance(settings.loss)(values_N1, safe_N1)
    return loss_N, known_N.to(loss_N.dtype)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    _own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    values_N1, batch, loss = teacher_batch.student_NC, teacher_batch.batch, settings.loss
    mean_N1 = mean_logits(stacked(teacher_batch), weights_TN)
    labels_N = _blended(batch)
    labels_N1, every_N = labels_N[:, None], torch.ones_like(batch.present_B)
    if loss.type == "bounded":
        # It compares errors: without a label it says nothing.
        return _distance(loss, labels=labels_N1)(values_N1, mean_N1), is_labelled(labels_N)
    if loss.type == "imitation":
        error_range = loss.knob(_RANGE)
        assert error_range is not None, "facts give what the recipe leaves open"
        distance = _distance(loss, labels=labels_N1, error_range=error_range)
        return distance(values_N1, mean_N1), every_N
    return _distance(loss)(values_N1, mean_N1), every_N


def _mean_value(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The ensemble's mean value [N]; NaN where no teacher answered."""
    mean_N = mean_logits(stacked(teacher_batch), weights_TN)[:, 0]
    return torch.where(weights_TN.sum(dim=0) > 0, mean_N, torch.nan)


def _facts(settings: Objective, validated: Validated) -> Mapping[str, float]:
    """η of attentive imitation: largest less smallest squared error of the mean of the teachers.

    In squared standard deviations. The paper takes training samples; the teachers here are fitted
    on those and err little there, so that the range would tell nothing of new samples.
    """
    soft = settings.soft_targets
    if soft is None or _RANGE not in soft.loss.row.needs or not validated.answers:
        return {}
    scale, labels_N = validated.scale, validated.labels_N
    assert scale is not None, "the samples of a regression have a scale"
    known_N = is_labelled(labels_N)
    mean_N1 = torch.stack(list(validated.answers.values())).mean(dim=0)
    errors = (mean_N1[known_N, 0].double() - labels_N[known_N].double()).square() / scale.std**2
    return {_RANGE: max(float(errors.max() - errors.min()), torch.finfo(torch.float32).eps)}


def _with_facts(settings: Objective, facts: Mapping[str, float]) -> Objective:
    soft = settings.soft_targets
    if soft is None or _RANGE not in soft.loss.row.needs:
        return settings
    loss = soft.loss
    if loss.knob(_RANGE) is None and _RANGE in facts:
        loss = loss.model_copy(update={_RANGE: facts[_RANGE]})
    return settings.model_copy(update={"soft_targets": soft.model_copy(update={"loss": loss})})


def _distance(
    loss: LossSettings | None, **more: Tensor | float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of a loss with its knobs; of none the squared error."""
    if loss is None:
        return LOSSES["mse"]
    return partial(LOSSES[loss.type], **loss.arguments, **more)


def _blended(batch: Batch) -> Tensor:
    """Values [N] of samples as shown: of two that are blended their mean by share; NaN where one is not known."""
    if batch.mixed is None:
        return batch.labels
    share_N, partners_N = batch.mixed.share_B, batch.mixed.partner_labels_B
    between_N = share_N * batch.labels + (1 - share_N) * partners_N
    return torch.where(share_N < 1, between_N, batch.labels)


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_mean_value,
    convert=_standardise,
    facts=_facts,
    with_facts=_with_facts,
)
