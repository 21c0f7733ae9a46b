"""labels·CE + soft_targets·T²KL + Σ features, of logits of classes.

Shape suffixes: N units, T teachers, C classes, M the first units of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import Labels, Objective, SoftTargets
from raykd.ensemble import (
    SHARPENING_BOUNDS,
    calibration_half,
    fit_temperature,
    jensen_shannon,
    mean_logits,
    mean_of_known,
    mean_probabilities,
)
from raykd.ensemble.combine import Order
from raykd.objective.rule import LearningRule, SettledRule, Validated, knows_few, stacked
from raykd.objective.soft_targets import (
    agreement_weights,
    ensemble_loss,
    own_losses,
    pooled,
    remade,
)
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.objective.terms import NOW
from raykd.objective.weighting import steady, teacher_weights
from raykd.types import ORIGINAL_VIEW, UNLABELLED, Batch, Dense, TeacherOutputs

SHARPEN = "sharpen"
"""Name of the fact: T_c."""


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
    return loss_N, _counts(settings, teacher_batch)


def _counts(settings: SoftTargets, teacher_batch: TeacherBatch) -> Tensor:
    """Units that a teacher answered, [N]; by how far the teachers agree where that counts."""
    if settings.disagreement is not None:
        return agreement_weights(settings.disagreement, teacher_batch)
    return teacher_batch.available_TN.any(dim=0)


def _most_probable(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The ensemble's most probable class [N]; −1 where no teacher answered."""
    logits_TNC, temperatures_T = stacked(teacher_batch), teacher_batch.temperatures_T
    if teacher_batch.known is not None:
        tempered_TNC = logits_TNC / temperatures_T[:, None, None]
        mixed_NC = mean_of_known(tempered_TNC, weights_TN, teacher_batch.knowing)
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
    """None where there is one teacher, or where one knows only some classes."""
    if len(teacher_infos) < 2 or knows_few(teacher_infos):
        return None
    logits_TNC = torch.stack([targets[teacher.name].values_NC for teacher in teacher_infos])
    return jensen_shannon(logits_TNC, weights_TN, temperatures_T)


def _settles(soft: SoftTargets, teacher_infos: Sequence[TeacherInfo]) -> bool:
    """Whether the loss is KL to a mixture, over all classes and with the student's logits as they are."""
    if soft.remakes_target:
        return True
    if soft.loss.type != "kl" or soft.loss.knob("standardise") or soft.mixing == "losses":
        return False
    return soft.mixing != "probabilities" or not knows_few(teacher_infos)


def _target(soft: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The distribution [N, C], float64, of the mixture that `ensemble_loss` compares the student with."""
    exact = replace(
        teacher_batch, answers=tuple(answer_NC.double() for answer_NC in teacher_batch.answers)
    )
    if soft.remakes_target:
        return remade(soft, exact, weights_TN)
    temperature = teacher_batch.temperature
    if soft.mixing == "logits":
        return (mean_logits(exact.stacked, weights_TN) / temperature).softmax(dim=1)
    order: Order = "temper_then_mix" if soft.mixing == "probabilities" else "mix_then_temper"
    return mean_probabilities(
        exact.stacked, weights_TN, temperatures_T=temperature, order=order
    ).exp()


def _label_target(settings: Labels, labels_N: Tensor, classes: int) -> Tensor:
    """One-hot, smoothed over all classes, float64 [N, C]; of class 0 where unlabelled."""
    share = settings.smoothing / classes
    target_NC = torch.full(
        (len(labels_N), classes), share, dtype=torch.float64, device=labels_N.device
    )
    return target_NC.scatter_add_(
        1, labels_N.clamp(min=0)[:, None], torch.full_like(target_NC[:, :1], 1 - settings.smoothing)
    )


def _facts(settings: Objective, validated: Validated) -> Mapping[str, float]:
    """T_c of the mixture of the teachers: of least NLL on the half of validation that fits temperatures.

    The teachers are weighed as the objective does, or uniformly where that looks at the student. Where fewer
    than two samples of that half are labelled it is 1.
    """
    soft = settings.soft_targets
    if soft is None or soft.sharpen != "fit" or not validated.answers:
        return {}
    half_N = calibration_half(validated.ids_N) & (validated.labels_N != UNLABELLED)
    if int(half_N.sum()) < 2:
        return {SHARPEN: 1.0}
    labels_N = validated.labels_N[half_N]
    teacher_batch = _validation_batch(validated, half_N, labels_N)
    weighting = steady(settings.weighting)
    weights_TN = teacher_weights(weighting, None, validated.teacher_infos, teacher_batch, None)
    log_probs_NC = pooled(soft, teacher_batch, weights_TN)
    return {SHARPEN: fit_temperature(log_probs_NC, labels_N, SHARPENING_BOUNDS)}


def _validation_batch(validated: Validated, rows_N: Tensor, labels_N: Tensor) -> TeacherBatch:
    """What the teachers answered to some validation samples, as a student that says nothing would see it."""
    infos = validated.teacher_infos
    present_N = torch.ones(len(labels_N), dtype=torch.bool)
    outputs = tuple(
        Dense(kind="logits", values_NC=validated.answers[info.name][rows_N], valid_N=present_N)
        for info in infos
    )
    ids_N = validated.ids_N[rows_N]
    device = labels_N.device
    return TeacherBatch(
        student_NC=torch.zeros_like(outputs[0].values_NC),
        answers=tuple(o.values_NC / i.temperature for o, i in zip(outputs, infos, strict=True)),
        available_TN=present_N.expand(len(infos), len(labels_N)),
        labels_N=labels_N,
        ids_N=ids_N,
        temperature=1.0,
        context=NOW,
        batch=Batch(
            ids=ids_N,
            rows=ids_N,
            view_B=torch.full_like(ids_N, ORIGINAL_VIEW),
            inputs={},
            labels=labels_N,
            present_B=present_N,
        ),
        outputs=outputs,
        temperatures_T=torch.tensor([info.temperature for info in infos]),
        known=tuple(
            None if i.known is None else torch.tensor(i.known, device=device) for i in infos
        )
        if knows_few(infos)
        else None,
    )


def _with_facts(settings: Objective, facts: Mapping[str, float]) -> Objective:
    soft = settings.soft_targets
    if soft is None or soft.sharpen != "fit" or SHARPEN not in facts:
        return settings
    return settings.model_copy(
        update={"soft_targets": soft.model_copy(update={"sharpen": facts[SHARPEN]})}
    )


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_most_probable,
    own_losses=own_losses,
    disagreement=_disagreement,
    settled=SettledRule(
        settles=_settles, target=_target, counts=_counts, label_target=_label_target
    ),
    facts=_facts,
    with_facts=_with_facts,
    labels_are_classes=True,
)
