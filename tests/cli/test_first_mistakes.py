"""What people write in their first hour, and what they are told."""

from __future__ import annotations

import json

import pytest
import yaml

from raykd.folders import home


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("student.epochs=5", "train.epochs"),
        ("student.train.epochs=5", "train.epochs"),
        ("epochs=5", "train.epochs"),
        ("lr=0.1", "train.optimizer.lr"),
        ("temperature=2", "objective.soft_targets.temperature"),
        ("train.epoch=5", "epochs"),
        ("trian.epochs=5", "train"),
    ],
)
def test_a_key_in_the_wrong_place_is_found(recipe, call, override, meant):
    """At 7d0af11: `student.epochs: unknown key; did you mean 'preprocess'?`, exit 2."""
    ended = call("run", recipe, override)
    assert (ended.code, ended.out) == (2, "")
    assert f"unknown key; did you mean {meant!r}?" in ended.err


SEARCH = {
    "parameters": {
        "objective.soft_targets.temperatur": {"space": "uniform", "lower": 1, "upper": 4},
        "train.epoch": {"space": "choice", "categories": [1, 2]},
        "studnt.model.width": {"space": "uniform", "lower": 0.1, "upper": 1},
    }
}


@pytest.mark.parametrize(
    ("elsewhere", "key"),
    [
        (["train.epochs=0"], "train.epochs"),
        (["data.lables=3"], "data.lables"),
        (["objective.weighting={type: fixed, weights: {wide: 1}}"], "objective.weighting.weights"),
    ],
)
def test_wrong_keys_of_a_search_are_told_beside_one_elsewhere(
    folder, recipe, call, tiny_recipe, elsewhere, key
):
    """At 7d0af11 the wrong keys of a search were told only once the rest was right."""
    recipe.write_text(yaml.safe_dump({**tiny_recipe, "search": SEARCH}))
    ended = call("sweep", recipe, *elsewhere, "--dry-run")
    assert ended.code == 2
    told = [line.removeprefix("error  ").split(": ")[0] for line in ended.err.splitlines()]
    searched = [f"search.parameters.{name}" for name in SEARCH["parameters"]]
    assert told[0].startswith(key)
    assert sorted(told[1:]) == sorted(searched)
    assert call("config", "show", recipe).code == 0, "who does not search is not told"


def test_a_loss_by_another_name(recipe, call):
    """At 7d0af11: `did you mean 'cosine'?`, and losses of embeddings were offered."""
    ended = call("compare", recipe, "--losses", "ce", "--dry-run")
    assert ended.code == 2
    assert (
        "--losses: knows no 'ce'; did you mean 'kl'?; of task classification there are kl, "
        in ended.err
    )
    assert "bernoulli_kl" not in ended.err
    soft, features = ended.err.split("and of features, with --taps, ")
    assert "cosine" not in soft
    assert "hint" in features


@pytest.mark.parametrize(
    ("overrides", "controls", "why"),
    [
        (["data.labels=0", "teachers.wide.labels=all", "teachers.conv.labels=all"],
         ["best_teacher", "hard"], "no control labels: no training sample keeps its label"),
        (["teachers=[{name: own, model: mlp, fit: {}}]"],
         ["labels", "hard"], "no control best_teacher: there is one teacher"),
    ],
)  # fmt: skip
def test_usual_controls_that_show_nothing_are_left_out_and_it_is_said(
    recipe, call, tiny_recipe, overrides, controls, why
):
    """At 7d0af11: an error about `labels`, exit 2; the only teacher's control was trained again."""
    del tiny_recipe["evaluate"]
    recipe.write_text(yaml.safe_dump(tiny_recipe))
    shown = call("config", "show", recipe, *overrides, "--json")
    assert json.loads(shown.out)["evaluate"]["controls"] == controls
    checked = call("check", recipe, *overrides)
    assert checked.code == 0, checked
    assert why in checked.out
    named = call("config", "show", recipe, *overrides, "evaluate.controls=[hard]", "--json")
    assert json.loads(named.out)["evaluate"]["controls"] == ["hard"]


def test_home_may_begin_with_a_tilde(monkeypatch, tmp_path):
    """At 7d0af11 it was a folder `./~/kd`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYKD_HOME", "~/kd")
    assert home() == tmp_path / "kd"
