"""What can be left out of a recipe, and what is said where it cannot."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.variants import WHOLE, ablation

HINT = "{loss: {type: hint}, teacher: %s, student_tap: blocks.1, teacher_tap: blocks.1}"
FEATURES = f"objective.features=[{HINT % 'cnn'}, {HINT % 'wrn'}]"


def parts_of(*overrides, **given):
    found = ablation(load_config("digits", overrides), **given)
    return {part.name: part for part in found.parts}, found


def test_one_part_at_a_time_and_all_else_as_in_the_recipe():
    parts, found = parts_of("objective.weighting.type=confidence", FEATURES)
    assert list(parts) == [
        "teacher.resnet", "teacher.cnn", "teacher.wrn",
        "term.labels", "term.soft_targets", "term.features.0", "term.features.1", "weighting",
    ]  # fmt: skip
    whole = found.whole
    assert [variant.name for variant in found.variants] == [WHOLE, *parts]
    assert found.variants[0].config == whole
    assert (whole.evaluate.controls, whole.evaluate.require, whole.search) == ((), (), None)
    for name, part in parts.items():
        changed = {key for key, value in part.config if value != getattr(whole, key)}
        assert changed == ({"teachers", "objective"} if name in ("teacher.cnn", "teacher.wrn") else
                           {"teachers"} if part.kind == "teacher" else {"objective"}), name  # fmt: skip
    assert parts["term.labels"].config.objective.labels.weight == 0
    assert parts["term.soft_targets"].config.objective.soft_targets is None
    assert [t.teacher for t in parts["term.features.0"].config.objective.features] == ["wrn"]
    assert parts["weighting"].config.objective.weighting.type == "uniform"


def test_a_teacher_takes_its_features_and_its_weight_with_it():
    given = "{resnet: 0.5, cnn: 0.3, wrn: 0.2}"
    parts, _ = parts_of(f"objective.weighting={{type: fixed, weights: {given}}}", FEATURES)
    without = parts["teacher.cnn"].config
    assert [teacher.name for teacher in without.teachers] == ["resnet", "wrn"]
    assert [term.teacher for term in without.objective.features] == ["wrn"]
    assert without.objective.weighting.weights == {"resnet": 0.5, "wrn": 0.2}
    drawn, _ = parts_of(f"objective.weighting={{type: sample, probabilities: {given}}}")
    left = drawn["teacher.resnet"].config.objective.weighting.probabilities
    assert left == {"cnn": 0.3, "wrn": 0.2}


def test_a_fitted_temperature_stays_that_of_its_teacher():
    parts, _ = parts_of("teachers.wrn.temperature=fit", "teachers.cnn.temperature=2.0")
    kept = {t.name: t.temperature for t in parts["teacher.resnet"].config.teachers}
    assert kept == {"cnn": 2.0, "wrn": "fit"}


@pytest.mark.parametrize(
    ("overrides", "lacking", "said"),
    [
        (["objective.labels.weight=0"], "term.soft_targets", "soft targets: it is the only term"),
        ([], "weighting", "weighting uniform: it is what others are held against"),
        (["objective.weighting={type: fixed, weights: {resnet: 1, cnn: 0, wrn: 0}}"],
         "teacher.resnet", "teacher resnet: without it, objective.weighting.weights: all are 0"),
        (["objective.soft_targets.disagreement={type: filter, minimum_votes: 3}"], "teacher.cnn",
         "teacher cnn: without it, objective.soft_targets.disagreement.minimum_votes: found 3 with 2 "
         "teachers: no sample would count"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out_is_said(overrides, lacking, said):
    parts, found = parts_of(*overrides)
    assert lacking not in parts
    assert said in found.kept
    assert parts, "all else is still left out"


def test_with_one_teacher_its_worth_is_not_asked():
    recipe = load_config("digits").model_dump(mode="json")
    recipe["teachers"] = recipe["teachers"][:1]
    found = ablation(load_config(recipe, ["objective.weighting.type=entropy"]))
    assert [part.name for part in found.parts] == ["term.labels", "term.soft_targets"]
    assert found.kept == (
        "teacher resnet: it is the only one",
        "weighting entropy: there is one teacher",
    )


def test_phases_lose_what_they_say_of_the_term():
    phases = (
        "[{until_epoch: 2, labels: {weight: 0}, features: [{weight: 0}, {weight: 9}]}, "
        "{until_epoch: 4, soft_targets: {weight: 0, temperature: 2}, labels: {weight: 1}}]"
    )
    parts, _ = parts_of(FEATURES, f"objective.phases={phases}")
    soft = parts["term.soft_targets"].config.objective.phases
    assert [phase.until_epoch for phase in soft] == [2, 4]
    assert soft[1].soft_targets.temperature is None
    features = parts["term.features.0"].config.objective.phases
    assert [term.weight for term in features[0].features] == [9]
    labels = parts["term.labels"].config.objective
    assert [phase.labels.weight for phase in labels.phases] == [None, None]


def test_view_steps_are_left_out_only_when_asked():
    parts, _ = parts_of(views=True)
    assert [name for name in parts if name.startswith("view")] == ["view.0", "view.1"]
    assert [step.type for step in parts["view.0"].config.data.views.policy] == ["rotate"]
    assert parts["view.0"].config.data.views.count == 8
    assert parts["view.1"].about == "view step rotate"
    alone, _ = parts_of("data.views.policy=[{type: shift}]", views=True)
    assert alone["view.0"].config.data.views.count == 1, "without a policy all views are the same"


def test_other_tasks():
    parts = {p.name: p.config for p in ablation(load_config("diabetes")).parts}
    assert parts["term.soft_targets"].objective.soft_targets is None
    assert parts["term.labels"].task == "regression"


def test_estimators_are_left_out_like_any_teacher():
    found = ablation(load_config("letter"))
    parts = {part.name: part.config for part in found.parts}
    assert list(parts)[:2] == ["teacher.trees", "teacher.boosted"]
    left = parts["teacher.trees"].teachers
    assert [teacher.name for teacher in left] == ["boosted", "wide", "deep"]
    assert left[0] == found.whole.teachers[1]
