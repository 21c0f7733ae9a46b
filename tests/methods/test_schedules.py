"""What schedules and phases say at a moment."""

from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter

from raykd.config.objective import Objective
from raykd.config.schedules import Scheduled
from raykd.objective.schedules import strengths_at, value_at

SCHEDULED = TypeAdapter(Scheduled)


def at(schedule, *epochs):
    parsed = SCHEDULED.validate_python(schedule)
    return [value_at(parsed, epoch) for epoch in epochs]


def test_numbers_and_constants():
    assert at(0.3, 0, 7.5) == [0.3, 0.3]
    assert at({"type": "constant", "value": 2}, 0, 99) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("kind", "quarter", "half"),
    [("linear", 0.25, 0.5), ("cosine", (1 - math.cos(math.pi / 4)) / 2, 0.5),
     ("sigmoid", math.exp(-5 * 0.75**2), math.exp(-1.25))],
)  # fmt: skip
def test_ramps(kind, quarter, half):
    up = {"type": kind, "from": 1.0, "to": 3.0, "epochs": 4, "start_epoch": 2}
    first, begin, early, middle, end, after = at(up, 0, 2, 3, 4, 6, 60)
    assert (first, begin, end, after) == (1.0, 1.0, 3.0, 3.0)
    assert early == pytest.approx(1 + 2 * quarter)
    assert middle == pytest.approx(1 + 2 * half)
    down = at({**up, "from": 3.0, "to": 1.0}, 3, 4)
    assert down == pytest.approx([3 - 2 * quarter, 3 - 2 * half])


def test_steps():
    step = {"type": "step", "milestones": [1, 2.5], "values": [3, 2, 0]}
    assert at(step, 0, 0.99, 1, 2.49, 2.5, 9) == [3, 3, 2, 2, 0, 0]


def test_phases_hint_first_then_kd():
    term = {"teacher": "a", "student_tap": "s", "teacher_tap": "t"}
    objective = Objective.model_validate(
        {
            "labels": {"weight": {"type": "linear", "from": 0, "to": 1, "epochs": 10}},
            "soft_targets": {"temperature": 3.0},
            "features": [
                {**term, "loss": {"type": "hint"}},
                {**term, "loss": {"type": "attention"}, "weight": 5.0},
            ],
            "phases": [
                {"until_epoch": 2, "labels": {"weight": 0}, "soft_targets": {"weight": 0}},
                {"until_epoch": 4, "soft_targets": {"weight": 0.5, "temperature": 2.0},
                 "features": [{"weight": 1.0}, {}]},
                {"until_epoch": 6, "features": {"weight": 0}},
            ],
        }
    )  # fmt: skip

    def found(epoch):
        now = strengths_at(objective, epoch)
        return now.labels, now.soft_targets, now.temperature, now.features

    assert found(0) == (0.0, 0.0, 3.0, (100.0, 5.0))
    assert found(1.999) == (0.0, 0.0, 3.0, (100.0, 5.0))
    assert found(2) == (0.2, 0.5, 2.0, (1.0, 5.0))
    assert found(4) == (0.4, 0.9, 3.0, (0.0, 0.0))
    assert found(6) == (0.6, 0.9, 3.0, (100.0, 5.0))


def test_an_objective_without_soft_targets():
    now = strengths_at(Objective(soft_targets=None), 3.0)
    assert (now.soft_targets, now.temperature, now.features) == (0.0, 1.0, ())
