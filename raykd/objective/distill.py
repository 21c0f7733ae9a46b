"""From configuration to a callable objective: labels + soft targets + features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import Objective, SoftTargets
from raykd.ensemble import jensen_shannon, mean_of_known, mean_probabilities
from raykd.objective.features import FeatureLoss, Shape
from raykd.objective.schedules import strengths_at
from raykd.objective.soft_targets import agreement_weights, ensemble_loss, own_losses
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.objective.terms import NOW, Context, Term
from raykd.objective.weighting import needs_losses, teacher_weights
from raykd.types import UNLABELLED, Batch, Scale, TeacherOutputs, is_labelled

_TINY = 1e-12
_COMPARED = 16
"""Units of a batch on which the teachers' disagreement is measured."""
_PLAIN = SoftTargets(temperature=1.0)


class DistillObjective(nn.Module):
    """labels·CE + soft_targets·T²KL + Σ features, each per unit and unreduced.

    It is a module because of its projectors, learnt variances and running statistics, which train beside
    the student, are checkpointed, and never reach the export.

    Args:
        settings: the recipe's `objective`.
        teacher_infos: the teachers to listen to, in a fixed order; empty for labels alone.
        student_shapes: tap -> shape without batch, for the feature terms.
        teacher_shapes: (teacher, tap) -> shape without batch.
        class_weights_C: factors of the label term per class, or None.
        scale: the unit in which a regression is learnt; None in other tasks.
        error_range: largest less smallest squared error of the ensemble on validation, standardised, for
            `imitation`; None where it is not asked for.
    """

    classes: ClassVar[bool] = True
    """Whether the outputs are logits of classes."""
    class_weights_C: Tensor | None
    temperatures_T: Tensor

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
        super().__init__()
        self.scale, self.error_range = scale, error_range
        self.settings = settings
        self.teacher_infos = tuple(teacher_infos)
        self.register_buffer("class_weights_C", class_weights_C, persistent=False)
        temperatures_T = torch.tensor([teacher.temperature for teacher in teacher_infos])
        self.register_buffer("temperatures_T", temperatures_T, persistent=False)
        self.features = nn.ModuleList(
            FeatureLoss(term, student_shapes, teacher_shapes) for term in settings.features
        )

    @property
    def projectors(self) -> list[nn.Module]:
        """The projector of each feature term; `nn.Identity` where it has none."""
        return [part.projector for part in self.features if isinstance(part, FeatureLoss)]

    @property
    def needs_teachers(self) -> bool:
        """Whether any term uses what teachers say."""
        return bool(self.teacher_infos)

    def forward(
        self,
        logits_NC: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: TeacherOutputs,
        context: Context = NOW,
    ) -> tuple[dict[str, Term], Tensor | None]:
        """The terms of one batch, and the teachers' weights [T, N] when there are teachers.

        Args:
            logits_NC: the student's logits, float32 [N, C].
            features: student tap -> [B, ...].
            batch: the batch, with labels −1 where unlabelled.
            targets: what each teacher says of it.
            context: when it comes, and the other workers.
        """
        now = strengths_at(self.settings, context.epoch)
        terms: dict[str, Term] = {}
        weights_TN = None
        pseudo_N = None
        if self.teacher_infos:
            teacher_batch = self._teacher_batch(logits_NC, batch, targets, now.temperature, context)
            own_TN = self._own_losses(teacher_batch)
            weights_TN = teacher_weights(
                self.settings.weighting,
                self.settings.soft_targets,
                self.teacher_infos,
                teacher_batch,
                own_TN,
            )
            answered_N = weights_TN.sum(dim=0) > 0
            if self.settings.soft_targets is not None:
                loss_N, told_N = self._soft_targets(
                    teacher_batch, weights_TN, own_TN, batch, targets
                )
                counted_N = batch.present_B & answered_N
                scale = self.settings.weighting.strength(len(self.teacher_infos))
                terms["soft_targets"] = Term(loss_N, counted_N * told_N, scale * now.soft_targets)
            if self.settings.labels.fill == "ensemble":
                pseudo_N = self._guess(weights_TN, targets)
        terms["labels"] = self._labels(logits_NC, batch, pseudo_N, now.labels)
        for index, (part, weight) in enumerate(zip(self.features, now.features, strict=True)):
            answer = targets[self.settings.features[index].teacher]
            loss_B, counted_B = part(features, batch, answer, context)
            terms[f"features.{index}"] = Term(loss_B, counted_B, weight)
        return terms, weights_TN

    def disagreement(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor | None:
        """Jensen-Shannon divergence of the teachers on the first units of a batch, nats [M ≤ 16].

        None where outputs are no logits of classes, where there is one teacher, or where one knows only
        some classes.
        """
        if not self.classes or len(self.teacher_infos) < 2 or self._partial:
            return None
        first_TMC = torch.stack([targets[v.name].values_NC[:_COMPARED] for v in self.teacher_infos])
        weights_TM = weights_TN[:, :_COMPARED]
        answered_M = weights_TM.sum(dim=0) > 0
        return jensen_shannon(first_TMC, weights_TM, self.temperatures_T)[answered_M]

    @property
    def _partial(self) -> bool:
        return any(teacher.known is not None for teacher in self.teacher_infos)

    def _stack(self, targets: TeacherOutputs) -> Tensor:
        return torch.stack([targets[teacher.name].values_NC for teacher in self.teacher_infos])

    def _teacher_batch(
        self,
        logits_NC: Tensor,
        batch: Batch,
        targets: TeacherOutputs,
        temperature: float,
        context: Context,
    ) -> TeacherBatch:
        answers = ((teacher, targets[teacher.name].values_NC) for teacher in self.teacher_infos)
        valid_TN = torch.stack([targets[teacher.name].valid_N for teacher in self.teacher_infos])
        labels_N = batch.labels if self.classes else None
        if labels_N is not None and batch.mixed is not None:
            labels_N = torch.where(batch.mixed.share_B < 1, UNLABELLED, labels_N)
        return TeacherBatch(
            student_NC=logits_NC,
            answers=tuple(z if v.temperature == 1.0 else z / v.temperature for v, z in answers),
            available_TN=valid_TN & batch.present_B,
            labels_N=labels_N,
            ids_N=batch.ids,
            temperature=temperature,
            context=context,
            known=self._known(logits_NC.device),
        )

    def _known(self, device: torch.device) -> tuple[Tensor | None, ...] | None:
        if not self._partial:
            return None
        known = [teacher.known for teacher in self.teacher_infos]
        return tuple(None if k is None else torch.tensor(k, device=device) for k in known)

    def _own_losses(self, teacher_batch: TeacherBatch) -> Tensor | None:
        """The student's loss against each teacher [T, N], where it is added up or weighed by."""
        soft = self.settings.soft_targets or _PLAIN
        added = self.settings.soft_targets is not None and soft.mixing == "losses"
        if not added and not needs_losses(self.settings.weighting):
            return None
        with torch.set_grad_enabled(added and torch.is_grad_enabled()):
            return own_losses(soft.loss, teacher_batch)

    def _soft_targets(
        self,
        teacher_batch: TeacherBatch,
        weights_TN: Tensor,
        own_TN: Tensor | None,
        batch: Batch,  # noqa: ARG002 (other tasks look at labels)
        targets: TeacherOutputs,  # noqa: ARG002 (other tasks mix in their own way)
    ) -> tuple[Tensor, Tensor]:
        """Unweighted loss against the ensemble [N], and how much each unit counts, bool or float [N]."""
        settings = self.settings.soft_targets
        assert settings is not None, "the term is only computed when it is configured"
        loss_N = ensemble_loss(settings, teacher_batch, weights_TN, own_TN)
        if settings.disagreement is not None:
            return loss_N, agreement_weights(settings.disagreement, teacher_batch)
        return loss_N, teacher_batch.available_TN.any(dim=0)

    def _guess(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor:
        """The ensemble's answer as a label: its most probable class [N]; −1 where no teacher answered."""
        logits_TNC = self._stack(targets)
        if self._partial:
            known_TC = torch.ones_like(logits_TNC[:, 0], dtype=torch.bool)
            for known_C, some in zip(known_TC, self._known(known_TC.device) or (), strict=True):
                if some is not None:
                    known_C.fill_(False).scatter_(0, some, True)
            tempered_TNC = logits_TNC / self.temperatures_T[:, None, None]
            mixed_NC = mean_of_known(tempered_TNC, weights_TN, known_TC)
        else:
            mixed_NC = mean_probabilities(
                logits_TNC, weights_TN, temperatures_T=self.temperatures_T
            )
        answered_N = weights_TN.sum(dim=0) > 0
        return torch.where(answered_N, mixed_NC.argmax(dim=1), UNLABELLED)

    def _labels(
        self, logits_NC: Tensor, batch: Batch, pseudo_N: Tensor | None, weight: float
    ) -> Term:
        labels_N, mixed = batch.labels, batch.mixed
        partners_N = labels_N if mixed is None else mixed.partner_labels_B
        whole_N = torch.ones(len(labels_N), device=labels_N.device)
        share_N = whole_N if mixed is None else mixed.share_B
        blended_N = share_N < 1
        if pseudo_N is not None:
            unknown_N = ~is_labelled(labels_N) | (blended_N & ~is_labelled(partners_N))
            unknown_N = unknown_N.view(-1, *[1] * (labels_N.ndim - 1))
            labels_N = torch.where(unknown_N, pseudo_N, labels_N)
            partners_N = torch.where(unknown_N, pseudo_N, partners_N)
        loss_N, valid_N = self._label_loss(logits_NC, labels_N)
        if mixed is not None:
            partner_loss_N, partner_valid_N = self._label_loss(logits_NC, partners_N)
            own_N, other_N = share_N * valid_N, (1 - share_N) * partner_valid_N
            known_N = is_labelled(labels_N) & (is_labelled(partners_N) | ~blended_N)
            valid_N = (own_N + other_N) * known_N
            loss_N = (own_N * loss_N + other_N * partner_loss_N) / valid_N.clamp(min=_TINY)
        valid_N = valid_N * batch.present_B
        if batch.weight_B is not None:
            valid_N = valid_N * batch.weight_B
        return Term(loss_N, valid_N, weight)

    def _label_loss(self, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Unweighted cross-entropy [N] in nats, and how much each unit counts [N]."""
        known_N = labels_N != UNLABELLED
        safe_N = labels_N.clamp(min=0)
        smoothing = self.settings.labels.smoothing
        loss_N = F.cross_entropy(logits_NC, safe_N, reduction="none", label_smoothing=smoothing)
        valid_N = known_N.to(loss_N.dtype)
        if self.class_weights_C is not None:
            valid_N = valid_N * self.class_weights_C[safe_N]
        return loss_N, valid_N


__all__ = ["DistillObjective", "Shape", "TeacherInfo"]
