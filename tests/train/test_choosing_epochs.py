"""Which epoch's weights are kept."""

from __future__ import annotations

import pytest
import torch

from raykd.config import load_config
from raykd.tasks import find_task
from raykd.train.validation import Best

METRICS = find_task("classification").metrics
EPOCHS = [
    {"accuracy": 0.5, "nll": 1.0},
    {"accuracy": 0.9, "nll": 2.0},
    {"accuracy": 0.7, "nll": 0.5},
    {"accuracy": 0.1, "nll": 9.0},
]


@pytest.mark.parametrize(("select", "epoch"), [(None, 1), ("accuracy", 1), ("nll", 2), ("last", 3)])
def test_the_epoch_that_a_metric_chooses_or_the_last_one(select, epoch):
    best = Best(METRICS, select)
    for number, metrics in enumerate(EPOCHS):
        weights = {"weight": torch.tensor(float(number))}
        best.update(number, metrics, lambda weights=weights: weights)
    assert best.epoch == epoch == int(best.weights["weight"])


@pytest.mark.parametrize("recipe", ["cartpole", "lander", "pendulum"])
def test_policies_keep_the_last_epoch(recipe):
    assert load_config(recipe).train.select == "last"
    metric = find_task(load_config(recipe).task).settings.select[0]
    assert load_config(recipe, [f"train.select={metric}"]).train.select == metric
