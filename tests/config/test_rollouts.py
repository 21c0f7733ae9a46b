"""Stages that visit states: rounds under the same teachers, β by round, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.config import load_config
from raykd.config.load import chain_of
from raykd.errors import InputError

ROUNDS = {
    "name": "dagger",
    "start": "cloned",
    "rounds": 3,
    "rollouts": {"episodes": 4, "mix": [0.5, 0.0]},
}


@pytest.fixture
def cartpole():
    return [{"name": "cloned"}, ROUNDS]


def problems(*stages, **more):
    with pytest.raises(InputError) as caught:
        load_config(["cartpole"], []) if not stages else load_config(tree(stages, **more))
    return {one.key: one.message for one in caught.value.problems}


def tree(stages, **more):
    from raykd.config.load import read_recipe

    return {**read_recipe("cartpole"), "stages": list(stages), **more}


def test_rounds_start_from_each_other_under_the_same_teachers(cartpole):
    config = load_config(tree(cartpole))
    stages, _ = chain_of(config, Path("/run"))
    assert [one.name for one in stages] == ["cloned", "dagger_round1", "dagger_round2", "dagger"]
    assert [one.start for one in stages] == [None, "cloned", "dagger_round1", "dagger_round2"]
    assert [one.rollouts and one.rollouts.mix for one in stages] == [None, 0.5, 0.0, 0.0]
    assert all(one.config.teachers == stages[0].config.teachers for one in stages)
    files = [[Path(file).stem for file in one.config.data.source.visited] for one in stages]
    assert files[-1] == ["dagger_round1", "dagger_round2", "dagger"]
    assert files[0] == []
    assert [name for name, _ in stages[-1].plan.data.source.planned] == files[-1]


def test_the_first_stage_is_the_recipe_without_stages(cartpole):
    stages, _ = chain_of(load_config(tree(cartpole)), Path("/run"))
    alone = load_config(tree([], evaluate={"controls": []}))
    assert stages[0].config.model_dump() == alone.model_dump()


def test_what_cannot_visit_is_refused(cartpole):
    cloning, rounds = cartpole
    assert (
        "without `start`"
        in problems(cloning, {**rounds, "start": None}, {"name": "l", "start": "dagger"})[
            "stages.dagger_round1.rollouts"
        ]
    )
    wrong = {**rounds, "rollouts": {"simulators": ["hevy"]}}
    assert "did you mean 'heavy'" in problems(cloning, wrong)["stages.dagger.rollouts.simulators"]
    recorded = {"source": {"type": "transitions", "path": "x.npz"}}
    assert (
        "no environment to act in"
        in problems(cloning, rounds, data=recorded)["stages.dagger.rollouts"]
    )


@pytest.mark.parametrize("combine", ["values", "logits", "losses"])
def test_continuous_actions_are_never_averaged(combine):
    with pytest.raises(
        InputError,
        match=r"objective.soft_targets.combine: found .*averages the teachers' actions.*sampled",
    ):
        load_config("pendulum", [f"objective.soft_targets.combine={combine}"])


def test_of_two_teachers_none_is_closer_to_the_others():
    config = load_config("pendulum")
    assert config.objective.soft_targets.combine == "routed"
    tree = config.model_dump(mode="json")
    with pytest.raises(InputError, match=r"combine: found routed with two teachers.*sampled"):
        load_config({**tree, "teachers": tree["teachers"][:2]})
