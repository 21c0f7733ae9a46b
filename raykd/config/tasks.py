"""What each task allows in a recipe, and what it takes where the recipe says nothing.

The other half of a task, what is computed of its outputs, is `raykd.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TaskName = Literal["classification", "regression", "multilabel", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The settings that depend on the task.

    Attributes:
        select: validation metrics that can choose the best epoch, the task's own first.
        label_losses: types of `objective.labels.loss`.
        soft_losses: types of `objective.soft_targets.loss`.
        combine: ways to mix the teachers.
        weightings: types of `objective.weighting`; None means all.
        kinds: of what teachers return; None means all.
        expect: what `teachers[].expect` can hold.
        unused: dotted settings that mean nothing in this task -> the one value they may have.
        needed: dotted settings that have to be given -> what they are.
        controls: of `evaluate.controls`; None means all.
        fitted_as: the task that teachers are fitted in; None means this one.
        defaults: parts of a recipe that are taken where it says nothing.
    """

    select: tuple[str, ...]
    label_losses: tuple[str, ...]
    combine: tuple[str, ...]
    soft_losses: tuple[str, ...]
    expect: tuple[str, ...]
    weightings: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    unused: Mapping[str, Any] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)
    controls: tuple[str, ...] | None = None
    fitted_as: TaskName | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GIVEN_WEIGHTINGS = ("uniform", "fixed", "inverse_error")
_TAUGHT = ("labels", "best_teacher", "hard")
_ONLY_EMBEDDING = {
    "student.dimension": None,
    "teachers.*.embedding": None,
    "evaluate.compare.*.embedding": None,
}

CHOICES: dict[TaskName, Choices] = {
    "classification": Choices(
        select=("accuracy", "nll"),
        label_losses=("cross_entropy",),
        soft_losses=("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist"),
        combine=("probabilities", "probabilities_then_temper", "logits", "losses"),
        expect=("accuracy",),
        controls=_TAUGHT,
        unused=_ONLY_EMBEDDING,
    ),
    "regression": Choices(
        select=("rmse", "mae"),
        label_losses=("mse", "huber"),
        soft_losses=("mse", "huber", "bounded", "imitation"),
        combine=("values",),
        weightings=_GIVEN_WEIGHTINGS,
        expect=("rmse", "r2"),
        controls=_TAUGHT,
        unused={
            **_ONLY_EMBEDDING,
            "objective.soft_targets.temperature": 1.0,
            "objective.labels.smoothing": 0.0,
            "objective.labels.class_weights": None,
            "teachers.*.temperature": 1.0,
            "teachers.*.kind": "logits",
            "teachers.*.label_map": None,
            "evaluate.compare.*.kind": "logits",
            "evaluate.compare.*.label_map": None,
            "teachers.*.fit.label_smoothing": 0.0,
        },
        defaults={
            "objective": {
                "soft_targets": {"loss": {"type": "mse"}, "temperature": 1.0, "combine": "values"}
            }
        },
    ),
    "multilabel": Choices(
        select=("accuracy", "nll"),
        label_losses=("binary_cross_entropy",),
        soft_losses=("bernoulli_kl",),
        combine=("probabilities", "logits"),
        expect=("accuracy",),
        weightings=(*_GIVEN_WEIGHTINGS, "accuracy"),
        kinds=("logits", "probabilities", "log_probabilities"),
        controls=_TAUGHT,
        unused={
            **_ONLY_EMBEDDING,
            "objective.labels.class_weights": None,
            "teachers.*.label_map": None,
            "evaluate.compare.*.label_map": None,
        },
        defaults={"objective": {"soft_targets": {"loss": {"type": "bernoulli_kl"}}}},
    ),
    "embedding": Choices(
        select=("map_10", "recall_1"),
        label_losses=(),
        soft_losses=(
            "cosine",
            "mse",
            "smooth_l1",
            "rkd_distance",
            "rkd_angle",
            "similarity",
            "pkt",
        ),
        combine=("losses", "relations"),
        weightings=("uniform", "fixed"),
        expect=("recall_1",),
        kinds=("logits",),
        controls=("best_teacher", "untrained"),
        fitted_as="classification",
        needed={"student.dimension": "length of the student's vectors"},
        unused={
            "objective.soft_targets.temperature": 1.0,
            "objective.labels.weight": 0.0,
            "objective.labels.smoothing": 0.0,
            "objective.labels.class_weights": None,
            "objective.labels.fill": "none",
            "teachers.*.temperature": 1.0,
            "teachers.*.label_map": None,
            "evaluate.compare.*.label_map": None,
            "evaluate.slices": (),
        },
        defaults={
            "objective": {
                "labels": {"weight": 0.0},
                "soft_targets": {"loss": {"type": "cosine"}, "temperature": 1.0, "weight": 1.0},
            },
            "evaluate": {"controls": ["best_teacher", "untrained"]},
        },
    ),
}
