"""labels·CE + soft_targets·T²KL for every predicted token; its label is the token itself.

Shape suffixes: N units, T teachers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.methods import SoftLoss
from raykd.config.objective import Labels, SoftTargets
from raykd.data.chunking import MOST_DOMAINS
from raykd.data.chunks import DOMAIN, TOKEN
from raykd.ensemble.sparse import mixture
from raykd.losses.sparse import SPARSE_LOSSES
from raykd.objective.rule import LearningRule, Measures
from raykd.objective.soft_targets import own_losses
from raykd.objective.teacher_batch import TeacherBatch
from raykd.tasks.classification.rule import RULE as CLASS_RULE
from raykd.top_k import tempered, without_tail
from raykd.types import Batch, Dense, Output, Sparse, is_labelled, on_units

_MEASURED = 256
"""Units of a batch of which KL is told."""


def _label_loss(settings: Labels, logits_NV: Tensor, labels_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N] in nats."""
    return CLASS_RULE.label_loss(settings, logits_NV, labels_N4[:, TOKEN])


def _no_labels(teacher_batch: TeacherBatch, _weights_TN: Tensor) -> Tensor:
    return teacher_batch.batch.labels


def _own_losses(loss: SoftLoss, teacher_batch: TeacherBatch) -> Tensor:
    """The student's loss against each teacher [T, N]; 0 where a teacher gave no answer."""
    if not teacher_batch.few:
        return own_losses(loss, teacher_batch)
    function = partial(
        SPARSE_LOSSES[loss.type], temperature=teacher_batch.temperature, **loss.arguments
    )
    found_TN = torch.stack([function(teacher_batch.student_NC, one) for one in teacher_batch.few])
    return torch.where(teacher_batch.available_TN, found_TN, 0.0)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    own_TN: Tensor | None,
    projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    """T²KL against the mixture, or the sum of the teachers' own losses; of few classes with a bucket of the others."""
    if not teacher_batch.few:
        return CLASS_RULE.soft_loss(settings, teacher_batch, weights_TN, own_TN, projectors)
    answered_N = teacher_batch.available_TN.any(dim=0)
    if settings.mixing == "losses":
        assert own_TN is not None, "the losses to be added are computed before the weights"
        return (weights_TN * own_TN).sum(dim=0), answered_N
    assert settings.mixing == "probabilities", "data_problems refuses what needs every class"
    temperature = 1.0 if settings.remakes_target else teacher_batch.temperature
    few = teacher_batch.few if settings.tail else [without_tail(o) for o in teacher_batch.few]
    mixed = mixture([tempered(one, temperature) for one in few], weights_TN)
    if settings.remakes_target:
        mixed = _harder(mixed, settings.hard_share)
    return SPARSE_LOSSES["kl"](teacher_batch.student_NC, mixed, temperature=temperature), answered_N


def _harder(mixed: Sparse, share: float) -> Sparse:
    """λ·onehot(argmax p̄) + (1 − λ)·p̄; the likeliest class is the first of its row."""
    probs_NK = mixed.log_probs_NK.exp() * (1 - share)
    probs_NK = torch.cat([probs_NK[:, :1] + share, probs_NK[:, 1:]], dim=1)
    tail_N = mixed.log_tail_N
    if tail_N is not None:
        tail_N = None if share == 1 else tail_N + math.log1p(-share)
    return replace(mixed, log_probs_NK=probs_NK.log(), log_tail_N=tail_N)


def _measures(outputs_NV: Tensor, batch: Batch, answers: Sequence[Output]) -> Tensor:
    """Of the first units of a batch, for each domain: nats of the tokens, and KL(teacher ‖ student) of each teacher.

    Returns:
        float64 [D, 1 + T, 2]: the sum, and of how many units.
    """
    student = outputs_NV[:_MEASURED]
    log_q = F.log_softmax(student, dim=1)
    labels = batch.labels[:_MEASURED]
    present_N = batch.per_unit(batch.present_B)[:_MEASURED] & is_labelled(labels)
    token_N, domain_N = labels[:, TOKEN].clamp(min=0), labels[:, DOMAIN].clamp(min=0)
    given_N = present_N if batch.given_N is None else present_N & batch.given_N[:_MEASURED]
    columns = [(-log_q.gather(1, token_N[:, None])[:, 0], given_N)]
    for answer in answers:
        first = on_units(answer, lambda tensor: tensor[:_MEASURED])
        if isinstance(first, Dense):
            log_p = F.log_softmax(first.values_NC, dim=1)
            kl_N = (log_p.exp() * (log_p - log_q)).sum(dim=1)
        else:
            kl_N = SPARSE_LOSSES["kl"](student, first)
        columns.append((kl_N, present_N & first.valid_N))
    sums = torch.stack(
        [
            torch.stack([torch.where(counted_N, values_N, 0.0), counted_N], dim=1).double()
            for values_N, counted_N in columns
        ],
        dim=1,
    )
    return sums.new_zeros(MOST_DOMAINS, *sums.shape[1:]).index_add_(0, domain_N, sums)


def _values(
    sums: Tensor, teachers: Sequence[str], domains: Sequence[str]
) -> dict[str, dict[str, float]]:
    """`text_nats` of each domain, and `kl_nats` of each teacher on each domain, per token."""
    found: dict[str, dict[str, float]] = {"text_nats": {}, "kl_nats": {}}
    for number, domain in enumerate(domains):
        for index, name in enumerate(["", *teachers]):
            total, count = sums[number, index].tolist()
            if count:
                key, what = ("kl_nats", f"{name}.{domain}") if name else ("text_nats", domain)
                found[key][what] = total / count
    return found


RULE = LearningRule(
    label_loss=_label_loss,
    soft_loss=_soft_loss,
    pseudo_labels=_no_labels,
    own_losses=_own_losses,
    disagreement=CLASS_RULE.disagreement,
    labels_are_classes=True,
    measures=Measures(sums=_measures, values=_values),
    classes_of=lambda labels_N4: labels_N4[:, TOKEN],
)
