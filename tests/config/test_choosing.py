"""The menu of targets: which stand on it, what they are, and what may not be beside it."""

from __future__ import annotations

import pytest

from raykd.config import check_search, load_config
from raykd.config.choosing import CHOSEN, every_recipe, extra_fits, menu, settled, with_menu
from raykd.config.objective import Objective
from raykd.config.resolving import is_hard, resolved
from raykd.config.variants import method_variants
from raykd.errors import InputError
from raykd.pipeline.comparing import check_choice

FEW = {"labelled": 10, "samples": 100}
ALL = {"labelled": 100, "samples": 100}


def objective(**given):
    return Objective.model_validate({"choose": {}, **given})


def problems(recipe, *overrides):
    with pytest.raises(InputError) as caught:
        load_config(recipe, overrides)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_tempered_targets_are_for_full_labels():
    assert menu(objective(), fully_labelled=False) == ("hard", "soft", "calibrated", "mixed")
    assert menu(objective(), fully_labelled=True)[-1] == "tempered"
    given = objective(choose={"menu": ["soft", "tempered"]})
    assert menu(given, fully_labelled=False) == ("soft", "tempered")
    assert menu(Objective(), fully_labelled=True) == ()


@pytest.mark.parametrize(("counts", "replaces"), [(FEW, True), (ALL, False)])
def test_each_target_is_an_ordinary_objective(counts, replaces):
    found = {
        name: resolved(settled(objective(), name), **counts, classes=True)
        for name in ("hard", "soft", "calibrated", "mixed", "tempered")
    }
    soft = {name: one.soft_targets for name, one in found.items()}
    assert {name: one.temperature for name, one in soft.items()} == {
        "hard": 1.0, "soft": 1.0, "calibrated": 1.0, "mixed": 1.0, "tempered": 4.0,
    }  # fmt: skip
    assert {name: (one.sharpen, one.hard_share) for name, one in soft.items()} == {
        "hard": (None, 1.0), "soft": (None, 0.0), "calibrated": ("fit", 0.0), "mixed": ("fit", 0.5),
        "tempered": (None, 0.0),
    }  # fmt: skip
    assert all(one.choose is None for one in found.values())
    assert found["soft"].labels.replaces == replaces
    assert is_hard(found["hard"]), "what the control learns, whatever the labels"


def test_labels_that_a_recipe_weighs_stay_a_term_of_their_own():
    hard = settled(objective(labels={"weight": 0.3}), "hard")
    assert hard.labels.weight == 0.3
    assert not hard.labels.replaces


def test_what_cannot_stand_beside_a_menu(tiny_recipe):
    chooses = "objective.choose={}"
    for key, value in zip(CHOSEN, ("2", "fit", "0.5"), strict=True):
        assert "objective.choose sets" in problems(tiny_recipe, chooses, f"{key}={value}")[key]
    assert (
        "null" in problems(tiny_recipe, chooses, "objective.soft_targets=null")["objective.choose"]
    )
    phases = "objective.phases=[{until_epoch: 1, labels: {weight: 0.5}}]"
    assert "objective.phases" in problems(tiny_recipe, chooses, phases)
    assert "regression" in problems("diabetes", chooses)["objective.choose"]
    dkd = problems(tiny_recipe, chooses, "objective.soft_targets.loss.type=dkd")
    assert any("needs the loss kl" in message for message in dkd.values())


@pytest.mark.parametrize("menu", ["[soft]", "[soft, soft]", "[soft, warm]", "none"])
def test_a_menu_offers_something(tiny_recipe, menu):
    found = problems(tiny_recipe, f"objective.choose={{menu: {menu}}}")
    assert all(key.startswith("objective.choose.menu") for key in found)


@pytest.mark.parametrize("key", [*CHOSEN, "objective.labels.mode", "objective.choose.replicas"])
def test_a_sweep_does_not_search_what_is_chosen(tiny_recipe, key):
    space = {"space": "choice", "categories": [1, 2]}
    search = {"parameters": {key: space}, "scheduler": {"type": "none"}}
    config = load_config({**tiny_recipe, "objective": {"choose": {}}, "search": search})
    with pytest.raises(InputError) as caught:
        check_search(config)
    assert [problem.key for problem in caught.value.problems] == [f"search.parameters.{key}"]


@pytest.mark.parametrize(
    ("overrides", "extra"),
    [
        (("seeds=5",), 4 * 2 - 2),
        (("seeds=5", "evaluate.controls=[labels, hard]"), 4 * 2 - 2 - 2),
        (("seeds=1", "evaluate.controls=[labels, hard]"), 4 * 2 - 1 - 1),
        (("seeds=5", "objective.choose={menu: [soft, mixed], replicas: 3}"), 2 * 3 - 3),
        (("seeds=5", "evaluate.controls=[hard]", "objective.labels.weight=0.5"), 4 * 2 - 2),
    ],
)
def test_students_that_only_the_menu_needs(tiny_recipe, overrides, extra):
    config = load_config(tiny_recipe, ["objective.choose={}", *overrides])
    assert extra_fits(config, **FEW) == extra
    assert extra_fits(load_config(tiny_recipe), **FEW) == 0


def test_a_menu_in_place_of_a_recipe_s_own_target():
    config = with_menu(load_config("digits"))
    assert config.objective.choose is not None
    assert load_config(config.model_dump(mode="json", exclude_unset=True)) == config
    assert len(every_recipe(config, fully_labelled=False)) == 4
    assert every_recipe(load_config("digits"), fully_labelled=True) == [load_config("digits")]


def test_methods_have_the_recipe_s_choice_or_none(tiny_recipe):
    config = load_config(tiny_recipe)
    with pytest.raises(InputError, match="recipe's own"):
        method_variants(config, others={"menu": ["objective.choose={}"]})
    choosing = load_config(tiny_recipe, ["objective.choose={}"])
    own, plain = method_variants(choosing, others={"plain": ["objective.choose=null"]})
    check_choice(choosing, [own, plain])
    with pytest.raises(InputError, match=r"'kl.uniform' is not the recipe's"):
        check_choice(config, [own, plain])


def test_another_loss_is_compared_without_a_menu(tiny_recipe):
    choosing = load_config(tiny_recipe, ["objective.choose={}"])
    own, dkd = method_variants(choosing, losses=["dkd"])
    assert own.config.objective.choose == choosing.objective.choose
    assert dkd.config.objective.choose is None
