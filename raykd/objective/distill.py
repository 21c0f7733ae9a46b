"""From configuration to a callable objective: labels + soft targets + features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import FixedWeighting, Objective
from raykd.ensemble import WEIGHTINGS, mean_logits, mean_probabilities
from raykd.losses import LOSSES, kl_from_log_probs
from raykd.models.projectors import make_projector
from raykd.objective.terms import Term
from raykd.types import UNLABELLED, Batch, TeacherOutputs

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Voice:
    """A teacher as the objective hears it.

    Attributes:
        name: the teacher's name.
        temperature: factor on the objective's temperature, on this teacher's side.
    """

    name: str
    temperature: float = 1.0


class DistillObjective(nn.Module):
    """labels·CE + soft_targets·T²KL + Σ features, each per unit and unreduced.

    It is a module because of its projectors, which train beside the student, are checkpointed, and never
    reach the export.

    Args:
        settings: the recipe's `objective`.
        voices: the teachers to listen to, in a fixed order; empty for labels alone.
        student_shapes: tap -> shape without batch, for the feature terms.
        teacher_shapes: (teacher, tap) -> shape without batch.
        class_weights_C: factors of the label term per class, or None.
    """

    class_weights_C: Tensor | None

    def __init__(
        self,
        settings: Objective,
        voices: Sequence[Voice],
        *,
        student_shapes: Mapping[str, Shape],
        teacher_shapes: Mapping[tuple[str, str], Shape],
        class_weights_C: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.voices = tuple(voices)
        self.register_buffer("class_weights_C", class_weights_C, persistent=False)
        temperatures_T = torch.tensor([voice.temperature for voice in voices])
        self.register_buffer("temperatures_T", temperatures_T, persistent=False)
        self.projectors = nn.ModuleList(
            make_projector(
                student_shapes[term.student_tap],
                teacher_shapes[term.teacher, term.teacher_tap],
                always=term.loss.type == "hint",
            )
            if term.loss.type == "hint"
            else nn.Identity()
            for term in settings.features
        )

    @property
    def needs_teachers(self) -> bool:
        """Whether any term uses what teachers say."""
        return bool(self.voices)

    def forward(
        self,
        logits_NC: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: TeacherOutputs,
    ) -> tuple[dict[str, Term], Tensor | None]:
        """The terms of one batch, and the teachers' weights [T, N] when there are teachers.

        Args:
            logits_NC: the student's logits, float32 [N, C].
            features: student tap -> [B, ...].
            batch: the batch, with labels −1 where unlabelled.
            targets: what each teacher says of it.
        """
        terms: dict[str, Term] = {}
        weights_TN = None
        pseudo_N = None
        if self.voices:
            weights_TN = self._weights(batch, targets)
            answered_N = weights_TN.sum(dim=0) > 0
            if self.settings.soft_targets is not None:
                loss_N = self._soft_targets(logits_NC, weights_TN, targets)
                weight = self.settings.soft_targets.weight
                terms["soft_targets"] = Term(loss_N, batch.present_B & answered_N, weight)
            if self.settings.labels.fill == "ensemble":
                pseudo_N = self._ensemble_argmax(weights_TN, targets)
        terms["labels"] = self._labels(logits_NC, batch, pseudo_N)
        for index, projector in enumerate(self.projectors):
            terms[f"features.{index}"] = self._feature(index, projector, features, batch, targets)
        return terms, weights_TN

    def _stack(self, targets: TeacherOutputs) -> Tensor:
        return torch.stack([targets[voice.name].values_NC for voice in self.voices])

    def _weights(self, batch: Batch, targets: TeacherOutputs) -> Tensor:
        weighting = self.settings.weighting
        knobs = {}
        if isinstance(weighting, FixedWeighting):
            knobs["weights"] = torch.tensor(
                [weighting.weights[voice.name] for voice in self.voices]
            )
        available_TN = torch.stack([targets[voice.name].valid_N for voice in self.voices])
        weights_TN: Tensor = WEIGHTINGS[weighting.type](
            self._stack(targets), batch.labels, available_TN=available_TN, **knobs
        )
        return weights_TN

    def _soft_targets(
        self, logits_NC: Tensor, weights_TN: Tensor, targets: TeacherOutputs
    ) -> Tensor:
        settings = self.settings.soft_targets
        assert settings is not None, "the term is only computed when it is configured"
        logits_TNC, temperature = self._stack(targets), settings.temperature
        if settings.combine == "logits":
            mixed_NC = mean_logits(logits_TNC / self.temperatures_T[:, None, None], weights_TN)
            return LOSSES["kl"](logits_NC, mixed_NC, temperature=temperature)
        mixed_NC = mean_probabilities(
            logits_TNC, weights_TN, temperatures_T=self.temperatures_T * temperature
        )
        return kl_from_log_probs(logits_NC, mixed_NC, temperature=temperature)

    def _ensemble_argmax(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor:
        """The ensemble's most probable class [N]; −1 where no teacher answered."""
        mixed_NC = mean_probabilities(
            self._stack(targets), weights_TN, temperatures_T=self.temperatures_T
        )
        answered_N = weights_TN.sum(dim=0) > 0
        return torch.where(answered_N, mixed_NC.argmax(dim=1), UNLABELLED)

    def _labels(self, logits_NC: Tensor, batch: Batch, pseudo_N: Tensor | None) -> Term:
        labels_N, mixed = batch.labels, batch.mixed
        partners_N = labels_N if mixed is None else mixed.partner_labels_B
        share_N = torch.ones(len(labels_N)) if mixed is None else mixed.share_B
        blended_N = share_N < 1
        if pseudo_N is not None:
            unknown_N = (labels_N == UNLABELLED) | (blended_N & (partners_N == UNLABELLED))
            labels_N = torch.where(unknown_N, pseudo_N, labels_N)
            partners_N = torch.where(unknown_N, pseudo_N, partners_N)
        loss_N, valid_N = self._cross_entropy(logits_NC, labels_N)
        if mixed is not None:
            partner_loss_N, partner_valid_N = self._cross_entropy(logits_NC, partners_N)
            loss_N = share_N * loss_N + (1 - share_N) * partner_loss_N
            valid_N = torch.where(blended_N, valid_N * partner_valid_N.sign(), valid_N)
        valid_N = valid_N * batch.present_B
        if batch.weight_B is not None:
            valid_N = valid_N * batch.weight_B
        return Term(loss_N, valid_N, self.settings.labels.weight)

    def _cross_entropy(self, logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Unweighted cross-entropy [N] in nats, and how much each unit counts [N]."""
        known_N = labels_N != UNLABELLED
        safe_N = labels_N.clamp(min=0)
        smoothing = self.settings.labels.smoothing
        loss_N = F.cross_entropy(logits_NC, safe_N, reduction="none", label_smoothing=smoothing)
        valid_N = known_N.to(loss_N.dtype)
        if self.class_weights_C is not None:
            valid_N = valid_N * self.class_weights_C[safe_N]
        return loss_N, valid_N

    def _feature(
        self,
        index: int,
        projector: nn.Module,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: TeacherOutputs,
    ) -> Term:
        term = self.settings.features[index]
        answer = targets[term.teacher]
        student = projector(features[term.student_tap].float())
        loss_B = LOSSES[term.loss.type](student, answer.features[term.teacher_tap])
        return Term(loss_B, batch.present_B & answer.valid_N, term.weight)
