"""The same student taught otherwise: what it has to beat."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raykd.config.methods import WEIGHTINGS
from raykd.config.objective import (
    Labels,
    Objective,
    SoftTargets,
    restricted,
)
from raykd.config.resolving import is_hard
from raykd.objective.weighting import steady

Role = Literal[
    "student", "labels", "best_teacher", "hard", "untrained", "without_peers", "all_labels"
]


@dataclass(frozen=True)
class TrainingRole:
    """How one role is taught.

    Attributes:
        role: `student`, or the control's name.
        objective: what it is taught.
        teachers: whom it listens to.
        labelled_only: whether its batches hold labelled samples only.
        all_labels: whether it sees the labels outside the budget, too.
        trained: whether it is trained at all.
    """

    role: Role
    objective: Objective
    teachers: tuple[str, ...]
    labelled_only: bool = False
    all_labels: bool = False
    trained: bool = True


def training_role(
    role: Role,
    objective: Objective,
    teachers: Sequence[str],
    best_teacher: str,
    *,
    always_labelled: bool = False,
) -> TrainingRole:
    """What a role is taught, derived from the student's objective.

    The controls on labels have neither schedules nor phases. `hard` takes the argmax of an ensemble
    whose weights are neither drawn nor made by looking at the student; a student that is to learn nothing else
    learns just that.

    Args:
        role: who is taught.
        objective: the recipe's objective.
        teachers: names of all teachers.
        best_teacher: name of the teacher that is best on validation.
        always_labelled: whether each unit is its own label, as a token of a text is: the ensemble's answers cannot
            stand in for missing labels then, and `hard` takes them in place of all.
    """
    if role in ("student", "without_peers") and not is_hard(objective):
        return TrainingRole(role, objective, tuple(teachers))
    if role == "untrained":
        nothing = Objective(labels=Labels(weight=0.0), soft_targets=None)
        return TrainingRole(role, nothing, (), trained=False)
    own = Labels(
        weight=1.0,
        smoothing=objective.labels.smoothing,
        class_weights=objective.labels.class_weights,
        loss=objective.labels.loss,
    )
    if role in ("labels", "all_labels"):
        alone = Objective(labels=own, soft_targets=None, mean=objective.mean)
        return TrainingRole(role, alone, (), labelled_only=True, all_labels=role == "all_labels")
    if role == "hard" and always_labelled:
        soft = SoftTargets(temperature=1.0, weight=1.0, hard_share=1.0)
        argmax = Objective(
            labels=Labels(weight=0.0),
            soft_targets=soft,
            weighting=steady(objective.weighting),
            mean=objective.mean,
            on_policy=objective.on_policy,
        )
        return TrainingRole(role, argmax, tuple(teachers))
    if role in ("student", "without_peers", "hard"):
        filled = own.model_copy(update={"fill": "ensemble"})
        hard = Objective(labels=filled, soft_targets=None, weighting=steady(objective.weighting))
        return TrainingRole(role, hard, tuple(teachers))
    return TrainingRole(role, _alone(objective, best_teacher), (best_teacher,))


def overrides_of(
    role: Role,
    objective: Objective,
    teachers: Sequence[str],
    best_teacher: str,
    *,
    chosen: bool,
    always_labelled: bool = False,
) -> str:
    """Overrides of a recipe by which its student learns what a control learns; empty where there are none.

    The student of `labels` has unlabelled samples in its batches, the control has none.

    Args:
        role: the control.
        objective: the recipe's objective.
        teachers: names of all teachers.
        best_teacher: name of the teacher that is best on validation.
        chosen: whether the recipe leaves its target to a menu.
        always_labelled: as of `training_role`.
    """
    if role in ("student", "untrained"):
        return ""
    if role == "without_peers":
        return "peers=null"
    taught = training_role(
        role, objective, teachers, best_teacher, always_labelled=always_labelled
    ).objective
    found: dict[str, Any] = {}
    if role == "best_teacher":
        weights = ", ".join(f"{name}: {int(name == best_teacher)}" for name in teachers)
        found["weighting"] = f"{{type: fixed, weights: {{{weights}}}}}"
        if objective.soft_targets is not None and objective.soft_targets.disagreement is not None:
            found["soft_targets.disagreement"] = "null"
    else:
        found |= {"choose": "null"} if chosen else {}
        found |= _soft_targets(taught, objective)
        if taught.on_policy != objective.on_policy:
            found["on_policy"] = "null"
        found |= {"labels.mode": "null"} if objective.labels.mode is not None else {}
        found |= {"labels.weight": f"{taught.labels.strength:g}"}
        if taught.labels.fill != objective.labels.fill:
            found["labels.fill"] = taught.labels.fill
        if role == "hard" and taught.weighting != objective.weighting:
            found["weighting"] = json.dumps(taught.weighting.model_dump(mode="json"))
    for name in ("features", "phases"):
        own, others = getattr(taught, name), getattr(objective, name)
        if own != others:
            found[name] = json.dumps(
                [one.model_dump(mode="json", exclude_none=True) for one in own]
            )
    words = [f"objective.{key}={_quoted(value)}" for key, value in found.items()]
    return " ".join(["data.labels=null", *words] if role == "all_labels" else words)


def _soft_targets(taught: Objective, own: Objective) -> dict[str, str]:
    """Keys of the soft targets, where those of a control differ from the recipe's."""
    if taught.soft_targets is None:
        return {"soft_targets": "null"}
    before = own.soft_targets or SoftTargets()
    wanted = taught.soft_targets.model_dump(mode="json")
    return {
        f"soft_targets.{key}": json.dumps(wanted[key])
        for key, value in before.model_dump(mode="json").items()
        if value != wanted[key]
    }


def _quoted(value: str) -> str:
    """As a shell takes it."""
    return value if re.fullmatch(r"[\w.]+", value) else f"'{value}'"


def _alone(objective: Objective, teacher: str) -> Objective:
    """What one teacher has to say: its weight is 1, and it agrees with itself."""
    teacher_batch = restricted(objective, [term.teacher == teacher for term in objective.features])
    soft = teacher_batch.soft_targets
    return teacher_batch.model_copy(
        update={
            "weighting": WEIGHTINGS["uniform"](),
            "soft_targets": soft and soft.model_copy(update={"disagreement": None}),
        }
    )
