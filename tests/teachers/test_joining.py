"""Requests that wait at once share a batch: fewer forward passes, the same bits; shown by who waits for whom, never by a clock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.config.models import CnnModel, FactoryModel, MlpModel, ResnetModel, VitModel
from raykd.errors import NonFiniteError
from raykd.teachers import TeacherModel
from raykd.teachers.joining import Joining
from raykd.teachers.stages import AT_ONCE

SIZE, PATIENCE_S = 32, 60.0


class Crowd(Joining):
    """Requests before a teacher whose forward pass takes as long as it takes all askers to stand there: it is as busy as can be.

    Args:
        askers: how many ask, each its next question once the last one is answered.
    """

    def __init__(self, askers, **given):
        super().__init__(SIZE, 1, **given)
        self.askers, self.left, self.passes, self.under_way = askers, 0, 0, 0

    def leave(self):
        with self._changed:
            self.left += 1

    def _group(self, own, waiting):
        group = super()._group(own, waiting)
        self.under_way = len(group)
        return group

    def sleep(self):
        """As long as anybody is still on the way."""
        self.passes += 1
        until = time.monotonic() + PATIENCE_S
        while self.under_way + sum(map(len, self._waiting.values())) < self.askers - self.left:
            assert time.monotonic() < until, "somebody never came"
            time.sleep(0.001)


class Fake:
    """Says of a sample its own number, doubled; a batch mate may change that by `leak`."""

    def __init__(self, crowd=None, leak=0.0):
        self.crowd, self.leak, self.shapes = crowd, leak, []

    def score(self, inputs):
        values_B = inputs()["x"].numpy()
        self.shapes.append(values_B.shape)
        if self.crowd is not None:
            self.crowd.sleep()
        if np.isnan(values_B).any():
            raise NonFiniteError("NaN")
        return {"logits": 2.0 * values_B + self.leak * values_B.sum()}


def ask(joining, fake, values, kind="views"):
    values_B = np.asarray(values, np.float32)
    arrays, places = joining.answer(
        kind, len(values_B), lambda some: {"x": torch.from_numpy(values_B[some])}, fake.score
    )
    return arrays["logits"], places


@pytest.mark.parametrize(("ranks", "fill"), [(8, 2), (8, 4), (4, 2)])
def test_ranks_with_part_of_a_batch_each_need_that_part_of_the_passes(ranks, fill):
    steps, count = 12, SIZE // fill
    crowd = Crowd(ranks, joins=True)
    crowd._tried = True  # what the first time costs is another test
    fake, places = Fake(crowd), []

    def rank(number):
        for step in range(steps):
            own = np.arange(count) + 1000 * number + step
            found, run = ask(crowd, fake, own)
            assert found.tolist() == (2.0 * own).tolist()
            places.append(run)
        crowd.leave()

    with ThreadPoolExecutor(ranks) as pool:
        list(pool.map(rank, range(ranks)))
    alone = ranks * steps
    assert alone / fill <= crowd.passes <= alone / fill + 2 * fill, (
        "the first and the last may be short"
    )
    assert set(fake.shapes) == {(SIZE,)}, "the shape stays"
    assert sum(places) == crowd.passes * SIZE


def side_by_side(crowd, fake, requests):
    """Ask several things at once, the first of them being under way until all wait: what each was told, or raised."""
    found, fake.crowd = [None] * len(requests), crowd
    crowd.askers, crowd.left, crowd.passes = len(requests), 0, 0

    def asker(number):
        try:
            found[number] = ask(crowd, fake, *requests[number])[0]
        except NonFiniteError as error:
            found[number] = error
        finally:
            crowd.leave()

    with ThreadPoolExecutor(len(requests)) as pool:
        list(pool.map(asker, range(len(requests))))
    return found, crowd.passes


def test_a_sample_that_breaks_a_batch_breaks_its_own_request_alone():
    joining = Crowd(0, joins=True)
    joining._tried = True
    requests = [([1.0, 2.0],), ([3.0],), ([np.nan],), ([5.0],)]
    found, _ = side_by_side(joining, Fake(), requests)
    assert isinstance(found[2], NonFiniteError)
    assert [one.tolist() for one in found[:2] + found[3:]] == [[2.0, 4.0], [6.0], [10.0]]


def test_other_kinds_and_what_does_not_fit_stay_apart():
    joining = Crowd(0, joins=True)
    joining._tried = True
    some = np.arange(20.0)
    requests = [(some,), (some + 100,), (some + 200,), (some[:12] + 300, "whole")]
    found, passes = side_by_side(joining, Fake(), requests)
    for (values, *_), told in zip(requests, found, strict=True):
        assert told.tolist() == (2.0 * values).tolist()
    assert passes == 4


def test_nothing_is_joined_any_more_once_a_batch_mate_was_seen_to_matter(caplog):
    requests = [([float(number)],) for number in range(1, 6)]
    alone = [ask(Joining(SIZE, 1, joins=False), Fake(leak=1e-3), *one)[0] for one in requests]
    joining, fake = Crowd(0, joins=True), Fake(leak=1e-3)
    found, _ = side_by_side(joining, fake, requests)
    assert not joining.joins
    assert "not joined" in caplog.text
    assert [one.tolist() for one in found] == [one.tolist() for one in alone]
    before = len(fake.shapes)
    side_by_side(joining, fake, requests)
    assert len(fake.shapes) - before == len(requests)


def test_after_a_first_batch_with_the_same_bits_they_are_joined():
    requests = [([float(number)],) for number in range(1, 6)]
    joining, fake = Crowd(0, joins=True), Fake()
    assert side_by_side(joining, fake, requests)[1] == 1 + 1 + 4, (
        "one alone, four together and again"
    )
    assert side_by_side(joining, fake, requests)[1] == 2
    assert joining.joins


def test_which_teachers_are_joined(make_spec):
    spec = make_spec("mlp")
    assert replace(spec, model=MlpModel(), batch_size=32).joins
    assert not replace(spec, model=MlpModel(), batch_size=31).joins
    assert not replace(spec, model=FactoryModel(path="a:b"), batch_size=64).joins


MODELS = {
    "cnn": CnnModel(width=0.25, depth=2),
    "resnet": ResnetModel(width=0.5, depth=8),
    "vit": VitModel(width=0.5, depth=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_teacher_says_the_same_bits_joined_as_alone(name, make_spec, samples, one_thread):
    spec = make_spec(MODELS[name], batch_size=SIZE)
    rows = [samples.splits["train"][start : start + 9] for start in range(0, 63, 9)]
    alone = [TeacherModel(spec).score(samples, one, np.ones_like(one)) for one in rows]
    teacher = TeacherModel(spec)
    passes, begun, go_on = [], threading.Event(), threading.Event()
    computed = teacher._computed

    def gated(placed):
        passes.append(len(next(iter(placed.tensors.values()))))
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return computed(placed)

    teacher._computed = gated
    waiting = teacher._joining._waiting
    with ThreadPoolExecutor(len(rows)) as pool:
        asked = [
            pool.submit(teacher.score, samples, one, np.ones_like(one)) for one in rows[:AT_ONCE]
        ]
        assert begun.wait(PATIENCE_S)
        while teacher._joining._free:
            threading.Event().wait(0.001)
        asked += [
            pool.submit(teacher.score, samples, one, np.ones_like(one)) for one in rows[AT_ONCE:]
        ]
        while sum(map(len, waiting.values())) < len(rows) - AT_ONCE:
            threading.Event().wait(0.001)
        go_on.set()
        found = [one.result(PATIENCE_S) for one in asked]
    for one, other in zip(found, alone, strict=True):
        assert one.keys() == other.keys()
        assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    assert teacher._joining.joins
    assert set(passes) == {SIZE}
    # three alone; of the other four three together and again each alone, and one that did not fit
    assert len(passes) == AT_ONCE + 1 + 3 + 1
