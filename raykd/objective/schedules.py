"""What a schedule says at a moment: pure functions of the epoch, so that a resumed fit goes on alike."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from raykd.config.objective import Objective, phase_weights
from raykd.config.schedules import ConstantCourse, Course, StepCourse

_RAMPS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "sigmoid": lambda t: math.exp(-5 * (1 - t) ** 2),
}
"""Share of the way after a part t in [0, 1) of the time."""


def value_at(scheduled: float | Course, epoch: float) -> float:
    """The value of a number or of its course.

    Args:
        scheduled: from the recipe.
        epoch: time since the start of training, in epochs; 2.5 is the middle of the third.
    """
    if isinstance(scheduled, float | int):
        return float(scheduled)
    if isinstance(scheduled, ConstantCourse):
        return scheduled.value
    if isinstance(scheduled, StepCourse):
        return scheduled.values[bisect_right(scheduled.milestones, epoch)]
    passed = (epoch - scheduled.start_epoch) / scheduled.epochs
    if passed <= 0:
        return scheduled.start
    if passed >= 1:
        return scheduled.to
    return scheduled.start + (scheduled.to - scheduled.start) * _RAMPS[scheduled.type](passed)


@dataclass(frozen=True)
class Strengths:
    """The numbers of an objective at a moment.

    Attributes:
        labels: weight of the label term.
        soft_targets: weight of the soft targets; 0 where there are none.
        temperature: T of the soft targets; 1 where there are none.
        features: weight of each feature term.
    """

    labels: float
    soft_targets: float
    temperature: float
    features: tuple[float, ...]


def strengths_at(objective: Objective, epoch: float) -> Strengths:
    """Weights and temperature at a moment: of the phase that it lies in, each by its own schedule."""
    phase = next((phase for phase in objective.phases if epoch < phase.until_epoch), None)
    labels, soft_targets, *features = (
        value_at(weight, epoch) for weight in phase_weights(objective, phase)
    )
    soft = objective.soft_targets
    temperature: float | Course = 1.0 if soft is None else soft.course
    if phase is not None and phase.soft_targets.temperature is not None:
        temperature = phase.soft_targets.temperature
    return Strengths(labels, soft_targets, value_at(temperature, epoch), tuple(features))
