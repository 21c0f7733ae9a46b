"""The rule facet of a task: what a student learns from labels and from teachers.

Shape suffixes: N units, T teachers, C outputs, M some of the units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raykd.config.methods import SoftLoss
from raykd.config.objective import Labels, Objective, SoftTargets
from raykd.objective.features import Shape
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.types import Batch, Dense, Headed, Output, Scale, TeacherOutputs

OUTPUT = ""
"""Tap of what a model itself returns."""

Counted = tuple[Tensor, Tensor]
"""Unweighted loss of each unit [N], and how much each unit counts [N], bool or float."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Validated:
    """What teachers of a role answered on validation.

    Attributes:
        teacher_infos: the teachers, in order.
        answers: teacher -> answers [N, C] as evaluation keeps them.
        labels_N: the labels, with unknown ones as the task has them.
        ids_N: the samples' ids.
        scale: the unit of a regression, None in other tasks.
    """

    teacher_infos: Sequence[TeacherInfo]
    answers: Mapping[str, Tensor]
    labels_N: Tensor
    ids_N: Tensor
    scale: Scale | None


def _as_they_are(
    outputs_NC: Tensor, batch: Batch, targets: TeacherOutputs, _scale: Scale | None
) -> tuple[Tensor, Batch, TeacherOutputs]:
    return outputs_NC, batch, targets


@dataclass(frozen=True, kw_only=True)
class SettledRule:
    """How the distributions that a student learns are made, where they depend on nothing that it says.

    Attributes:
        settles: soft targets and teachers -> whether these are KL to one distribution of the ensemble's.
        target: soft targets, batch and weights [T, N] -> that distribution, float64 [N, C].
        counts: soft targets and batch -> how much each unit counts [N], bool or float.
        label_target: labels' settings, labels [N] and C -> their distributions [N, C].
    """

    settles: Callable[[SoftTargets, Sequence[TeacherInfo]], bool]
    target: Callable[[SoftTargets, TeacherBatch, Tensor], Tensor]
    counts: Callable[[SoftTargets, TeacherBatch], Tensor]
    label_target: Callable[[Labels, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is told of training besides its terms; sums, so that steps and workers can be added up.

    Attributes:
        units: how many units of a batch are looked at, the first ones.
        sums: the student's outputs of these units [M, C], batch and the teachers' answers -> float64 sums of any shape.
        values: the added sums, names of teachers and names of the data's classes or domains -> name -> what -> value.
    """

    units: int
    sums: Callable[[Tensor, Batch, Sequence[Output]], Tensor]
    values: Callable[[Tensor, Sequence[str], Sequence[str]], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class LearningRule:
    """What one task learns, as functions; all state is the objective's.

    Attributes:
        label_loss: `objective.labels`, outputs [N, C] and labels -> loss against the labels.
        soft_loss: `objective.soft_targets`, batch, teachers' weights [T, N], `own_losses` where they were needed
            and the modules of `projectors` -> loss against the ensemble.
        pseudo_labels: batch and teachers' weights [T, N] -> the ensemble's answers as labels; unknown where no
            teacher answered.
        convert: outputs, batch, targets and scale -> the same in the units that losses are computed in.
        own_losses: loss and batch -> the student's loss against each teacher [T, N]; None where outputs of
            student and teacher cannot be compared without the modules of `projectors`, or never have to.
        disagreement: teachers, targets, weights [T, N] and temperatures [T] -> Jensen-Shannon divergence of the
            teachers, nats [N], or None; None where it is not defined.
        settled: what a student learns whose target depends on nothing that it says, see `raykd.objective.settled`;
            None where losses are no cross-entropies of a softmax.
        projectors: `objective`, teachers, and shapes of what student (by tap) and teachers (by name and tap) put
            out -> modules trained to compare the student's outputs with each teacher's.
        matched_losses: batch and the modules of `projectors` -> the student's loss against each teacher [T, N], of a
            rule that has modules for it.
        reported: batch and these modules -> name -> what is told of each unit besides the terms, without gradient.
        facts: `objective` and what its teachers answered on validation -> what has to be measured there before
            training, by name.
        with_facts: `objective` and facts -> `objective` with these in place of what it leaves open.
        labels_are_classes: whether labels are numbers of classes and outputs their logits, so that weightings may
            look at both.
        measures: what is told of training besides its terms; None where that is nothing.
        label_loss_in_chunks: the student's outputs before its last layer and labels -> as `label_loss`, in chunks of units;
            then `soft_loss` and `own_losses` take such outputs too, as `TeacherBatch.headed`. None where outputs are
            always needed as a whole.
        classes_of: labels -> the numbers of the classes [N], where labels say more than that.
        foreground: which kind, batch and the teachers' answers -> how much each place of a sample's image counts, float
            [B, h, w] in [0, 1], of any size; 0 throughout where it is not known. None where samples have no places.
    """

    label_loss: Callable[[Labels, Tensor, Tensor], Counted]
    soft_loss: Callable[[SoftTargets, TeacherBatch, Tensor, Tensor | None, nn.ModuleList], Counted]
    pseudo_labels: Callable[[TeacherBatch, Tensor], Tensor]
    convert: Callable[
        [Tensor, Batch, TeacherOutputs, Scale | None], tuple[Tensor, Batch, TeacherOutputs]
    ] = _as_they_are
    own_losses: Callable[[SoftLoss, TeacherBatch], Tensor] | None = None
    disagreement: (
        Callable[[Sequence[TeacherInfo], TeacherOutputs, Tensor, Tensor], Tensor | None] | None
    ) = None
    settled: SettledRule | None = None
    projectors: Callable[
        [Objective, Sequence[TeacherInfo], Mapping[str, Shape], Mapping[tuple[str, str], Shape]],
        Sequence[nn.Module],
    ] = lambda *_: ()
    matched_losses: Callable[[TeacherBatch, nn.ModuleList], Tensor] | None = None
    reported: Callable[[TeacherBatch, nn.ModuleList], Mapping[str, Counted]] = lambda *_: {}
    facts: Callable[[Objective, Validated], Mapping[str, float]] = lambda *_: {}
    with_facts: Callable[[Objective, Mapping[str, float]], Objective] = lambda settings, _: settings
    labels_are_classes: bool = False
    measures: Measures | None = None
    label_loss_in_chunks: Callable[[Headed, Tensor], Counted] | None = None
    classes_of: Callable[[Tensor], Tensor] = lambda labels_N: labels_N
    foreground: Callable[[str, Batch, Sequence[Dense]], Tensor] | None = None


def knows_few(teacher_infos: Sequence[TeacherInfo]) -> bool:
    """Whether a teacher knows some of the classes only."""
    return any(teacher.known is not None for teacher in teacher_infos)


def stacked(teacher_batch: TeacherBatch) -> Tensor:
    """The teachers' outputs as they are stored, [T, N, C]."""
    return torch.stack([answer.values_NC for answer in teacher_batch.outputs])
