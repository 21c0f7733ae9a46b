"""Teachers that are for some simulators, and the weighting that routes by them."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.load import read_recipe
from raykd.errors import InputError


def routed(recipe="cartpole", weighting="routed", **domains):
    tree = read_recipe(recipe)
    for teacher in tree["teachers"]:
        if teacher["name"] in domains:
            teacher["domains"] = domains[teacher["name"]]
    tree.setdefault("objective", {})["weighting"] = {"type": weighting}
    return tree


def problem(tree):
    with pytest.raises(InputError) as caught:
        load_config(tree)
    return {one.key: one.message for one in caught.value.problems}


def test_states_are_routed_by_simulator():
    config = load_config(routed(nominal=["nominal"], heavy=["heavy"], long=["long"]))
    assert [one.domains for one in config.teachers] == [("nominal",), ("heavy",), ("long",)]


@pytest.mark.parametrize(
    ("tree", "key", "told"),
    [
        (routed(heavy=["hevy"]), "teachers.heavy.domains", "did you mean 'heavy'"),
        (routed(heavy=["heavy"], long=["heavy"]), "teachers.long.domains", "which teacher heavy is for too"),
        (routed(), "objective.weighting.type", "no teacher says which domains it is for"),
        (routed("digits"), "objective.weighting.type", "whose samples are of no domain: it is for texts"),
        (routed("digits", "uniform", cnn=["a"]), "teachers.cnn.domains", "means nothing with `task: classification`"),
    ],
)  # fmt: skip
def test_what_cannot_be_routed_is_refused(tree, key, told):
    assert told in problem(tree)[key]


def test_continuous_actions_have_one_route_alone():
    tree = routed("pendulum")
    first = tree["teachers"][0]["name"]
    tree["teachers"][0]["domains"] = ["nominal"]
    assert "beside the weighting routed" in problem(tree)["objective.soft_targets.combine"]
    tree["objective"]["soft_targets"]["combine"] = "sampled"
    assert load_config(tree).teachers[0].name == first
