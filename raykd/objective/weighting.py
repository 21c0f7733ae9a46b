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
    voices: Sequence[TeacherInfo],
    heard: TeacherBatch,
    own_TN: Tensor | None,
) -> Tensor:
    """How much each teacher counts for each unit [T, N]: sums to 1 over those that answered.

    Args:
        weighting: which, and its knobs.
        soft: the soft targets, whose gradient `gradient` looks at.
        voices: the teachers, in order.
        heard: the batch.
        own_TN: the student's loss against each teacher, where that is needed.
    """
    knobs = {name: value for name, value in weighting if name not in _NO_KNOBS}
    if weighting.type in _FACTS:
        knobs |= _FACTS[weighting.type](weighting, voices, heard)
    if isinstance(weighting, GradientWeighting):
        heard = compared(soft and soft.loss, heard)
    alike = heard.student_NC.shape == heard.answers[0].shape  # vectors have lengths of their own
    weights_TN: Tensor = WEIGHTINGS[weighting.type](
        heard.stacked if INFO[weighting.type].looks else heard.outline,
        heard.labels_N,
        student_logits=heard.student_NC if alike else None,
        losses_TN=own_TN,
        available_TN=heard.available_TN,
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


def _given(weights: Mapping[str, float], voices: Sequence[TeacherInfo]) -> Tensor:
    return torch.tensor([weights[voice.name] for voice in voices])


def _known(name: str, voices: Sequence[TeacherInfo]) -> Tensor:
    values = [getattr(voice, name) for voice in voices]
    assert None not in values, f"the pipeline tells every voice's {name} on validation"
    return torch.tensor([max(value, _TINY) for value in values])


def _sample(weighting: Any, voices: Sequence[TeacherInfo], heard: TeacherBatch) -> dict[str, Any]:
    given = weighting.probabilities
    return {
        "seed": heard.context.seed,
        "units_N": heard.ids_N,
        "probabilities": None if given is None else _given(given, voices),
    }


_FACTS: dict[str, Facts] = {
    "fixed": lambda w, voices, _: {"weights": _given(w.weights, voices)},
    "accuracy": lambda _, voices, __: {"accuracies": _known("accuracy", voices)},
    "inverse_error": lambda _, voices, __: {"errors": _known("error", voices)},
    "gradient": lambda w, _, heard: {
        "temperature": heard.temperature,
        "gather": None if w.gram == "per_sample" else heard.context.gather(1),
    },
    "sample": _sample,
    "drop": lambda _, __, heard: {"seed": heard.context.seed, "units_N": heard.ids_N},
}
"""What a weighting is told besides its knobs."""
