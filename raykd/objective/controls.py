"""The same student taught otherwise: what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raykd.config.objective import Labels, Objective, UniformWeighting

Role = Literal["student", "labels", "best_teacher", "hard"]


@dataclass(frozen=True)
class Lesson:
    """How one role is taught.

    Attributes:
        role: `student`, or the control's name.
        objective: what it is taught.
        teachers: whom it listens to.
        labelled_only: whether its batches hold labelled samples only.
    """

    role: Role
    objective: Objective
    teachers: tuple[str, ...]
    labelled_only: bool = False


def lesson(role: Role, objective: Objective, teachers: Sequence[str], best_teacher: str) -> Lesson:
    """What a role is taught, derived from the student's objective.

    Args:
        role: who is taught.
        objective: the recipe's objective.
        teachers: names of all teachers.
        best_teacher: name of the teacher that is best on validation.
    """
    if role == "student":
        return Lesson(role, objective, tuple(teachers))
    own = Labels(
        weight=1.0,
        smoothing=objective.labels.smoothing,
        class_weights=objective.labels.class_weights,
    )
    if role == "labels":
        alone = Objective(labels=own, soft_targets=None)
        return Lesson(role, alone, (), labelled_only=True)
    if role == "hard":
        filled = own.model_copy(update={"fill": "ensemble"})
        hard = Objective(labels=filled, soft_targets=None, weighting=objective.weighting)
        return Lesson(role, hard, tuple(teachers))
    features = tuple(term for term in objective.features if term.teacher == best_teacher)
    single = objective.model_copy(update={"weighting": UniformWeighting(), "features": features})
    return Lesson(role, single, (best_teacher,))
