"""The teachers' weights: a weighting's settings, and what it needs to know, to the pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raykd.config import methods
from raykd.config.methods import Weighting
from raykd.config.objective import SoftTargets
from raykd.ensemble import WEIGHTINGS
from raykd.objective.soft_targets import compared
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo
from raykd.top_k import log_prob_of, tempered

_TINY = 1e-12

Facts = Callable[[Weighting, Sequence[TeacherInfo], TeacherBatch], Any]


def teacher_weights(
    weighting: Weighting,
    soft: SoftTargets | None,
    teacher_infos: Sequence[TeacherInfo],
    teacher_batch: TeacherBatch,
    own_TN: Tensor | None,
) -> Tensor:
    """How much each teacher counts for each unit [T, N]: sums to 1 over those that answered.

    Args:
        weighting: which, and its knobs.
        soft: the soft targets, whose gradient `gradient` looks at.
        teacher_infos: the teachers, in order.
        teacher_batch: the batch.
        own_TN: the student's loss against each teacher, where that is needed.
    """
    row, knobs = weighting.row, weighting.arguments
    for name in (*row.needs, *row.supplied):
        if name in _FACTS:
            knobs[name] = _FACTS[name](weighting, teacher_infos, teacher_batch)
    for name, given in weighting.per_teacher.items():
        knobs[name] = torch.tensor([given[teacher.name] for teacher in teacher_infos])
    if "student_logits" in row.needs:
        teacher_batch = compared(soft and soft.loss, teacher_batch)
    alike = (
        teacher_batch.student_NC.shape == teacher_batch.answers[0].shape
    )  # vectors have lengths of their own
    weights_TN: Tensor = WEIGHTINGS[weighting.type](
        teacher_batch.stacked if row.looks else teacher_batch.outline,
        teacher_batch.labels_N,
        student_logits=teacher_batch.student_NC if alike else None,
        losses_TN=own_TN,
        available_TN=teacher_batch.available_TN,
        **knobs,
    )
    return weights_TN


def weights_with_peers(
    weigh: Callable[[TeacherBatch], Tensor],
    teacher_batch: TeacherBatch,
    peers: int,
    share: float | None,
) -> Tensor:
    """Weights [T + K, N] of T frozen teachers and of the K peers that follow them: one mixture of both.

    The peers have `share` of a unit between them, in equal parts, and the teachers the rest. Where only some of either
    answered these have all of it, so that the weights of a unit sum to 1 unless nobody answered.

    Args:
        weigh: the batch as the teachers alone have it -> their weights [T, N], which sum to 1 over those that answered.
        teacher_batch: the batch of all.
        peers: K.
        share: of the peers; None = each counts as much as a teacher.
    """
    available_TN = teacher_batch.available_TN
    frozen = len(available_TN) - peers
    here_KN = available_TN[frozen:].to(teacher_batch.student_NC.dtype)
    count_N = here_KN.sum(dim=0)
    own_KN = here_KN / count_N.clamp(min=1)
    if not frozen:
        return own_KN
    known = teacher_batch.known
    alone = replace(
        teacher_batch,
        answers=teacher_batch.answers[:frozen],
        available_TN=available_TN[:frozen],
        outputs=teacher_batch.outputs[:frozen],
        temperatures_T=teacher_batch.temperatures_T[:frozen],
        known=None if known is None else known[:frozen],
        few=teacher_batch.few[:frozen],
    )
    weights_TN = weigh(alone)
    teachers_N = available_TN[:frozen].sum(dim=0)
    if share is None:
        share_N = count_N / (count_N + teachers_N).clamp(min=1)
    else:
        share_N = torch.full_like(count_N, share)
    share_N = torch.where(teachers_N == 0, 1.0, torch.where(count_N == 0, 0.0, share_N))
    return torch.cat([(1 - share_N) * weights_TN.to(share_N.dtype), share_N * own_KN])


def needs_losses(weighting: Weighting) -> bool:
    """Whether a weighting looks at the student's loss against each teacher."""
    return "losses_TN" in weighting.row.needs


def steady(weighting: Weighting) -> Weighting:
    """The nearest weighting that neither draws nor looks at the student, for the ensemble's own opinion."""
    if weighting.row.stored and not weighting.row.random:
        return weighting
    for given in weighting.per_teacher.values():
        return methods.WEIGHTINGS["fixed"](weights=given)
    return methods.WEIGHTINGS["uniform"]()


def _known(name: str, teacher_infos: Sequence[TeacherInfo]) -> Tensor:
    values = [getattr(teacher, name) for teacher in teacher_infos]
    assert None not in values, f"the pipeline tells every teacher's {name} on validation"
    return torch.tensor([max(value, _TINY) for value in values])


def _own(teacher_batch: TeacherBatch) -> torch.Tensor | None:
    """Log-probability that each teacher gave the unit's label, [T, N]; anything where that is unknown."""
    if teacher_batch.labels_N is None:
        return None
    class_N = teacher_batch.labels_N.clamp(min=0)
    if teacher_batch.few:
        return torch.stack([log_prob_of(tempered(one), class_N) for one in teacher_batch.few])
    return torch.stack(
        [
            answer_NC.gather(1, class_N[:, None])[:, 0] - answer_NC.logsumexp(dim=1)
            for answer_NC in teacher_batch.answers
        ]
    )


def _routes(teacher_infos: Sequence[TeacherInfo], teacher_batch: TeacherBatch) -> torch.Tensor:
    """The teacher of each unit's domain [N]; −1 where there is none."""
    batch = teacher_batch.batch
    assert batch.domain_B is not None, "`domain_numbers` has looked"
    domain_N = batch.per_unit(batch.domain_B)
    route_N = torch.full_like(domain_N, -1)
    for index, teacher in enumerate(teacher_infos):
        for domain in teacher.domains or ():
            route_N = torch.where(domain_N == domain, index, route_N)
    return route_N


_FACTS: dict[str, Facts] = {
    "accuracies": lambda _, teacher_infos, __: _known("accuracy", teacher_infos),
    "stacked": lambda _, teacher_infos, __: _known("stacked", teacher_infos),
    "errors": lambda _, teacher_infos, __: _known("error", teacher_infos),
    "temperature": lambda _, __, teacher_batch: teacher_batch.temperature,
    "gather": lambda weighting, _, teacher_batch: (
        None if weighting.knob("gram") == "per_sample" else teacher_batch.context.gather(1)
    ),
    "seed": lambda _, __, teacher_batch: teacher_batch.context.seed,
    "offsets": lambda _, __, teacher_batch: teacher_batch.batch.unit_offsets,
    "own_TN": lambda _, __, teacher_batch: _own(teacher_batch),
    "route_N": lambda _, teacher_infos, teacher_batch: _routes(teacher_infos, teacher_batch),
    "units_N": lambda _, __, teacher_batch: teacher_batch.ids_N,
}
"""Arguments of weightings that are no knobs, and no arguments of all."""
