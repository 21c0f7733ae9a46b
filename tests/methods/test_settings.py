"""Every method can be written in a recipe, with the paper's defaults; what cannot work is refused."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest

from raykd.config import load_config
from raykd.config.methods import FeatureLoss, SoftLoss, Weighting
from raykd.config.objective import FeatureTerm, Objective, SoftTargets
from raykd.config.resolving import resolutions
from raykd.ensemble import WEIGHTINGS
from raykd.ensemble.stacking import stacked_weights
from raykd.errors import InputError
from raykd.losses import LOSSES
from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS
from raykd.tasks import find_task

POOLED = ("ttm", "wttm", "nkd")
CLASS_LOSSES = ("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist", "uld")
NOT_KNOBS = {"type", "standardise", "scope", "initial_variance", "momentum", "error_range"}
"""Of the objective, not of the function; so are knobs whose rows say that they are no arguments."""


def members(union: Any) -> list[Any]:
    return list(get_args(get_args(union)[0]))


def tag(member: Any) -> str:
    return member.model_fields["type"].default


def recipe(**objective: Any) -> dict[str, Any]:
    model = {"type": "mlp"}
    return {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": n, "model": model, "fit": {"epochs": 1}} for n in ("a", "b")],
        "student": {"model": model},
        "objective": objective,
    }


def problems(**objective: Any) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        load_config(recipe(**objective))
    return {problem.key: problem.message for problem in caught.value.problems}


def term(**given: Any) -> dict[str, Any]:
    return {
        "loss": {"type": "hint"},
        "teacher": "a",
        "student_tap": "s",
        "teacher_tap": "t",
        **given,
    }


def test_registries_and_unions_have_the_same_names():
    soft, features = ({tag(m) for m in members(u)} for u in (SoftLoss, FeatureLoss))
    assert soft & features <= set(find_task("embedding").settings.soft_losses), (
        "of vectors, whichever they are"
    )
    assert soft | features == set(LOSSES)
    assert {n for n, info in LOSS_ROWS.items() if info.kind in ("features", "pairs")} == features
    assert {tag(m) for m in members(Weighting)} == set(WEIGHTINGS)


@pytest.mark.parametrize("member", [*members(SoftLoss), *members(FeatureLoss)], ids=tag)
def test_a_loss_s_knobs_and_weight_are_those_of_the_paper(member):
    parameters = inspect.signature(LOSSES[tag(member)]).parameters
    settings = member()
    for name, value in settings:
        knob = LOSS_ROWS[tag(member)].knobs.get(name)
        if name not in NOT_KNOBS and (knob is None or knob.argument):
            assert parameters[name].default == value, name
    assert hasattr(settings, "scope") == LOSS_ROWS[tag(member)].scope
    if LOSS_ROWS[tag(member)].kind in ("features", "pairs"):
        own = LOSS_ROWS[tag(member)].default_weight
        assert FeatureTerm.model_validate(term(loss={"type": tag(member)})).strength == own


@pytest.mark.parametrize("member", members(Weighting), ids=tag)
def test_a_weighting_s_knobs_are_those_of_the_paper(member):
    parameters = inspect.signature(WEIGHTINGS[tag(member)]).parameters
    for name, field in member.model_fields.items():
        if name not in ("type", "weights", "paper_code_scale"):
            if WEIGHTING_ROWS[tag(member)].knobs[name].argument:
                assert parameters[name].default == field.default, name
            elif tag(member) == "stacking":  # the weights come from validation, before any batch
                own = inspect.signature(stacked_weights).parameters
                assert own[name].default == field.default, name
        elif name == "weights":
            assert "weights" in WEIGHTING_ROWS[tag(member)].needs


def test_the_default_is_kl_of_the_mean_probability():
    soft = SoftTargets()
    assert (soft.loss.type, soft.mixing, soft.strength) == ("kl", "probabilities", 0.9)
    assert LOSS_ROWS["kl"].default_weight == soft.strength


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("standardise", [False, True])
def test_every_logit_loss_loads(name, standardise):
    loaded = load_config(recipe(soft_targets={"loss": {"type": name, "standardise": standardise}}))
    usual = {"kl": "probabilities", "reverse_kl": "logits", "mse": "logits"}.get(name, "losses")
    assert loaded.objective.soft_targets.mixing == usual
    assert load_config(loaded.model_dump(mode="json")) == loaded


@pytest.mark.parametrize("name", POOLED)
def test_a_loss_of_its_own_temperature_takes_the_mixture_of_the_teachers(name):
    loaded = load_config(recipe(soft_targets={"loss": {"type": name}}))
    assert loaded.objective.soft_targets.mixing == "probabilities_then_temper"
    for settled in resolutions(loaded.objective, classes=True):
        assert settled.soft_targets.temperature == 1.0
    for combine in ("logits", "losses"):
        load_config(recipe(soft_targets={"loss": {"type": name}, "combine": combine}))


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_another_temperature_than_one_is_refused_where_it_would_do_nothing(name):
    soft = {"loss": {"type": name}, "temperature": 4}
    assert "gamma" in problems(soft_targets=soft)["objective.soft_targets.temperature"]
    load_config(recipe(soft_targets={**soft, "temperature": 1}))
    phases = [{"until_epoch": 2, "soft_targets": {"temperature": 2}}]
    found = problems(soft_targets={"loss": {"type": name}}, phases=phases)
    assert "objective.phases.0.soft_targets.temperature" in found
    load_config(recipe(soft_targets={"loss": {"type": "nkd"}, "temperature": 4}))


@pytest.mark.parametrize(
    ("given", "key", "said"),
    [({"loss": {"type": "simkd"}}, "loss.type", "export"),
     ({"loss": {"type": "similarity"}, "projector": "orthogonal"}, "projector", "any width"),
     ({"loss": {"type": "cosine"}, "target": "layer_norm"}, "target", "standardise=false"),
     ({"loss": {"type": "attention_matrix"}, "target": "layer_norm"}, "target", "no channels")],
)  # fmt: skip
def test_feature_terms_that_cannot_work_are_refused(given, key, said):
    assert said in problems(features=[term(**given)])[f"objective.features.0.{key}"]


def test_how_a_feature_is_brought_together_is_no_part_of_older_recipes():
    older = load_config(recipe(features=[term()])).objective.features[0]
    assert not {"projector", "target"} & set(older.identity())
    newer = load_config(recipe(features=[term(projector="orthogonal", target="layer_norm")]))
    assert {"projector", "target"} <= set(newer.objective.features[0].identity())
    load_config(
        recipe(
            features=[term(loss={"type": "smooth_l1", "standardise": False}, target="layer_norm")]
        )
    )


@pytest.mark.parametrize(
    ("loss", "combine"),
    [("dkd", "probabilities"), ("dist", "logits"), ("js", "probabilities"), ("skew_kl", "logits"),
     ("reverse_kl", "probabilities"), ("mse", "probabilities_then_temper"), ("kl", "values")],
)  # fmt: skip
def test_a_way_to_combine_that_the_loss_does_not_have_is_refused(loss, combine):
    found = problems(soft_targets={"loss": {"type": loss}, "combine": combine})
    assert "allowed" in found["objective.soft_targets.combine"]
    assert combine in found["objective.soft_targets.combine"]


def test_standardised_logits_are_not_mixed_before_tempering():
    soft = {"loss": {"type": "kl", "standardise": True}, "combine": "probabilities_then_temper"}
    assert (
        "probabilities, logits, losses"
        in problems(soft_targets=soft)["objective.soft_targets.combine"]
    )


def test_schedules_are_read_and_written():
    objective = {
        "labels": {
            "weight": {"type": "cosine", "from": 1, "to": 0.1, "epochs": 5, "start_epoch": 2}
        },
        "soft_targets": {
            "temperature": {"type": "linear", "from": 8, "to": 2, "epochs": 3},
            "weight": {"type": "sigmoid", "from": 0, "to": 1, "epochs": 80},
        },
        "features": [term(weight={"type": "step", "milestones": [1, 2.5], "values": [3, 2, 0]})],
        "phases": [{"until_epoch": 1.5, "labels": {"weight": 0}, "features": {"weight": 7}}],
    }
    loaded = load_config(recipe(**objective))
    dumped = loaded.model_dump(mode="json")["objective"]
    assert dumped["labels"]["weight"] == {
        "type": "cosine", "from": 1.0, "to": 0.1, "epochs": 5.0, "start_epoch": 2.0,
    }  # fmt: skip
    assert dumped["phases"][0]["features"] == [{"weight": 7.0}]
    assert load_config(loaded.model_dump(mode="json")) == loaded
    constant = {"type": "constant", "value": 0.5}
    overridden = load_config(
        recipe(labels={"weight": constant}), ["objective.labels.weight.value=0.75"]
    )
    assert overridden.objective.labels.weight.value == 0.75


@pytest.mark.parametrize(
    ("objective", "key", "said"),
    [
        ({"labels": {"weight": -1}}, "labels.weight", "greater than or equal to 0"),
        ({"labels": {"weight": "much"}}, "labels.weight", "valid number"),
        ({"labels": {"weight": {"type": "linaer"}}}, "labels.weight", "did you mean 'linear'"),
        ({"labels": {"weight": {"from": 0}}}, "labels.weight", "needs a `type`"),
        ({"labels": {"weight": {"type": "linear", "form": 0, "to": 1, "epochs": 2}}},
         "labels.weight.form", "did you mean 'from'"),
        ({"labels": {"weight": {"type": "linear", "to": 1, "epochs": 2}}}, "labels.weight.from", "missing"),
        ({"labels": {"weight": {"type": "step", "milestones": [3, 2], "values": [1, 2, 3]}}},
         "labels.weight", "rise"),
        ({"labels": {"weight": {"type": "step", "milestones": [3], "values": [1]}}},
         "labels.weight", "separate 2 values"),
        ({"soft_targets": {"temperature": {"type": "linear", "from": 0, "to": 1, "epochs": 2}}},
         "soft_targets.temperature", "above 0"),
        ({"phases": [{"until_epoch": 2}, {"until_epoch": 2}]}, "phases", "rise"),
        ({"phases": [{"until_epoch": 2, "features": {"weight": 0}}]}, "phases.0.features", "0 feature terms"),
        ({"phases": [{"until_epoch": 2, "labels": {"weight": 0}, "soft_targets": {"weight": 0}}]},
         "phases.0", "nothing would be learnt"),
        ({"soft_targets": None, "phases": [{"until_epoch": 2, "soft_targets": {"weight": 1}}]},
         "phases.0.soft_targets", "there are none"),
        ({"weighting": {"type": "sample", "probabilities": {"a": 1, "d": 2}}},
         "weighting.probabilities.d", "no such teacher"),
        ({"soft_targets": {"disagreement": {"type": "filter", "minimum_votes": 3}}},
         "soft_targets.disagreement.minimum_votes", "no sample would count"),
        ({"features": [term(student_tap=["s", "s2"])]}, "features.0.student_tap", "one module path"),
        ({"features": [term(loss={"type": "fsp"}, student_tap=["s", "s2"])]},
         "features.0.teacher_tap", "two module paths"),
        ({"features": [term(teacher_tap=["s", 2])]}, "features.0.teacher_tap", "module path"),
        ({"labels": {"weight": 0}, "soft_targets": None, "features": [term()]},
         "evaluate.controls", "best_teacher would learn nothing"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(objective, key, said):
    found = problems(**objective)
    name = key if key.startswith("evaluate") else f"objective.{key}"
    assert name in found, found
    assert said in found[name]


def test_every_weighting_loads():
    for member in members(Weighting):
        given = {"weights": {"a": 1, "b": 2}} if tag(member) == "fixed" else {}
        Objective.model_validate({"weighting": {"type": tag(member), **given}})
        if WEIGHTING_ROWS[tag(member)].for_all_tasks:
            calibrated = ["teachers.a.temperature=fit", "teachers.b.temperature=fit"]
            overrides = calibrated if tag(member) == "stacking" else []
            load_config(recipe(weighting={"type": tag(member), **given}), overrides)
