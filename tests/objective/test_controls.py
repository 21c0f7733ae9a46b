"""What each control is taught, as against the student."""

from __future__ import annotations

import shlex

import pytest

from raykd.config import load_config
from raykd.config.methods import WEIGHTINGS
from raykd.config.objective import Objective
from raykd.config.resolving import resolved
from raykd.objective import overrides_of, training_role

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


UNIFORM = WEIGHTINGS["uniform"]()
FEATURES = (
    "objective.features=[{loss: {type: hint}, teacher: cnn, student_tap: a, teacher_tap: b}, \
{loss: {type: hint}, teacher: wrn, student_tap: a, teacher_tap: b, weight: 2}]"
)
RECIPES = {
    "the recipe": [],
    "labels replace": ["objective.labels.mode=replace"],
    "labels weighed and smooth": ["objective.labels={weight: 0.3, smoothing: 0.1}"],
    "features": [FEATURES],
    "phases": [
        FEATURES,
        "objective.phases=[{until_epoch: 3, features: [{weight: 1}, {weight: 0}], soft_targets: {weight: 0}}, {until_epoch: 60, soft_targets: {weight: 1}}]",
    ],
    "a weighting of its own": ["objective.weighting={type: confidence}"],
    "a weighting by gradients": ["objective.weighting={type: gradient}"],
    "disagreement": ["objective.soft_targets.disagreement={type: filter}"],
}


@pytest.mark.parametrize("role", ["hard", "labels", "best_teacher"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("written", [False, True], ids=["as given", "as a run's folder has it"])
def test_an_override_teaches_the_student_what_the_control_is_taught(role, recipe, written):
    config = load_config("digits", RECIPES[recipe])
    counts = {"labelled": 200, "samples": 1247, "classes": True}
    objective, names = resolved(config.objective, **counts), [one.name for one in config.teachers]
    if written:
        config = config.model_copy(update={"objective": objective})
    words = shlex.split(overrides_of(role, objective, names, "wrn", chosen=False))
    again = load_config(config.model_dump(mode="json"), words)
    own = training_role("student", resolved(again.objective, **counts), names, "wrn").objective
    control = training_role(role, objective, names, "wrn").objective
    if role == "best_teacher":
        assert own.weighting.per_teacher == {"weights": {"resnet": 0, "cnn": 0, "wrn": 1}}
    if role != "hard":  # of one teacher alone, or of none, they are all the same
        own, control = (one.model_copy(update={"weighting": UNIFORM}) for one in (own, control))
    assert own == control


@pytest.mark.parametrize("role", ["hard", "labels"])
def test_an_override_of_a_language_model_teaches_what_the_control_is_taught(role):
    """The hard control learns the ensemble's likeliest token in place of the text's own."""
    config = load_config("lm_domains")
    counts = {"labelled": 10, "samples": 10, "classes": False}
    names, objective = [one.name for one in config.teachers], resolved(config.objective, **counts)
    given = {"always_labelled": True}
    words = shlex.split(overrides_of(role, objective, names, names[0], chosen=False, **given))
    again = load_config(config.model_dump(mode="json"), words)
    own = training_role("student", resolved(again.objective, **counts), names, names[0], **given)
    control = training_role(role, objective, names, names[0], **given).objective
    assert own.objective.soft_targets == control.soft_targets
    assert own.objective.labels == control.labels
    assert own.objective.mean == control.mean
    if role == "hard":
        assert own.objective.weighting == control.weighting


def test_overrides_leave_a_menu_and_an_untrained_student_has_none():
    objective = load_config("digits").objective
    words = overrides_of("hard", objective, ["a"], "a", chosen=True)
    assert words.startswith("objective.choose=null objective.soft_targets=null ")
    assert overrides_of("untrained", objective, ["a"], "a", chosen=False) == ""
