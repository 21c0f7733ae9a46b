"""From configuration to a callable objective: labels + soft targets + features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from raykd.config.objective import Objective, SoftTargets
from raykd.config.scales import KINDS, Scaled
from raykd.data.chunks import DOMAIN
from raykd.losses.heads import Head
from raykd.models.scales import TokenScale
from raykd.objective.features import FeatureLoss, Shape
from raykd.objective.known_labels import blended, known_units, replaced, whole_labels
from raykd.objective.rule import LearningRule, knows_few
from raykd.objective.schedules import strengths_at
from raykd.objective.settled import EnsembleTarget, SettledUnits
from raykd.objective.sharing import shared_by_heads, shared_by_teachers, whole_costs
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.objective.terms import NOW, Context, Term, ensemble_rows
from raykd.objective.uncertainty import UncertaintyWeighting
from raykd.objective.weighting import needs_losses, teacher_weights, weights_with_peers
from raykd.top_k import likeliest
from raykd.types import (
    Batch,
    Dense,
    Headed,
    LearntOutputs,
    Scale,
    TeacherOutputs,
    TopK,
    is_labelled,
)

_COMPARED = 16
"""Units of a batch on which the teachers' disagreement is measured where it is not settled."""
_PLAIN = SoftTargets(temperature=1.0)


