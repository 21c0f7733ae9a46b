"""Steps that never wait for the device, on a GPU too."""

from __future__ import annotations

import pytest
import torch

from raykd.train.loop import Trainer, never
from raykd.train.step import Steps
from raykd.train.world import World

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        ],
    ),
]
HINT = {"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0",
        "teacher_tap": "blocks.0", "weight": 1.0}  # fmt: skip
CASES = {
    "settled": {},
    "with a tap": {"features": [HINT]},
    "fixed": {"weighting": {"type": "fixed", "weights": {"a": 1, "b": 2}}},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device(runs, samples, make_fit, device, case):
    fit = make_fit(samples, model="cnn", objective=CASES[case])
    world = World(device=torch.device(device))
    trainer = Trainer(fit, samples, runs.source(fit), runs.reporter(case.replace(" ", "_")), world, depth=2, leaving=never)  # fmt: skip
    block = next(trainer.feed.blocks(0, 0))
    steps = Steps(trainer.wrapped, [trainer.update], block.lessons, block.units, world.all_sum, 1)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        for lesson in block.lessons:
            steps(lesson)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    totals = [one.total for one in steps.losses()]
    assert len(totals) == len(block.lessons)
    assert torch.stack(totals).isfinite().all()
