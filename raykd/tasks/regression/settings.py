"""One value. What a recipe may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raykd.config.tasks import CONTROLS, GIVEN_WEIGHTINGS, NO_VECTORS, TaskSettings
from raykd.errors import Problem
from raykd.methods import losses_of

if TYPE_CHECKING:
    from raykd.config.root import Config


def _without_labels(config: Config) -> Iterator[Problem]:
    if config.data.labels == 0:
        yield Problem(
            "data.labels", "is 0; the labelled training values of a regression set its unit"
        )


SETTINGS = TaskSettings(
    select=("rmse", "mae"),
    label_losses=("mse", "huber"),
    soft_losses=("mse", *losses_of("values")),
    combine=("values",),
    weightings=GIVEN_WEIGHTINGS,
    expect=("rmse", "r2"),
    controls=CONTROLS,
    unused={
        **NO_VECTORS,
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
    has_classes=False,
    problems=_without_labels,
)
