"""Optimizers that a recipe leaves out, or names in part, by the kind of model."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.models import MODEL_KINDS, ZooModel
from raykd.config.optimizers import (
    DEFAULTS,
    GENERAL,
    default_optimizer,
    left_out,
    optimizers_as_in,
    with_training_settings,
)
from raykd.config.training import AdamW, Sgd
from raykd.errors import InputError
from raykd.search.space import all_proposals

CNN = DEFAULTS["cnn"]


@pytest.fixture
def load(tiny_recipe):
    """The tiny recipe with a CNN as its student and other settings of its training; a teacher is one's own function."""

    def load(optimizer=None, *overrides):
        tree = tiny_recipe
        tree["student"]["model"] = "cnn"
        tree["train"]["optimizer"] = optimizer
        tree["teachers"][0] |= {"model": "my_models:big", "fit": {"epochs": 2}}
        return load_config(tree, overrides)

    return load


def test_every_network_of_the_zoo_has_a_default_and_no_other_name_is_in_the_table():
    kinds = {kind.model_fields["type"].default: kind for kind in MODEL_KINDS}
    assert {name for name, kind in kinds.items() if issubclass(kind, ZooModel)} <= DEFAULTS.keys()
    assert DEFAULTS.keys() <= {name for name, kind in kinds.items() if kind.made_of == "weights"}


def test_what_is_left_out_is_the_kind_s(load):
    config = load()
    assert list(left_out(config)) == ["teachers.wide.fit.optimizer", "train.optimizer"]
    assert left_out(config)["train.optimizer"].endswith("the default of cnn")
    whole = with_training_settings(config)
    assert whole.train.optimizer == CNN == default_optimizer(config.student.model)
    assert whole.teachers[0].fit.optimizer == GENERAL
    assert whole.teachers[1].fit.optimizer == config.teachers[1].fit.optimizer == AdamW(lr=0.01)
    assert with_training_settings(whole) == whole
    assert not left_out(whole)


OTHER = "sgd" if CNN.type == "adamw" else "adamw"
OWN = {"sgd": Sgd, "adamw": AdamW}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lr": 0.25}, CNN.model_copy(update={"lr": 0.25})),
        ({"weight_decay": 0.25}, CNN.model_copy(update={"weight_decay": 0.25})),
        ({"type": CNN.type}, CNN),
        ({"type": CNN.type, "weight_decay": 0.25}, CNN.model_copy(update={"weight_decay": 0.25})),
        ({"type": CNN.type, "lr": 0.25}, OWN[CNN.type](lr=0.25)),
        ({"type": OTHER}, OWN[OTHER]()),
        ({"type": OTHER, "weight_decay": 0.25}, OWN[OTHER](weight_decay=0.25)),
    ],
)
def test_what_is_named_in_part_is_completed(load, given, expected):
    assert load(given).train.optimizer == expected


def test_a_learning_rate_alone_can_be_overridden_and_searched(load):
    config = load(None, "train.optimizer.lr=0.25")
    assert config.train.optimizer == CNN.model_copy(update={"lr": 0.25})
    config = load(None, "teachers.wide.fit.optimizer.lr=0.25")
    assert config.teachers[0].fit.optimizer == GENERAL.model_copy(update={"lr": 0.25})
    search = "search={parameters: {train.optimizer.lr: {space: choice, categories: [0.1, 0.2]}}}"
    first, second = all_proposals(load(None, search, "search.searcher.type=grid"))
    assert first.config.train.optimizer == CNN.model_copy(update={"lr": 0.1})
    assert second.config.train.optimizer.lr == 0.2


def test_another_kind_of_student_has_its_own_optimizer(load):
    plain = load().model_dump(mode="json")
    varied = with_training_settings(load_config(plain, ["student.model=mlp"]))
    assert varied.train.optimizer == DEFAULTS["mlp"]


def test_a_run_that_began_with_other_defaults_goes_on_with_them(load):
    began = with_training_settings(load())
    train = began.train.model_copy(update={"optimizer": Sgd()})
    fit = began.teachers[0].fit.model_copy(update={"optimizer": AdamW(lr=0.5)})
    teachers = (began.teachers[0].model_copy(update={"fit": fit}), *began.teachers[1:])
    began = began.model_copy(update={"train": train, "teachers": teachers})
    assert optimizers_as_in(load(), began) == began
    named = optimizers_as_in(load({"type": "sgd", "lr": 0.3}), began)
    assert named.train.optimizer == Sgd(lr=0.3), "what a recipe names is not touched"
    assert optimizers_as_in(load(), load()) == load(), "a search's folder leaves it open, too"


@pytest.mark.parametrize("student", [None, 3, {}, {"model": 3}])
def test_a_recipe_that_is_wrong_elsewhere_is_told_so(load, student):
    tree = load().model_dump(mode="json") | {"student": student}
    tree["train"]["optimizer"] = {"lr": 0.1}
    with pytest.raises(InputError, match=r"student"):
        load_config(tree)


def test_a_precision_that_is_left_to_the_device_follows_each_fit_s_gpus(load):
    fits = ["train.precision=auto", "teachers.0.fit.precision=auto"]
    plain = with_training_settings(load(None, *fits))
    assert (plain.train.precision, plain.teachers[0].fit.precision) == ("float32", "float32")
    on_gpus = load(None, *fits, "cluster.student.gpus=1", "teachers.0.resources.gpus=0.5")
    found = with_training_settings(on_gpus)
    assert (found.train.precision, found.teachers[0].fit.precision) == ("bfloat16", "bfloat16")
    assert with_training_settings(load(None, "cluster.student.gpus=1")).train.precision == "float32"
