"""Schedules and what the optimizer is given."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from raykd.config.training import (
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    Sgd,
    StepSchedule,
    Training,
)
from raykd.models.network import Network
from raykd.train.optim import make_optimizer, make_schedule, rate_factor


def curve(schedule, epochs=10, per_epoch=8):
    return [
        rate_factor(schedule, per_epoch, epochs * per_epoch, s) for s in range(epochs * per_epoch)
    ]


def test_cosine_rises_then_falls_to_its_floor():
    rates = curve(CosineSchedule(warmup_epochs=1, floor=0.1))
    assert rates[:8] == pytest.approx([(i + 1) / 8 for i in range(8)])
    assert rates[8] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates[8:]))
    assert rates[44] == pytest.approx(0.55, abs=1e-9), "half-way of the cosine"
    assert 0.1 < rates[-1] < 0.11


def test_step_falls_at_its_milestones():
    rates = curve(StepSchedule(milestones=(0.5, 0.75), factor=0.1))
    assert rates[0] == 1.0
    assert rates[39:41] == pytest.approx([1.0, 0.1])
    assert rates[59:61] == pytest.approx([0.1, 0.01])


def test_constant_after_a_warm_up_of_part_of_an_epoch():
    rates = curve(ConstantSchedule(warmup_epochs=0.5))
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert set(rates[4:]) == {1.0}


@pytest.mark.parametrize(
    "schedule", [CosineSchedule(warmup_epochs=50), ConstantSchedule(warmup_epochs=0)]
)
def test_no_schedule_leaves_the_unit_interval(schedule):
    assert all(0 < rate <= 1 for rate in curve(schedule))


def test_the_optimizer_follows_the_schedule():
    parameter = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(parameter, Sgd(lr=0.5), {}, key="k")
    training = Training(epochs=2, schedule=CosineSchedule(warmup_epochs=1))
    schedule = make_schedule(optimizer, training, steps_per_epoch=4)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 * f for f in curve(CosineSchedule(), 2, 4)])


def test_learning_rate_factors_and_decay_by_group():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = make_optimizer(
        Network(model), AdamW(lr=0.1, weight_decay=0.2), {"0": 0.01}, key="k"
    )
    found = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups}
    assert found == {(0.001, 0.2): 1, (0.001, 0.0): 1, (0.1, 0.2): 1, (0.1, 0.0): 1}
