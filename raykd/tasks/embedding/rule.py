"""soft_targets · Σ_k w_k ℓ(student, teacher k), or ℓ(relations of the student, Σ_k w_k those of k) + Σ features.

Shapes: N units, T teachers, D dimensions (student and teachers have each their own). A vector is compared through
a projector of its teacher's own, which trains beside the student and never reaches the export; relations need
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from raykd.config.methods import LOSSES, LossSettings
from raykd.config.objective import (
    FeatureTerm,
    Labels,
    Objective,
    SoftTargets,
)
from raykd.losses.relational import mean_of_relations
from raykd.objective.features import FeatureLoss, Shape
from raykd.objective.rule import OUTPUT, Counted, LearningRule
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.types import Dense


def _projectors(
    settings: Objective,
    teacher_infos: Sequence[TeacherInfo],
    student_shapes: Mapping[str, Shape],
    teacher_shapes: Mapping[tuple[str, str], Shape],
) -> Sequence[nn.Module]:
    """A loss with its projector for each teacher; none where the teachers' relations are averaged."""
    soft = settings.soft_targets
    if soft is None or soft.mixing == "relations":
        return ()
    loss = _of_vectors(soft.loss)
    return [
        FeatureLoss(
            FeatureTerm(
                loss=loss,
                teacher=teacher.name,
                student_tap=OUTPUT,
                teacher_tap=OUTPUT,
                projector=soft.projector,
                target=soft.target,
            ),
            student_shapes,
            teacher_shapes,
        )
        for teacher in teacher_infos
    ]


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    own_TN: Tensor | None,
    projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    if settings.mixing == "relations":
        return _relations(settings, teacher_batch, weights_TN)
    losses_TN = _each_loss(teacher_batch, projectors) if own_TN is None else own_TN
    total_N = torch.zeros_like(weights_TN[0])
    for loss_N, weight_N in zip(losses_TN, weights_TN, strict=True):
        total_N = total_N + weight_N * loss_N
    return total_N, teacher_batch.available_TN.any(dim=0)


def _each_loss(teacher_batch: TeacherBatch, projectors: nn.ModuleList) -> Tensor:
    """The student's vectors against those of each teacher [T, N]."""
    batch, context = teacher_batch.batch, teacher_batch.context
    student = {OUTPUT: teacher_batch.student_NC}
    pairs = zip(projectors, teacher_batch.outputs, strict=True)
    found = [part(student, batch, _as_features(answer), context)[0] for part, answer in pairs]
    return torch.stack(found)


def _as_features(answer: Dense) -> Dense:
    """A teacher's vectors as a feature; none of one that is left out, whose zeros may be of another one's length."""
    vectors = {OUTPUT: answer.values_NC} if bool(answer.valid_N.any()) else {}
    return replace(answer, features=vectors)


def _in_spreads(teacher_batch: TeacherBatch, projectors: nn.ModuleList) -> dict[str, Counted]:
    """How far the student is from each teacher, in units of the teacher's own spread; see `FeatureLoss.in_spreads`."""
    if not len(projectors):  # relations have none
        return {}
    student = {OUTPUT: teacher_batch.student_NC}
    found: dict[str, Counted] = {}
    for part, answer in zip(projectors, teacher_batch.outputs, strict=True):
        assert isinstance(part, FeatureLoss), "whatever projects the teachers' outputs"
        counted_N = answer.valid_N & teacher_batch.batch.present_B
        for what, loss_N in part.in_spreads(student, _as_features(answer)).items():
            found[f"{what}.{part.term.teacher}"] = loss_N, counted_N
    return found


def _relations(
    settings: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's relations against the mean of the teachers', over the units that all of them answered.

    A teacher that answered none, of no worker, is left out.
    """
    available_TN, context = teacher_batch.available_TN, teacher_batch.context
    answers_T = context.all_sum(available_TN.sum(dim=1).float())
    kept_T = answers_T > 0
    counted_N = available_TN[kept_T].all(dim=0) & kept_T.any()
    gather = None
    if settings.loss.knob("scope") == "global":
        gather = context.gather(int(counted_N.sum()))
    pairs = zip(teacher_batch.answers, kept_T.tolist(), strict=True)
    among = mean_of_relations(
        settings.loss.type,
        teacher_batch.student_NC[counted_N],
        [answer_ND[counted_N] for answer_ND, kept in pairs if kept],
        weights_TN[kept_T][:, counted_N],
        gather=gather,
    )
    loss_N = among.new_zeros(len(counted_N)).index_put((counted_N.nonzero()[:, 0],), among)
    return loss_N, counted_N


def _label_loss(_settings: Labels, outputs_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is learnt from labels: 0 [N], which counts nowhere [N]."""
    nothing_N = torch.zeros(len(labels_N), device=outputs_ND.device)
    return nothing_N, nothing_N


def _no_labels(teacher_batch: TeacherBatch, _weights_TN: Tensor) -> Tensor:
    return teacher_batch.batch.labels


def _of_vectors(loss: LossSettings) -> LossSettings:
    """The loss of features that compares vectors as `loss` says."""
    if loss.type == "mse":
        return LOSSES["hint"]()
    assert loss.row.vectors, "cross_check refuses losses of logits"
    return loss


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_no_labels,
    projectors=_projectors,
    matched_losses=_each_loss,
    reported=_in_spreads,
)
