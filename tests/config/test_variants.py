"""Methods to compare, as recipes."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.variants import method_variants
from raykd.ensemble import WEIGHTINGS
from raykd.errors import InputError
from raykd.losses import LOSSES
from raykd.methods import WEIGHTING_ROWS, feature_losses, soft_losses


@pytest.fixture
def config():
    return load_config("digits", ["objective.soft_targets.temperature=3"])


def keys(caught):
    return [problem.key for problem in caught.value.problems]


def test_the_names_are_those_of_the_registries():
    assert set(soft_losses()) | set(feature_losses()) == set(LOSSES)
    assert set(WEIGHTING_ROWS) == set(WEIGHTINGS)


def test_one_change_at_a_time_with_the_recipes_own_method_first(config):
    found = method_variants(config, losses=["kl", "dkd", "mse"], weightings=["uniform", "entropy"])
    assert [variant.name for variant in found] == [
        "kl+uniform", "dkd+uniform", "mse+uniform", "kl+entropy",
    ]  # fmt: skip
    assert found[0].config == config
    for variant in found[1:]:
        soft = variant.config.objective.soft_targets
        assert variant.name == f"{soft.loss.type}+{variant.config.objective.weighting.type}"
        assert soft.temperature == 3, "all else is the recipe's"
        assert variant.config.data == config.data


def test_a_loss_that_tempers_by_itself_leaves_the_recipe_s_temperature_out(config):
    assert config.objective.soft_targets.temperature == 3
    found = method_variants(config, losses=["ttm", "nkd"])[1:]
    softs = [variant.config.objective.soft_targets for variant in found]
    assert [(soft.loss.type, soft.temperature) for soft in softs] == [("ttm", None), ("nkd", 3)]


def test_a_loss_that_no_recipe_can_use_says_why_and_is_not_offered(config):
    with pytest.raises(InputError, match="export writes the student alone"):
        method_variants(config, losses=["simkd"], taps="blocks.1=cnn.blocks.2")
    with pytest.raises(InputError) as caught:
        method_variants(config, losses=["simkdd"], taps="blocks.1=cnn.blocks.2")
    (problem,) = caught.value.problems
    assert "pkd" in problem.message
    assert "simkd," not in problem.message.partition("with --taps")[2]


def test_crossed(config):
    found = method_variants(
        config, losses=["kl", "dkd"], weightings=["uniform", "entropy"], cross=True
    )
    assert [v.name for v in found] == ["kl+uniform", "dkd+uniform", "kl+entropy", "dkd+entropy"]


def test_a_feature_loss_comes_beside_the_recipes(config):
    (_, hint) = method_variants(config, losses=["hint"], taps="blocks.1=cnn.blocks.2")
    assert hint.name == "kl+uniform+hint"
    (term,) = hint.config.objective.features
    assert (term.teacher, term.student_tap, term.teacher_tap) == ("cnn", "blocks.1", "blocks.2")
    assert hint.config.objective.soft_targets == config.objective.soft_targets


def test_anything_else_by_name(config):
    others = {"hot": ["objective.soft_targets.temperature=9"], "long": ["train.epochs=90"]}
    found = {v.name: v.config for v in method_variants(config, others=others)}
    assert found["hot"].objective.soft_targets.temperature == 9
    assert found["long"].train.epochs == 90


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"losses": ["dkdd"], "weightings": ["even"]}, ["--losses", "--weightings"]),
        ({"losses": ["hint"]}, ["--taps"]),
        ({"losses": ["hint"], "taps": "blocks.1"}, ["--taps"]),
        ({"losses": ["hint"], "taps": "blocks.1=nobody.blocks.1"},
         ["kl+uniform+hint: objective.features.0.teacher"]),
        ({"weightings": ["fixed"]}, ["kl+fixed: objective.weighting.weights"]),
        ({"losses": ["huber"]}, ["--losses"]),
        ({"others": {"student": []}}, ["--variant"]),
        ({"others": {"../up": []}}, ["--variant"]),
        ({"others": {"few": ["data.labels=10"]}}, ["--variant few"]),
        ({"others": {"odd": ["train.epoch=10"]}}, ["odd: train.epoch"]),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_named(config, given, expected):
    with pytest.raises(InputError) as caught:
        method_variants(config, **given)
    assert keys(caught) == expected


def test_without_soft_targets_there_is_nothing_to_compare():
    alone = load_config("digits", ["objective.soft_targets=null"])
    with pytest.raises(InputError) as caught:
        method_variants(alone, losses=["kl"])
    assert keys(caught) == ["objective.soft_targets"]
