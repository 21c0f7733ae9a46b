"""What each task allows in a recipe, and what it takes where the recipe says nothing.

The other half of a task, what is computed of its outputs, is `raykd.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TaskName = Literal["classification", "regression", "multilabel"]


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
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GIVEN_WEIGHTINGS = ("uniform", "fixed", "inverse_error")

CHOICES: dict[TaskName, Choices] = {
    "classification": Choices(
        select=("accuracy", "nll"),
        label_losses=("cross_entropy",),
        soft_losses=("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist"),
        combine=("probabilities", "probabilities_then_temper", "logits", "losses"),
        expect=("accuracy",),
    ),
    "regression": Choices(
        select=("rmse", "mae"),
        label_losses=("mse", "huber"),
        soft_losses=("mse", "huber", "bounded", "imitation"),
        combine=("values",),
        weightings=_GIVEN_WEIGHTINGS,
        expect=("rmse", "r2"),
        unused={
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
        unused={
            "objective.labels.class_weights": None,
            "teachers.*.label_map": None,
            "evaluate.compare.*.label_map": None,
        },
        defaults={"objective": {"soft_targets": {"loss": {"type": "bernoulli_kl"}}}},
    ),
}
