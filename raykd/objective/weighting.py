"""The teachers' weights: a weighting's settings, and what it needs to know, to the pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raykd.config.objective import SoftTargets, Weighting
from raykd.config.weightings import (
    DropWeighting,
    FixedWeighting,
    GradientWeighting,
    SampleWeighting,
    UniformWeighting,
)
from raykd.ensemble import INFO, WEIGHTINGS
from raykd.objective.soft_targets import compared
from raykd.objective.teacher_batch import TeacherBatch, TeacherInfo

_TINY = 1e-12
_NO_KNOBS = frozenset({"type", "paper_code_scale"})

Facts = Callable[[Any, Sequence[TeacherInfo], TeacherBatch], dict[str, Any]]


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
    knobs = {name: value for name, value in weighting if name not in _NO_KNOBS}
    if weighting.type in _FACTS:
        knobs |= _FACTS[weighting.type](weighting, teacher_infos, teacher_batch)
    if isinstance(weighting, GradientWeighting):
        teacher_batch = compared(soft and soft.loss, teacher_batch)
    alike = (
        teacher_batch.student_NC.shape == teacher_batch.answers[0].shape
    )  # vectors have lengths of their own
    weights_TN: Tensor = WEIGHTINGS[weighting.type](
        teacher_batch.stacked if INFO[weighting.type].looks else teacher_batch.outline,
        teacher_batch.labels_N,
        student_logits=teacher_batch.student_NC if alike else None,
        losses_TN=own_TN,
        available_TN=teacher_batch.available_TN,
        **knobs,
    )
    return weights_TN


def needs_losses(weighting: Weighting) -> bool:
    """Whether a weighting looks at the student's loss against each teacher."""
    return isinstance(weighting, DropWeighting)


def steady(weighting: Weighting) -> Weighting:
    """The nearest weighting that neither draws nor looks at the student, for the ensemble's own opinion."""
    if isinstance(weighting, SampleWeighting) and weighting.probabilities is not None:
        return FixedWeighting(weights=weighting.probabilities)
    if isinstance(weighting, SampleWeighting | DropWeighting | GradientWeighting):
        return UniformWeighting()
    return weighting


def _given(weights: Mapping[str, float], teacher_infos: Sequence[TeacherInfo]) -> Tensor:
    return torch.tensor([weights[teacher.name] for teacher in teacher_infos])


def _known(name: str, teacher_infos: Sequence[TeacherInfo]) -> Tensor:
    values = [getattr(teacher, name) for teacher in teacher_infos]
    assert None not in values, f"the pipeline tells every teacher's {name} on validation"
    return torch.tensor([max(value, _TINY) for value in values])


def _sample(
    weighting: Any, teacher_infos: Sequence[TeacherInfo], teacher_batch: TeacherBatch
) -> dict[str, Any]:
    given = weighting.probabilities
    return {
        "seed": teacher_batch.context.seed,
        "units_N": teacher_batch.ids_N,
        "probabilities": None if given is None else _given(given, teacher_infos),
    }


_FACTS: dict[str, Facts] = {
    "fixed": lambda w, teacher_infos, _: {"weights": _given(w.weights, teacher_infos)},
    "accuracy": lambda _, teacher_infos, __: {"accuracies": _known("accuracy", teacher_infos)},
    "inverse_error": lambda _, teacher_infos, __: {"errors": _known("error", teacher_infos)},
    "gradient": lambda w, _, teacher_batch: {
        "temperature": teacher_batch.temperature,
        "gather": None if w.gram == "per_sample" else teacher_batch.context.gather(1),
    },
    "sample": _sample,
    "drop": lambda _, __, teacher_batch: {
        "seed": teacher_batch.context.seed,
        "units_N": teacher_batch.ids_N,
    },
}
"""What a weighting is told besides its knobs."""
