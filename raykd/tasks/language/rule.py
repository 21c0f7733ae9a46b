"""labels·CE + soft_targets·T²KL for every predicted token; its label is the token itself.

Shape suffixes: N units, T teachers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.methods import SoftLoss
from raykd.config.objective import Labels, SoftTargets
from raykd.data.chunking import MOST_DOMAINS
from raykd.data.chunks import DOMAIN, TOKEN
from raykd.ensemble.sparse import mixture
from raykd.losses.head import head_loss
from raykd.losses.sparse import SPARSE_LOSSES, Few
from raykd.objective.rule import LearningRule, Measures
from raykd.objective.soft_targets import own_losses
from raykd.objective.teacher_batch import TeacherBatch
from raykd.tasks.classification.rule import RULE as CLASS_RULE
from raykd.top_k import tempered, without_tail
from raykd.types import Batch, Dense, Headed, Output, Sparse, is_labelled, on_units

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
    found_TN = torch.stack(
        [
            _sparse(loss.type, teacher_batch, one, teacher_batch.temperature, **loss.arguments)
            for one in teacher_batch.few
        ]
    )
    return torch.where(teacher_batch.available_TN, found_TN, 0.0)


def _sparse(
    name: str, teacher_batch: TeacherBatch, teacher: Few, temperature: float, **knobs: Any
) -> Tensor:
    """A loss of the student against a few classes [N]; in chunks of units where its logits are not there."""
    headed = teacher_batch.headed
    if headed is None:
        student_NV = teacher_batch.student_NC
        return SPARSE_LOSSES[name](student_NV, teacher, temperature=temperature, **knobs)
    given = headed.hidden_ND, headed.head_VD, teacher
    return head_loss(*given, bias_V=headed.bias_V, loss=name, temperature=temperature, **knobs)


def _label_loss_in_chunks(headed: Headed, labels_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N] in nats: KL to the token alone."""
    ids_N1 = labels_N4[:, TOKEN, None].clamp(min=0)
    sure_N1 = torch.zeros_like(ids_N1, dtype=torch.float32)
    token = Sparse(
        classes=len(headed.head_VD), ids_NK=ids_N1, log_probs_NK=sure_N1, log_tail_N=None
    )
    loss_N = head_loss(headed.hidden_ND, headed.head_VD, token, bias_V=headed.bias_V)
    return loss_N, is_labelled(labels_N4).to(loss_N.dtype)


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
    return _sparse("kl", teacher_batch, mixed, temperature), answered_N


def _harder(mixed: Sparse, share: float) -> Sparse:
    """λ·onehot(argmax p̄) + (1 − λ)·p̄; the likeliest class is the first of its row."""
    probs_NK = mixed.log_probs_NK.exp() * (1 - share)
    probs_NK = torch.cat([probs_NK[:, :1] + share, probs_NK[:, 1:]], dim=1)
    tail_N = mixed.log_tail_N
    if tail_N is not None:
        tail_N = None if share == 1 else tail_N + math.log1p(-share)
    return replace(mixed, log_probs_NK=probs_NK.log(), log_tail_N=tail_N)


def _measures(student: Tensor, batch: Batch, answers: Sequence[Output]) -> Tensor:
    """Of the first units of a batch, for each domain: nats of the tokens, and KL(teacher ‖ student) of each teacher.

    Returns:
        float64 [D, 1 + T, 2]: the sum, and of how many units.
    """
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
    measures=Measures(units=_MEASURED, sums=_measures, values=_values),
    label_loss_in_chunks=_label_loss_in_chunks,
    classes_of=lambda labels_N4: labels_N4[:, TOKEN],
)
