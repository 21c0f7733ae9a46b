"""What trains or runs along inside the objective."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

from raykd.objective.features import RunningStatistics

FEATURE = {"teacher": "a", "student_tap": "map", "teacher_tap": "map"}


def update(statistics, features, counted=None):
    counted = torch.ones(len(features)).bool() if counted is None else counted
    statistics.update(features, counted, lambda tensor: tensor)


@pytest.mark.parametrize("initial", [5.0, 0.5])
def test_the_variance_begins_as_asked_and_trains(
    make_objective, make_batch, make_answers, make_student, initial
):
    loss = {"type": "vid", "initial_variance": initial}
    objective = make_objective({"soft_targets": None, "features": [{**FEATURE, "loss": loss}]}, "a")
    raw = objective.features[0].raw_variance
    torch.testing.assert_close(softplus(raw) + 1e-5, torch.full((4,), initial))
    assert "features.0.raw_variance" in objective.state_dict()
    logits, features = make_student()
    terms, _ = objective(logits, features, make_batch(), make_answers("a"))
    terms["features.0"].loss_N.mean().backward()
    assert (raw.grad != 0).all()


@pytest.mark.parametrize("shape", [(3,), (5, 3), (3, 2, 4)])
def test_statistics_are_those_of_all_batches_so_far(shape, generator):
    statistics = RunningStatistics(3, momentum=0.001)
    batches = [torch.randn(6, *shape, generator=generator) * 3 + 50 for _ in range(4)]
    for batch in batches:
        update(statistics, batch)
    values = torch.cat(batches).double()
    values = values.flatten(2).transpose(1, 2) if len(shape) == 3 else values
    values = values.reshape(-1, 3)
    mean, std = statistics.mean_and_std()
    torch.testing.assert_close(mean.double(), values.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(std.double(), values.std(0, correction=0), rtol=1e-5, atol=1e-5)


def test_statistics_forget_with_momentum_and_leave_out_what_does_not_count(generator):
    statistics = RunningStatistics(2, momentum=0.5)
    for level in (0.0, 0.0, 8.0, 8.0):
        features = torch.full((4, 2), level)
        features[-1] = float("nan")
        update(statistics, features, torch.tensor([True, True, True, False]))
    assert statistics.mean_D.tolist() == [6.0, 6.0]
    before = statistics.mean_D.clone()
    update(statistics, features, torch.zeros(4).bool())
    assert torch.equal(statistics.mean_D, before)
    assert int(statistics.batches) == 4


def test_statistics_move_only_in_training(make_objective, make_batch, make_answers, make_student):
    objective = make_objective({"features": [{**FEATURE, "loss": {"type": "smooth_l1"}}]}, "a")
    logits, features = make_student()
    batch, answers = make_batch(), make_answers("a")
    objective.eval()
    objective(logits, features, batch, answers)
    assert int(objective.features[0].statistics.batches) == 0
    objective.train()
    objective(logits, features, batch, answers)
    assert int(objective.features[0].statistics.batches) == 1
    own = {n for n in objective.state_dict() if "statistics" in n}
    assert own == {f"features.0.statistics.{n}" for n in ("mean_D", "variance_D", "batches")}


def test_without_standardisation_there_are_no_statistics(make_objective):
    loss = {"type": "cosine", "standardise": False}
    assert (
        make_objective({"features": [{**FEATURE, "loss": loss}]}, "a").features[0].statistics
        is None
    )