class DistillObjective(nn.Module):
    """labels·ℓ + soft_targets·ℓ + Σ features, each per unit and unreduced; a task's rule says what each ℓ is.

    `settles` says whether what it teaches by labels and soft targets depends on nothing of the student: that can then
    be made beforehand, by `settle`, and only the feature terms are left to compute in each step.
    It is a module because of its projectors, learnt variances and running statistics, which train beside
    the student, are checkpointed, and never reach the export.

    Args:
        settings: the recipe's `objective`.
        teacher_infos: the teachers to learn from, in a fixed order; empty for labels alone.
        rule: what the task learns from labels and teachers.
        student_shapes: tap -> shape without batch, for the feature terms; at `OUTPUT` what the student returns.
        teacher_shapes: (teacher, tap) -> shape without batch; at `OUTPUT` what each teacher returns.
        class_weights_C: factors of the label term per class, or None.
        domain_weights_D: factors of labels and soft targets per domain of a text, or None.
        scale: the unit in which a regression is learnt; None in other tasks.
        heads: teacher -> its last linear layer, of those whose feature terms ask it.
        peers: names of networks that learn beside the student, to be learnt from as well. `targets` has what they say
            beside what the teachers say, valid where it counts; they come after the teachers wherever these have an order.
        peer_share: of the target that is the peers'; None = each counts as much as a teacher.
        scales: (teacher, tap) -> scale of its tokens, of those that terms are compared at; at `OUTPUT` of its vectors.
    """

    class_weights_C: Tensor | None
    domain_weights_D: Tensor | None
    temperatures_T: Tensor

    def __init__(  # noqa: PLR0913 (each by its name)
        self,
        settings: Objective,
        teacher_infos: Sequence[TeacherInfo],
        *,
        rule: LearningRule,
        student_shapes: Mapping[str, Shape],
        teacher_shapes: Mapping[tuple[str, str], Shape],
        class_weights_C: Tensor | None = None,
        domain_weights_D: Tensor | None = None,
        scale: Scale | None = None,
        heads: Mapping[str, Head] | None = None,
        peers: Sequence[str] = (),
        peer_share: float | None = None,
        scales: Mapping[Scaled, TokenScale] | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.rule, self.scale = settings, rule, scale
        self.teacher_infos = (*teacher_infos, *map(TeacherInfo, peers))
        self.peers, self._peer_share = tuple(peers), peer_share
        self.register_buffer("class_weights_C", class_weights_C, persistent=False)
        self.register_buffer("domain_weights_D", domain_weights_D, persistent=False)
        temperatures_T = torch.tensor([teacher.temperature for teacher in self.teacher_infos])
        self.register_buffer("temperatures_T", temperatures_T, persistent=False)
        self.features = nn.ModuleList(
            FeatureLoss(term, student_shapes, teacher_shapes, (heads or {}).get(term.teacher))
            for term in settings.features
        )
        self.uncertainty: UncertaintyWeighting | None = None
        if settings.feature_weighting == "uncertainty" and settings.features:
            self.uncertainty = UncertaintyWeighting(len(settings.features))
        self.settles = not peers and _settles(settings, self.teacher_infos, rule)
        self.matches = nn.ModuleList(
            rule.projectors(settings, self.teacher_infos, student_shapes, teacher_shapes)
        )
        for part in (*self.matches, *self.features):
            for kind in KINDS:
                if isinstance(part, FeatureLoss) and part.term.target == kind:
                    (tap,) = part.term.teacher_taps
                    part.compare_at((scales or {})[Scaled(part.term.teacher, tap, kind)])

    @property
    def projectors(self) -> list[nn.Module]:
        """Those of the teachers' outputs, then of the feature terms; `nn.Identity` where one has none."""
        parts = [*self.matches, *self.features]
        return [part.projector for part in parts if isinstance(part, FeatureLoss)]

    @property
    def learnt(self) -> dict[str, dict[str, float]]:
        """What it has learnt besides projectors, for the record of an epoch: `variances` of the feature terms."""
        if self.uncertainty is None:
            return {}
        variances = self.uncertainty.log_variance_F.detach().exp().tolist()
        return {"variances": {f"features.{index}": value for index, value in enumerate(variances)}}

    @property
    def needs_teachers(self) -> bool:
        """Whether any term uses what teachers say."""
        return bool(self.teacher_infos)

    def forward(
        self,
        outputs: Tensor | Headed,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: LearntOutputs,
        context: Context = NOW,
    ) -> tuple[dict[str, Term], Tensor | None]:
        """The terms of one batch, and the teachers' weights [T, N] when there are teachers.

        Args:
            outputs: the student's outputs, float32 [N, C]; or before its last layer, where the rule takes these.
            features: student tap -> [B, ...].
            batch: the batch, with unknown labels as its task has them.
            targets: what each teacher says of it.
            context: when it comes, and the other workers.
        """
        now = strengths_at(self.settings, context.epoch)
        targets = self._cut(targets, now.temperature)
        headed = outputs if isinstance(outputs, Headed) else None
        outputs_NC = outputs if isinstance(outputs, Tensor) else outputs.outline
        if headed is None and not _few(targets):
            outputs_NC, batch, targets = self.rule.convert(
                outputs_NC, batch, _whole(targets), self.scale
            )
            outputs = outputs_NC
        terms: dict[str, Term] = {}
        compared: dict[str, Term] | None = None
        weights_TN = None
        pseudo_N = None
        if self.teacher_infos:
            soft = self.settings.soft_targets
            teacher_batch = self._batch(outputs_NC, batch, targets, now.temperature, context)
            teacher_batch = replace(teacher_batch, headed=headed)
            if self.settings.feature_weighting == "teachers":
                compared = self.feature_terms(features, batch, targets, context)
            own_TN, weights_TN = self._weighed(teacher_batch, compared, now.soft_targets)
            if compared is not None:
                compared = shared_by_teachers(compared, self._places, weights_TN)
            if soft is not None:
                loss_N, counts_N = self.rule.soft_loss(
                    soft, teacher_batch, weights_TN, own_TN, self.matches
                )
                answered_N = batch.per_unit(batch.present_B) & (weights_TN.sum(dim=0) > 0)
                scale = self.settings.weighting.strength(len(self.teacher_infos))
                terms["soft_targets"] = Term(
                    loss_N, answered_N * counts_N, scale * now.soft_targets
                )
                terms |= self._reported(teacher_batch)
            if self.settings.labels.fill == "ensemble":
                pseudo_N = self.rule.pseudo_labels(teacher_batch, weights_TN)
        terms["labels"] = self._labels(outputs, batch, pseudo_N, now.labels)
        if self.settings.labels.replaces and "soft_targets" in terms:
            terms["soft_targets"] = replaced(terms["soft_targets"], terms["labels"], batch)
        if self.domain_weights_D is not None:
            weight_N = self.domain_weights_D[batch.labels[:, DOMAIN].clamp(min=0)]
            terms = {n: replace(term, valid_N=term.valid_N * weight_N) for n, term in terms.items()}
        if compared is None:
            compared = self.feature_terms(features, batch, targets, context)
        return {**terms, **compared}, weights_TN

    def _reported(self, teacher_batch: TeacherBatch) -> dict[str, Term]:
        """What is told besides the terms, as terms that count nothing."""
        told = self.rule.reported(teacher_batch, self.matches)
        return {name: Term(value_N, valid_N, 0.0) for name, (value_N, valid_N) in told.items()}

    def _weighed(
        self, teacher_batch: TeacherBatch, compared: Mapping[str, Term] | None, soft_weight: float
    ) -> tuple[Tensor | None, Tensor]:
        """The student's loss against each teacher, where it is needed, and the teachers' weights, both [T, N].

        Args:
            teacher_batch: the batch.
            compared: the feature terms, where they are shared by teachers.
            soft_weight: of the soft targets.
        """
        own_TN = cost_TN = self._own_losses(teacher_batch)
        if own_TN is not None and compared is not None:
            cost_TN = whole_costs(own_TN, compared, self._places, soft_weight)
        weights_TN = self._weights(teacher_batch, cost_TN)
        return own_TN, weights_TN

    @property
    def _places(self) -> list[int]:
        """Of the teacher of each feature term among all teachers."""
        names = [teacher.name for teacher in self.teacher_infos]
        return [names.index(term.teacher) for term in self.settings.features]

    def _weights(self, teacher_batch: TeacherBatch, own_TN: Tensor | None) -> Tensor:
        """How much each teacher, and after them each peer, counts for each unit [T, N]."""
        frozen = len(self.teacher_infos) - len(self.peers)
        infos, own_TN = self.teacher_infos[:frozen], None if own_TN is None else own_TN[:frozen]

        def weigh(batch: TeacherBatch) -> Tensor:
            settings = self.settings
            return teacher_weights(settings.weighting, settings.soft_targets, infos, batch, own_TN)

        if not self.peers:
            return weigh(teacher_batch)
        return weights_with_peers(weigh, teacher_batch, len(self.peers), self._peer_share)

    def _cut(self, targets: LearntOutputs, temperature: float) -> LearntOutputs:
        """Of the teachers' answers those classes that soft targets are to be learnt from."""
        soft = self.settings.soft_targets
        if soft is None or soft.top_k is None:
            return targets
        own = {teacher.name: temperature * teacher.temperature for teacher in self.teacher_infos}
        return {
            name: likeliest(answer, soft.top_k, (own.get(name, 1.0),))
            for name, answer in targets.items()
        }

    @torch.no_grad()
    def measured(
        self, outputs: Tensor | Headed, batch: Batch, targets: LearntOutputs
    ) -> Tensor | None:
        """What the rule tells of a batch besides the terms; None where that is nothing."""
        measures = self.rule.measures
        if measures is None:
            return None
        answers = [targets[teacher.name] for teacher in self.teacher_infos]
        count = measures.units
        first = outputs.first(count) if isinstance(outputs, Headed) else outputs[:count]
        return measures.sums(first.detach(), batch, answers)

    def feature_terms(
        self,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: LearntOutputs,
        context: Context = NOW,
    ) -> dict[str, Term]:
        """The terms that compare features with the teachers'; arguments as of `forward`."""
        weights, terms = strengths_at(self.settings, context.epoch).features, {}
        masks = self._foregrounds(batch, targets)
        for index, (part, weight) in enumerate(zip(self.features, weights, strict=True)):
            answer = targets[self.settings.features[index].teacher]
            mask = masks.get(self.settings.features[index].foreground)
            loss_B, counted_B = part(features, batch, answer, context, mask)
            terms[f"features.{index}"] = Term(loss_B, counted_B, weight)
        if self.settings.feature_weighting == "heads" and terms:
            heads = [part for part in self.features if isinstance(part, FeatureLoss)]
            said = [part.head_says(features) for part in heads]
            return shared_by_heads(terms, said, whole_labels(batch, self.rule))
        if self.uncertainty is not None:
            terms = self.uncertainty(terms)
        return terms

    @torch.no_grad()
    def _foregrounds(self, batch: Batch, targets: LearntOutputs) -> dict[str | None, Tensor]:
        """Kind of foreground -> how much each place counts [B, h, w], of the kinds that terms ask for."""
        kinds = {term.foreground for term in self.settings.features} - {None}
        said = _whole(targets)
        frozen = self.teacher_infos[: len(self.teacher_infos) - len(self.peers)]
        answers = [said[one.name] for one in frozen if one.name in said]
        found: dict[str | None, Tensor] = {}
        for kind in kinds:
            assert kind is not None, "taken away"
            assert self.rule.foreground is not None, "settings allow it where there is one"
            found[kind] = self.rule.foreground(kind, batch, answers)
        return found

    @torch.no_grad()
    def ensemble_sums(
        self, weights: Sequence[Tensor], targets: Sequence[LearntOutputs]
    ) -> list[Tensor]:
        """How the teachers were weighed in each of some batches; the divergence is that of its first 16 units.

        Args:
            weights: [T, N] of each batch.
            targets: of each batch.

        Returns:
            added `ensemble_rows` of each batch, float64 [T + 4].
        """
        if any(map(_few, targets)):
            return [ensemble_rows(weights_TN).sum(dim=0) for weights_TN in weights]
        first = {
            name: replace(
                answer,
                values_NC=torch.cat([_whole(said)[name].values_NC[:_COMPARED] for said in targets]),
                valid_N=torch.cat([said[name].valid_N[:_COMPARED] for said in targets]),
                features={},
            )
            for name, answer in _whole(targets[0]).items()
        }
        firsts = [weights_TN[:, :_COMPARED] for weights_TN in weights]
        weights_TM = torch.cat(firsts, dim=1)
        compared_ME = ensemble_rows(weights_TM, self._jsd(weights_TM, first))
        rows_NE = ensemble_rows(torch.cat(list(weights), dim=1))
        compared = compared_ME.split([weights_TN.shape[1] for weights_TN in firsts])
        rows = rows_NE.split([weights_TN.shape[1] for weights_TN in weights])
        return [
            torch.cat([all_NE[:, :-2].sum(dim=0), some_ME[:, -2:].sum(dim=0)])
            for all_NE, some_ME in zip(rows, compared, strict=True)
        ]

    def _jsd(self, weights_TN: Tensor, targets: TeacherOutputs) -> Tensor | None:
        if self.rule.disagreement is None:
            return None
        return self.rule.disagreement(self.teacher_infos, targets, weights_TN, self.temperatures_T)

    @torch.no_grad()
    def settle(
        self,
        batch: Batch,
        targets: LearntOutputs,
        temperature: float,
        dtype: torch.dtype = torch.float32,
    ) -> EnsembleTarget | None:
        """What the teachers make of a batch, each unit by itself; None without teachers.

        Args:
            batch: the batch; units that are not present count like others here.
            targets: what each teacher says of it.
            temperature: T of the soft targets.
            dtype: of the student's outputs.
        """
        if not self.teacher_infos:
            return None
        assert self.rule.settled is not None, "`settles` says whether there is one"
        silent_NC = torch.zeros_like(_whole(targets)[self.teacher_infos[0].name].values_NC)
        whole = replace(batch, present_B=torch.ones_like(batch.present_B))
        teacher_batch = self._batch(silent_NC, whole, targets, temperature, NOW)
        soft, weighting = self.settings.soft_targets, self.settings.weighting
        weights_TN = teacher_weights(weighting, soft, self.teacher_infos, teacher_batch, None)
        counts_N = weights_TN.sum(dim=0) > 0
        target_NC = None
        if soft is not None:
            target_NC = self.rule.settled.target(soft, teacher_batch, weights_TN).to(dtype)
            counts_N = counts_N * self.rule.settled.counts(soft, teacher_batch)
        fills = self.settings.labels.fill == "ensemble"
        return EnsembleTarget(
            sums_NE=ensemble_rows(weights_TN, self._jsd(weights_TN, _whole(targets))),
            counts_N=counts_N,
            target_NC=target_NC,
            pseudo_N=self.rule.pseudo_labels(teacher_batch, weights_TN) if fills else None,
        )

    @torch.no_grad()
    def settled_units(
        self, batch: Batch, ensemble: EnsembleTarget | None, classes: int, dtype: torch.dtype
    ) -> SettledUnits:
        """A batch with all that its losses need but the student's outputs.

        Args:
            batch: the batch.
            ensemble: of `settle`.
            classes: C.
            dtype: of the student's outputs.
        """
        assert self.rule.settled is not None, "`settles` says whether there is one"
        labels, target = self.settings.labels, self.rule.settled.label_target

        def distribution(labels_N: Tensor) -> tuple[Tensor, Tensor]:
            known_N = self._counted(labels_N, is_labelled(labels_N).to(dtype))
            return target(labels, labels_N, classes).to(dtype), known_N

        labels_NC, labelled_N = blended(
            batch, None if ensemble is None else ensemble.pseudo_N, distribution
        )
        present_N = batch.per_unit(batch.present_B)
        known_N = known_units(batch) if labels.replaces else torch.zeros_like(present_N)
        if ensemble is not None:
            ensemble = replace(
                ensemble,
                counts_N=ensemble.counts_N * present_N,
                sums_NE=ensemble.sums_NE * present_N[:, None],
            )
        return SettledUnits(
            labels_NC=labels_NC,
            labelled_N=labelled_N.to(dtype),
            known_N=known_N,
            ensemble=ensemble,
            soft=self.settings.soft_targets is not None,
            soft_scale=self.settings.weighting.strength(len(self.teacher_infos)),
        )

    def _batch(
        self,
        outputs_NC: Tensor,
        batch: Batch,
        targets: LearntOutputs,
        temperature: float,
        context: Context,
    ) -> TeacherBatch:
        given = [targets[teacher.name] for teacher in self.teacher_infos]
        outputs = tuple(answer for answer in given if isinstance(answer, Dense))
        few = tuple(answer for answer in given if isinstance(answer, TopK))
        assert not (few and outputs), "all answers of a batch are kept alike"
        pairs = zip(self.teacher_infos, outputs, strict=not few)
        labels_N = whole_labels(batch, self.rule) if self.rule.labels_are_classes else None
        return TeacherBatch(
            student_NC=outputs_NC,
            answers=tuple(
                answer.values_NC
                if teacher.temperature == 1.0
                else answer.values_NC / teacher.temperature
                for teacher, answer in pairs
            )
            or (outputs_NC.new_zeros(1, 1).expand(outputs_NC.shape),) * len(few),
            available_TN=torch.stack([answer.valid_N for answer in given])
            & batch.per_unit(batch.present_B),
            labels_N=labels_N,
            ids_N=batch.per_unit(batch.ids),
            temperature=temperature,
            context=context,
            batch=batch,
            outputs=outputs,
            temperatures_T=self.temperatures_T,
            known=self._known(outputs_NC.device),
            few=few,
        )

    def _known(self, device: torch.device) -> tuple[Tensor | None, ...] | None:
        if not knows_few(self.teacher_infos):
            return None
        known = [teacher.known for teacher in self.teacher_infos]
        return tuple(None if k is None else torch.tensor(k, device=device) for k in known)

    def _own_losses(self, teacher_batch: TeacherBatch) -> Tensor | None:
        """The student's loss against each teacher [T, N], where it is added up or weighed by."""
        if self.rule.matched_losses is not None and needs_losses(self.settings.weighting):
            return self.rule.matched_losses(teacher_batch, self.matches)
        soft = self.settings.soft_targets or _PLAIN
        added = self.settings.soft_targets is not None and soft.mixing == "losses"
        if self.rule.own_losses is None or not (added or needs_losses(self.settings.weighting)):
            return None
        with torch.set_grad_enabled(added and torch.is_grad_enabled()):
            return self.rule.own_losses(soft.loss, teacher_batch)

    def _labels(
        self, outputs: Tensor | Headed, batch: Batch, pseudo_N: Tensor | None, weight: float
    ) -> Term:
        def loss(labels_N: Tensor) -> tuple[Tensor, Tensor]:
            if isinstance(outputs, Headed):
                assert self.rule.label_loss_in_chunks is not None, "the caller has looked"
                with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
                    loss_N, valid_N = self.rule.label_loss_in_chunks(outputs, labels_N)
            else:
                loss_N, valid_N = self.rule.label_loss(self.settings.labels, outputs, labels_N)
            return loss_N, self._counted(labels_N, valid_N)

        return Term(*blended(batch, pseudo_N, loss), weight)

    def _counted(self, labels_N: Tensor, valid_N: Tensor) -> Tensor:
        """How much each unit counts [N], its class's factor included."""
        if self.class_weights_C is None:
            return valid_N
        return valid_N * self.class_weights_C[labels_N.clamp(min=0)]


def _few(targets: LearntOutputs) -> bool:
    """Whether few classes of the teachers' answers were kept."""
    return any(isinstance(answer, TopK) for answer in targets.values())


def _whole(targets: LearntOutputs) -> dict[str, Dense]:
    """The answers over all classes, where they are that."""
    return {name: answer for name, answer in targets.items() if isinstance(answer, Dense)}


def _settles(settings: Objective, teacher_infos: Sequence[TeacherInfo], rule: LearningRule) -> bool:
    soft, weighting = settings.soft_targets, settings.weighting.row
    if rule.settled is None:
        return False
    if teacher_infos and (weighting.random or not weighting.stored):
        return False
    return soft is None or rule.settled.settles(soft, teacher_infos)


__all__ = ["DistillObjective", "Shape", "TeacherInfo"]
