"""The regret of optimizers, and which networks are tried."""

from __future__ import annotations

import math

import pytest

from jobs.bench.optimizer_grid import GRID, UPDATES, fitted, regrets
from raykd.config import load_config
from raykd.config.load import recipe_names


def record(recipe, fit, lr, value, *, kind="cnn", metric="accuracy"):
    found = None if value is None else {metric: value, "nll": 1.0}
    about = {"recipe": recipe, "fit": fit, "kind": kind, "metric": metric}
    return {**about, "type": "sgd", "lr": lr, "weight_decay": 0.0, "found": found}


def test_regrets_are_means_over_networks_and_then_recipes():
    records = [
        *(record("a", "one", lr, value) for lr, value in ((1, 0.9), (2, 0.8), (3, None))),
        *(record("a", "two", lr, value) for lr, value in ((1, 0.5), (2, 0.7), (3, 0.7))),
        *(record("b", "one", lr, value, metric="rmse") for lr, value in ((1, 4.0), (2, 2.0), (3, 2.0))),
        record("b", "other", 1, 0.1, kind="mlp"),
    ]  # fmt: skip
    found = regrets(records)
    assert list(found["cnn"]) == [f"sgd {lr}, weight decay 0" for lr in (2, 1, 3)]
    second, first, diverged = found["cnn"].values()
    assert first == pytest.approx(((0 + 20) / 2 + 100) / 2)
    assert second == pytest.approx(((10 + 0) / 2 + 0) / 2)
    assert diverged == math.inf
    assert found["mlp"] == {"sgd 1, weight decay 0": 0.0}


def test_regret_of_the_loss_is_of_the_networks_that_have_one():
    records = [
        {**record("a", "one", lr, 0.5), "found": {"accuracy": 0.5, "nll": nll}}
        for lr, nll in ((1, 2.0), (2, 0.5))
    ]
    records += [{**record("b", "one", 1, 3.0, metric="rmse"), "found": {"rmse": 3.0}}]
    assert regrets(records, loss=True) == {
        "cnn": {"sgd 2, weight decay 0": 0.0, "sgd 1, weight decay 0": 1.5}
    }


@pytest.mark.parametrize("recipe", recipe_names())
def test_what_is_tried_of_a_recipe_can_be_trained_and_has_a_number_of_updates(recipe):
    networks = fitted(load_config(recipe))
    assert all(one.fit is not None and one.model.type in UPDATES for one in networks)
    assert len({one.name for one in networks}) == len(networks)


def test_the_grid_names_no_optimizer_twice():
    assert len({one.model_dump_json() for one in GRID}) == len(GRID)
