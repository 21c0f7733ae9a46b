"""What each control is taught, as against the student."""

from __future__ import annotations

import pytest

from raykd.config.objective import Objective
from raykd.objective import training_role

TEACHERS = ("a", "b")


@pytest.fixture
def objective():
    return Objective.model_validate(
        {
            "labels": {"weight": 0.1, "smoothing": 0.05, "class_weights": "balanced"},
            "soft_targets": {"temperature": 2.0, "weight": 0.9},
            "weighting": {"type": "fixed", "weights": {"a": 0.9, "b": 0.1}},
            "features": [
                {"loss": {"type": "hint"}, "teacher": t, "student_tap": "s", "teacher_tap": "t"}
                for t in TEACHERS
            ],
        }
    )


def test_the_student_is_taught_the_recipe(objective):
    taught = training_role("student", objective, TEACHERS, "b")
    assert taught.objective == objective
    assert taught.teachers == TEACHERS
    assert not taught.labelled_only


def test_labels_alone(objective):
    taught = training_role("labels", objective, TEACHERS, "b")
    assert taught.teachers == ()
    assert taught.labelled_only
    assert taught.objective.labels.weight == 1.0
    assert taught.objective.labels.smoothing == 0.05
    assert taught.objective.labels.class_weights == "balanced"
    assert taught.objective.soft_targets is None
    assert taught.objective.features == ()


def test_hard_labels_are_the_ensemble_s_where_the_true_one_is_unknown(objective):
    taught = training_role("hard", objective, TEACHERS, "b")
    assert taught.teachers == TEACHERS
    assert taught.objective.labels.fill == "ensemble"
    assert taught.objective.labels.weight == 1.0
    assert taught.objective.soft_targets is None
    assert taught.objective.features == ()
    assert taught.objective.weighting == objective.weighting
    assert not taught.labelled_only


def test_the_best_teacher_alone(objective):
    taught = training_role("best_teacher", objective, TEACHERS, "b")
    assert taught.teachers == ("b",)
    assert taught.objective.weighting.type == "uniform"
    assert [term.teacher for term in taught.objective.features] == ["b"]
    assert taught.objective.soft_targets == objective.soft_targets
    assert taught.objective.labels == objective.labels
    assert not taught.labelled_only
