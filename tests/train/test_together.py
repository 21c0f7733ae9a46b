"""Fits that are trained together: each has the bits that it has alone, and the teachers are asked once for all."""

from __future__ import annotations

import threading

import pytest
import torch

from raykd.errors import PreemptedError
from raykd.targets import Ticket
from raykd.targets.shared import SharedSource
from raykd.testing.sources import Recorded, TableTargets, record_of
from raykd.train import World
from raykd.train.together import train_together

EPOCHS = 3


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.fixture
def fits(samples, make_fit):
    """Three networks of other kinds and sizes, of which one stops early; dropout and averages draw and keep state."""
    ends = {"early_stopping": {"patience_epochs": 1}, "optimizer": {"type": "sgd", "lr": 1e-9}}
    made = {"student": ("mlp", {"ema": 0.9}), "tiny": ("batch", {}), "small": ("cnn", ends)}
    return [
        make_fit(samples, fit_id=f"{name}/replica0", model=model, together="replica0", train={"epochs": EPOCHS, **train})
        for name, (model, train) in made.items()
    ]  # fmt: skip


@pytest.fixture
def alone(runs, fits):
    """Results of the same fits, trained one by one."""
    return {fit.fit_id: runs(fit, "alone") for fit in fits}


@pytest.fixture
def together(runs, samples):
    def together(fits, source=None, **given):
        def make(_, fit):
            return source or runs.source(fit)

        train_together(fits, samples, make, runs.reporter("run"), World(), **given)

    return together


def check_same(runs, fits, alone, equal):
    for fit in fits:
        result = runs.reporter("run").folder(fit.fit_id).result()
        assert {**result, "seconds": 0} == {**alone[fit.fit_id], "seconds": 0}
        for which in ("best", "last"):
            assert equal(runs.weights(fit, "run", which), runs.weights(fit, "alone", which))


def test_each_has_the_bits_that_it_has_alone_and_one_answer_serves_all(
    runs, fits, alone, together, equal, samples, tmp_path
):
    source = Recorded(TableTargets(["a", "b"], samples), tmp_path / "asked")
    together(fits, source)
    check_same(runs, fits, alone, equal)
    assert alone["small/replica0"]["epochs"] < EPOCHS, "one of them has stopped early"
    plan = fits[0].plan
    expected = [
        plan.batch(epoch, step) for epoch in range(EPOCHS) for step in range(plan.steps_per_epoch)
    ]
    asked = [(one["rows"], one["views"]) for one in record_of(tmp_path / "asked")]
    assert asked == [(rows.tolist(), views.tolist()) for rows, views in expected]


@pytest.mark.parametrize("at", [0, 2, 3, 5, 8])
def test_killed_anywhere_they_go_on_with_the_same_bits(
    runs, fits, alone, together, equal, samples, at
):
    source = TableTargets(["a", "b"], samples)
    collect = source.collect

    def collected(ticket, timeout_s):
        if source.collected == at:
            raise Killed
        return collect(ticket, timeout_s)

    source.collect = collected
    with pytest.raises(Killed):
        together(fits, source)
    together(fits)
    check_same(runs, fits, alone, equal)


def test_one_that_is_behind_catches_up_first(runs, fits, alone, together, equal, monkeypatch):
    """Killed between the first and the second of their checkpoints: these are of different steps."""
    saved, save = [], torch.save

    def killed(*given):
        saved.append(given)
        if len(saved) == 2:
            raise Killed
        save(*given)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(Killed):
            together(fits)
    steps = [
        runs.reporter("run").folder(fit.fit_id).load(fit.identities) is not None for fit in fits
    ]
    assert steps == [True, False, False]
    together(fits)
    check_same(runs, fits, alone, equal)


def test_all_are_saved_where_the_machine_is_taken_away(runs, fits, alone, together, equal):
    asked = []

    def leaving():
        asked.append(None)
        return len(asked) == 4  # said once, in the middle of an epoch: all of them leave

    with pytest.raises(PreemptedError) as error:
        together(fits, leaving=leaving)
    assert all(fit.fit_id in str(error.value) for fit in fits)
    saved = [runs.reporter("run").folder(fit.fit_id).load(fit.identities).state for fit in fits]
    assert all(state["within"] is not None for state in saved)
    together(fits)
    check_same(runs, fits, alone, equal)


def test_finished_ones_are_not_trained_again(runs, fits, alone, together, equal, samples):
    runs(fits[1], "run")
    source = TableTargets(["a", "b"], samples)
    together(fits, source)
    check_same(runs, fits, alone, equal)
    again = TableTargets(["a", "b"], samples)
    together(fits, again)
    assert (source.collected > 0, again.collected) == (True, 0)


class Counting:
    """Answers with the number of the question."""

    def __init__(self):
        self.asked, self.answered = 0, 0

    def submit(self, batch):
        self.asked += 1
        return Ticket(batch, self.asked)

    def collect(self, ticket, timeout_s):
        self.answered += 1
        return {"a": ticket.pending}


@pytest.fixture
def batches(samples):
    rows = samples.splits["train"]
    return [samples.batch(rows[i : i + 4], 0) for i in range(0, 40, 4)]


def test_listeners_in_threads_are_told_the_same_and_nothing_is_kept(batches):
    source = Counting()
    shared = SharedSource(source)
    told = {}

    def listen(number):
        listener = shared.listener(number)
        tickets = [listener.submit(batch) for batch in batches]
        told[number] = [listener.collect(ticket, 1.0)["a"] for ticket in tickets]

    for number in range(3):
        shared.join(number)
    threads = [threading.Thread(target=listen, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[0] == told[1] == told[2]
    assert (source.asked, source.answered, shared.kept) == (10, 10, 0)


def test_nothing_is_kept_for_one_that_left_or_has_not_come(batches):
    source = Counting()
    shared = SharedSource(source)
    first, second = shared.listener(0), shared.listener(1)
    shared.join(0)
    first.collect(first.submit(batches[0]), 1.0)
    assert shared.kept == 0, "the second has not come yet"
    shared.join(1)
    first.collect(first.submit(batches[1]), 1.0)
    assert shared.kept == 1
    shared.leave(1)
    assert shared.kept == 0
    late = second.submit(batches[2])
    told = [first.collect(first.submit(batches[2]), 1.0), second.collect(late, 1.0)]
    assert (told[0] == told[1], source.asked, shared.kept) == (True, 3, 0)
