"""Continuous actions. What a recipe may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raykd.config.tasks import GIVEN_WEIGHTINGS, NO_VECTORS, TaskSettings
from raykd.errors import Problem
from raykd.methods import losses_of

if TYPE_CHECKING:
    from raykd.config.root import Config


def _averages(config: Config) -> Iterator[Problem]:
    """Means of continuous actions are never averaged, and no teacher is left out unseen."""
    soft = config.objective.soft_targets
    if soft is not None and soft.combine in ("values", "logits", "losses"):
        yield Problem("objective.soft_targets.combine", f"found {soft.combine}, which averages the teachers' actions: of two ways around "
                      "an obstacle the mean leads into it; sampled learns each state from one teacher that is drawn by the "
                      "weights, routed from the one that the others agree with most")  # fmt: skip
    if soft is not None and soft.combine == "routed" and len(config.teachers) == 2:
        yield Problem("objective.soft_targets.combine", "found routed with two teachers, of which each is as far from the other, so that "
                      "one of them would teach every state; use sampled, or a third teacher")  # fmt: skip
    if config.objective.labels.fill == "ensemble":
        yield Problem("objective.labels.fill", "found ensemble, whose continuous actions would be averaged; leave it out")  # fmt: skip


SETTINGS = TaskSettings(
    select=("rmse", "mae"),
    label_losses=("mse", "huber"),
    soft_losses=losses_of("gaussians"),
    combine=("sampled", "routed", "values", "logits", "losses"),  # the last three: see `_averages`
    weightings=(*GIVEN_WEIGHTINGS, "routed"),
    expect=("rmse",),
    controls=("labels", "best_teacher"),
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
        "train": {"select": "last"},
        "objective": {
            "labels": {"loss": {"type": "mse"}, "mode": "add", "weight": 0.0},
            "soft_targets": {"loss": {"type": "gaussian_kl"}, "temperature": 1.0},
        },
        "evaluate": {"controls": ["labels", "best_teacher"]},
    },
    has_classes=False,
    acts=True,
    problems=_averages,
)
