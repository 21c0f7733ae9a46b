"""labels·CE + soft_targets·T²KL for every predicted token; its label is the token itself.

Shape suffixes: N units, T teachers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config.objective import Labels
from raykd.data.chunking import MOST_DOMAINS
from raykd.data.chunks import DOMAIN, TOKEN
from raykd.objective.rule import LearningRule, Measures
from raykd.objective.teacher_batch import TeacherBatch
from raykd.tasks.classification.rule import RULE as CLASS_RULE
from raykd.types import Batch, Dense, is_labelled

_MEASURED = 256
"""Units of a batch of which KL is told."""


def _label_loss(settings: Labels, logits_NV: Tensor, labels_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N] in nats."""
    return CLASS_RULE.label_loss(settings, logits_NV, labels_N4[:, TOKEN])


def _no_labels(teacher_batch: TeacherBatch, _weights_TN: Tensor) -> Tensor:
    return teacher_batch.batch.labels


def _measures(outputs_NV: Tensor, batch: Batch, answers: Sequence[Dense]) -> Tensor:
    """Of the first units of a batch, for each domain: nats of the tokens, and KL(teacher ‖ student) of each teacher.

    Returns:
        float64 [D, 1 + T, 2]: the sum, and of how many units.
    """
    log_q = F.log_softmax(outputs_NV[:_MEASURED], dim=1)
    labels = batch.labels[:_MEASURED]
    present_N = batch.per_unit(batch.present_B)[:_MEASURED] & is_labelled(labels)
    token_N, domain_N = labels[:, TOKEN].clamp(min=0), labels[:, DOMAIN].clamp(min=0)
    columns = [(-log_q.gather(1, token_N[:, None])[:, 0], present_N)]
    for answer in answers:
        log_p = F.log_softmax(answer.values_NC[:_MEASURED], dim=1)
        kl_N = (log_p.exp() * (log_p - log_q)).sum(dim=1)
        columns.append((kl_N, present_N & answer.valid_N[:_MEASURED]))
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
    soft_loss=CLASS_RULE.soft_loss,
    pseudo_labels=_no_labels,
    own_losses=CLASS_RULE.own_losses,
    disagreement=CLASS_RULE.disagreement,
    labels_are_classes=True,
    measures=Measures(sums=_measures, values=_values),
    classes_of=lambda labels_N4: labels_N4[:, TOKEN],
)
