"""Vectors whose cosines say what is alike, learnt from teachers' vectors and without labels. What a recipe may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raykd.config.models import SklearnModel
from raykd.config.tasks import TaskSettings
from raykd.errors import Problem

if TYPE_CHECKING:
    from raykd.config.root import Config


def _teachers_without_vectors(config: Config) -> Iterator[Problem]:
    for teacher in config.teachers:
        key = f"teachers.{teacher.name}"
        if teacher.outputs is not None:
            continue
        if isinstance(teacher.model, SklearnModel):
            yield Problem(f"{key}.model.type", "sklearn answers classes, no vectors; use a network")
        elif teacher.learns and teacher.embedding is None:
            yield Problem(f"{key}.embedding", "is required: which module of a classifier gives its vector; "
                          "`raykd inspect` prints their paths")  # fmt: skip
    for one in config.evaluate.compare:
        if isinstance(one.model, SklearnModel):
            yield Problem(
                f"evaluate.compare.{one.name}.model.type",
                "sklearn answers classes, no vectors; use a network",
            )


SETTINGS = TaskSettings(
    select=("map_10", "recall_1"),
    label_losses=(),
    soft_losses=(
        "cosine",
        "mse",
        "smooth_l1",
        "cosine_smooth_l1",
        "rkd_distance",
        "rkd_angle",
        "similarity",
        "pkt",
        "itrd",
        "itrd_mutual",
    ),
    combine=("losses", "relations"),
    weightings=("uniform", "fixed", "drop"),
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
    problems=_teachers_without_vectors,
)
