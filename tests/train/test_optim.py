"""Schedules and what the optimizer is given."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
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


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (AdamW(lr=0.1, weight_decay=0.2), partial(torch.optim.AdamW, fused=True)),
        (Sgd(lr=0.1, momentum=0.9), partial(torch.optim.SGD, momentum=0.9, fused=True)),
    ],
)
def test_steps_and_states_are_torch_s_own_bit_for_bit(settings, theirs):
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))] * 2
    models[1] = copy.deepcopy(models[0])
    own = make_optimizer(models[0], settings, {}, key="k")
    same = [{name: g[name] for name in ("lr", "weight_decay")} for g in own.param_groups]
    by_shape = [g["params"][0].ndim for g in own.param_groups]
    groups = [
        {"params": [p for p in models[1].parameters() if p.ndim == ndim], **one}
        for ndim, one in zip(by_shape, same, strict=True)
    ]
    other = theirs(groups)
    for step in range(6):
        if step == 3:  # gone on with from its state
            state = own.state_dict()
            own = make_optimizer(models[0], settings, {}, key="k")
            own.load_state_dict(state)
        for model, optimizer in zip(models, (own, other), strict=True):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
    for one, another in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, another)
    states = own.state_dict()["state"], other.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state.keys() == states[1][key].keys()


def test_a_process_that_trains_imports_neither_torch_s_compiler_nor_pandas():
    code = (
        "import sys, torch, raykd.train.lanes, raykd.targets\n"
        "from raykd.config.training import AdamW, Sgd\n"
        "from raykd.train.optim import make_optimizer\n"
        "for settings in (AdamW(), Sgd(momentum=0.9)):\n"
        "    model = torch.nn.Linear(2, 1)\n"
        "    optimizer = make_optimizer(model, settings, {}, key='k')\n"
        "    model(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "unwanted = ('torch._dynamo', 'pandas', 'matplotlib', 'scipy', 'sklearn')\n"
        "print([name for name in unwanted if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
