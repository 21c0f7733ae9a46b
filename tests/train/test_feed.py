from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.data import Samples
from raykd.errors import PreemptedError, TrainingError
from raykd.train import World
from raykd.train.feed import Feed, prefetch
from raykd.train.fit import build_module
from raykd.train.validation import validate


def test_items_come_in_order_and_one_ahead():
    made, ready = [], threading.Event()

    def items():
        for item in range(5):
            made.append(item)
            if item == 2:
                ready.set()
            yield item

    stream = prefetch(items())
    assert [next(stream), next(stream)] == [0, 1]
    assert ready.wait(5)  # made while the one before is used
    assert made == [0, 1, 2]
    assert list(stream) == [2, 3, 4]


def test_none_is_an_item():
    assert list(prefetch(iter([None, 1, None]))) == [None, 1, None]


def test_what_goes_wrong_is_raised_where_the_item_is_used():
    def items():
        yield 0
        raise IndexError("rows 9 asked")

    stream = prefetch(items())
    assert next(stream) == 0
    with pytest.raises(IndexError, match="rows 9 asked"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread():
    before = threading.active_count()
    stream = prefetch(iter(range(100)))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before


class AtOnce:
    """A source whose answers are at hand."""

    at_once = True

    def __init__(self, source):
        self.source, self.asked = source, Counter()

    def submit(self, batch):
        return self.source.submit(batch)

    def collect(self, ticket, timeout_s):
        batch = ticket.batch
        self.asked.update(zip(batch.rows.tolist(), batch.view_B.tolist(), strict=True))
        return self.source.collect(ticket, timeout_s)


FEATURES = [
    {"loss": {"type": "hint"}, "teacher": "a", "student_tap": "blocks.0", "teacher_tap": "blocks.0"}
]
OBJECTIVES = {
    "settled": {},
    "settled, each epoch at another temperature": {
        "soft_targets": {"temperature": {"type": "linear", "from": 4.0, "to": 1.0, "epochs": 3}}
    },
    "not settled": {"weighting": {"type": "gradient"}},
    "with features": {"features": FEATURES},
}


@pytest.mark.parametrize(
    "policy",
    [{"type": "shift", "pixels": 1}, {"type": "mixup", "alpha": 1.0}],
    ids=["views", "blended"],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_in_blocks_give_the_bits_of_one_at_a_time(
    make_samples, make_fit, runs, equal, policy, objective
):  # fmt: skip
    samples = runs.samples = make_samples(policy, count=2)
    blended = policy["type"] == "mixup"
    fit = make_fit(
        samples, model="batch", objective=OBJECTIVES[objective], plan={"views": 2, "batch_size": 40},
        train={"batch_size": 40},
    )  # fmt: skip
    one = runs(fit, "one")
    source = AtOnce(runs.source(fit))
    assert {**runs(fit, "blocks", source=source), "seconds": 0} == {**one, "seconds": 0}
    assert equal(runs.weights(fit, "one"), runs.weights(fit, "blocks"))
    if objective == "settled" and not blended:  # the third epoch shows the first view again
        assert set(source.asked.values()) == {1}


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_fit_that_is_left_within_a_block_goes_on_with_the_same_bits(
    runs, samples, make_fit, equal, at
):
    fit = make_fit(samples, model="batch", train={"epochs": 3, "ema": 0.9})
    expected = runs(fit, "whole", source=AtOnce(runs.source(fit)))
    leaving = iter([*[False] * at, True])
    with pytest.raises(PreemptedError, match=f"after step {at + 1}"):
        runs(fit, source=AtOnce(runs.source(fit)), leaving=lambda: next(leaving))
    assert {**runs(fit, source=AtOnce(runs.source(fit))), "seconds": 0} == {
        **expected,
        "seconds": 0,
    }
    assert equal(runs.weights(fit), runs.weights(fit, "whole"))


@pytest.mark.parametrize("objective", [{}, {"soft_targets": {"loss": {"type": "mse"}}}])
def test_the_first_step_whose_loss_is_not_finite_is_named(runs, samples, make_fit, objective):
    fit = make_fit(samples, objective=objective, train={"epochs": 1})
    table = runs.source(fit)

    class Breaking(AtOnce):
        def collect(self, ticket, timeout_s):
            answers = super().collect(ticket, timeout_s)
            values_NC = answers["a"].values_NC.clone()
            values_NC[40] = float("nan")  # of the second batch
            return {**answers, "a": replace(answers["a"], values_NC=values_NC)}

    with pytest.raises(TrainingError, match="became nan in step 2;"):
        runs(fit, source=Breaking(table))


def test_a_temperature_of_its_own_in_each_step_cuts_the_blocks(runs, samples, make_fit):
    temperature = {"type": "linear", "from": 4.0, "to": 1.0, "epochs": 3}
    fit = make_fit(samples, objective={"soft_targets": {"temperature": temperature}})
    source = AtOnce(runs.source(fit))
    module = build_module(fit, samples)
    feed = Feed(fit, samples, source, module, World(), depth=2)
    assert {len(block.lessons) for block in feed.blocks(0, 0)} == {1}


class AskedError(Exception):
    pass


def test_students_and_teachers_have_views_made_on_their_own_device(
    runs, samples, make_fit, make_spec, monkeypatch
):
    from raykd.teachers.model import TeacherModel  # imports ray

    asked = []

    def batch(self, *args, device=None, **kwargs):
        asked.append(device)
        raise AskedError

    fit, device = make_fit(samples), torch.device("meta")
    source, module = AtOnce(runs.source(fit)), build_module(fit, samples)
    teacher = TeacherModel(make_spec(), device)
    monkeypatch.setattr(Samples, "batch", batch)
    feed = Feed(fit, samples, source, module, World(device=device), depth=2)
    with pytest.raises(AskedError):
        next(feed.blocks(0, 0))
    with pytest.raises(AskedError):
        teacher.score(samples, np.arange(3), np.zeros(3, np.int64))
    with pytest.raises(AskedError):
        validate(module.network, samples, np.arange(3), World(device=device))
    assert asked == [device] * 3
