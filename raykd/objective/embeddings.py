"""The objective of an embedding: each teacher's vectors, or the relations between samples that they show.

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
from raykd.config.objective import FeatureTerm, Objective
from raykd.losses.relational import mean_of_relations
from raykd.objective.distill import DistillObjective
from raykd.objective.features import FeatureLoss, Shape
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.types import Batch, Dense, Scale, TeacherOutputs

OUTPUT = ""
"""Tap of what a model itself returns."""


class EmbeddingObjective(DistillObjective):
    """soft_targets · Σ_k w_k ℓ(student, teacher k), or ℓ(relations of the student, Σ_k w_k those of k) + Σ features.

    Args:
        settings: the recipe's `objective`.
        teacher_infos: the teachers to listen to, in a fixed order.
        student_shapes: tap -> shape without batch; at `OUTPUT` the student's own [D].
        teacher_shapes: (teacher, tap) -> shape without batch; at `OUTPUT` each teacher's own [D].
        class_weights_C: there are none.
        scale: there is none.
        error_range: there is none.
    """

    classes = False

    def __init__(
        self,
        settings: Objective,
        teacher_infos: Sequence[TeacherInfo],
        *,
        student_shapes: Mapping[str, Shape],
        teacher_shapes: Mapping[tuple[str, str], Shape],
        class_weights_C: Tensor | None = None,
        scale: Scale | None = None,
        error_range: float | None = None,
    ) -> None:
        super().__init__(
            settings,
            teacher_infos,
            student_shapes=student_shapes,
            teacher_shapes=teacher_shapes,
            class_weights_C=class_weights_C,
            scale=scale,
            error_range=error_range,
        )
        soft = settings.soft_targets
        own = () if soft is None or _averages(settings) else self.teacher_infos
        self.matches = nn.ModuleList(
            FeatureLoss(
                FeatureTerm(
                    loss=_of_vectors(soft.loss),
                    teacher=teacher.name,
                    student_tap=OUTPUT,
                    teacher_tap=OUTPUT,
                ),
                student_shapes,
                teacher_shapes,
            )
            for teacher in own
            if soft is not None
        )

    @property
    def projectors(self) -> list[nn.Module]:
        """Those of the teachers' vectors, then of the feature terms."""
        parts = [*self.matches, *self.features]
        return [part.projector for part in parts if isinstance(part, FeatureLoss)]

    def _own_losses(self, teacher_batch: TeacherBatch) -> None:  # noqa: ARG002 (the projectors need the batch)
        return None

    def _soft_targets(
        self,
        teacher_batch: TeacherBatch,
        weights_TN: Tensor,
        own_TN: Tensor | None,  # noqa: ARG002 (none is asked for)
        batch: Batch,
        targets: TeacherOutputs,
    ) -> tuple[Tensor, Tensor]:
        if _averages(self.settings):
            return self._relations(teacher_batch, weights_TN)
        total_N = torch.zeros_like(weights_TN[0])
        for part, teacher, weight_N in zip(
            self.matches, self.teacher_infos, weights_TN, strict=True
        ):
            answer = targets[teacher.name]
            # A teacher that is left out answers zeros, which may be of another one's length.
            said = {OUTPUT: answer.values_NC} if bool(answer.valid_N.any()) else {}
            vectors: Dense = replace(answer, features=said)
            loss_N, _ = part(
                {OUTPUT: teacher_batch.student_NC}, batch, vectors, teacher_batch.context
            )
            total_N = total_N + weight_N * loss_N
        return total_N, teacher_batch.available_TN.any(dim=0)

    def _relations(self, teacher_batch: TeacherBatch, weights_TN: Tensor) -> tuple[Tensor, Tensor]:
        """The student's relations against the mean of the teachers', over the units that all of them answered.

        A teacher that answered none, of no worker, is left out.
        """
        soft = self.settings.soft_targets
        assert soft is not None, "the term is only computed when it is configured"
        available_TN = teacher_batch.available_TN
        answers_T = teacher_batch.context.all_sum(available_TN.sum(dim=1).float())
        heard_T = answers_T > 0
        counted_N = available_TN[heard_T].all(dim=0) & heard_T.any()
        gather = None
        if soft.loss.knob("scope") == "global":
            gather = teacher_batch.context.gather(int(counted_N.sum()))
        among = mean_of_relations(
            soft.loss.type,
            teacher_batch.student_NC[counted_N],
            [
                a[counted_N]
                for a, kept in zip(teacher_batch.answers, heard_T.tolist(), strict=True)
                if kept
            ],
            weights_TN[heard_T][:, counted_N],
            gather=gather,
        )
        loss_N = among.new_zeros(len(counted_N)).index_put((counted_N.nonzero()[:, 0],), among)
        return loss_N, counted_N

    def _label_loss(self, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing is learnt from labels: 0 [N], which counts nowhere [N]."""
        nothing_N = torch.zeros(len(labels_N), device=logits_NC.device)
        return nothing_N, nothing_N


def _averages(settings: Objective) -> bool:
    """Whether the teachers' relations are averaged; else each teacher has a loss of its own."""
    soft = settings.soft_targets
    return soft is not None and soft.mixing == "relations"


def _of_vectors(loss: LossSettings) -> LossSettings:
    """The loss of features that compares vectors as `loss` says."""
    if loss.type == "mse":
        return LOSSES["hint"]()
    assert loss.row.vectors, "cross_check refuses losses of logits"
    return loss
