"""The steps of scoring overlap: shown by who waits for whom, never by a clock."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import ray
import raykd_test_models
import torch

from raykd.config.models import FactoryModel
from raykd.config.root import TeacherCluster
from raykd.errors import NonFiniteError
from raykd.targets import codec
from raykd.targets.ragged import joined
from raykd.teachers import ActorFleet, LiveTargets, TeacherModel, TeacherResources
from raykd.teachers import model as model_module
from raykd.teachers.stages import in_turn
from raykd.teachers.utilization import WorkTime

BATCH, BATCHES = 8, 6
PATIENCE_S = 30.0


class Meeting:
    """Has the nth forward pass wait until the next inputs are being made, and the nth encoding for the next forward pass.

    Only where all steps are at work at once does anybody get on; each step counts how many of it are.
    """

    def __init__(self, batches, patience_s=PATIENCE_S):
        self.batches, self.patience_s = batches, patience_s
        pairs = [(step, n) for step in ("forward", "encode") for n in range(batches - 1)]
        self.meet = {pair: threading.Barrier(2) for pair in pairs}
        self.count, self.inside, self.most = Counter(), Counter(), Counter()
        self.lock = threading.Lock()

    def enter(self, step, before):
        with self.lock:
            number = self.count[step]
            self.count[step] += 1
            self.inside[step] += 1
            self.most[step] = max(self.most[step], self.inside[step])
        if before is not None and number > 0:
            self.meet[before, number - 1].wait(self.patience_s)
        if (step, number) in self.meet:
            self.meet[step, number].wait(self.patience_s)

    def leave(self, step):
        with self.lock:
            self.inside[step] -= 1


class Watched:
    """The data, whose views take part in the meeting."""

    is_tokens = False

    def __init__(self, samples, meeting):
        self.samples, self.meeting = samples, meeting

    def batch(self, *given, **named):
        self.meeting.enter("inputs", "forward")
        try:
            return self.samples.batch(*given, **named)
        finally:
            self.meeting.leave("inputs")


def watched(samples, teacher, meeting, monkeypatch):
    """Data, forward pass and encoding of a teacher that take part in a meeting."""
    network, encode = teacher.network, codec.encode

    def forward(inputs):
        meeting.enter("forward", "encode")
        try:
            return network(inputs)
        finally:
            meeting.leave("forward")

    def encoded(*given):
        meeting.enter("encode", None)
        try:
            return encode(*given)
        finally:
            meeting.leave("encode")

    monkeypatch.setattr(teacher, "network", forward)
    monkeypatch.setattr(model_module.codec, "encode", encoded)
    return Watched(samples, meeting)


def test_while_one_batch_is_computed_the_next_is_made_and_the_last_is_encoded(
    samples, make_spec, monkeypatch
):
    teacher = TeacherModel(make_spec("mlp"))
    rows, view = samples.splits["train"][: BATCH * BATCHES - 3], 1
    views = np.full(len(rows), view)
    cut = range(0, len(rows), BATCH)
    alone = joined([teacher.score(samples, rows[i : i + BATCH], views[i : i + BATCH]) for i in cut])
    meeting = Meeting(BATCHES)
    data = watched(samples, teacher, meeting, monkeypatch)
    found = teacher.score(data, rows, views)
    assert meeting.count == dict.fromkeys(("inputs", "forward", "encode"), BATCHES)
    assert meeting.most == dict.fromkeys(("inputs", "forward", "encode"), 1), (
        "one of each at a time"
    )
    assert found.keys() == alone.keys()
    assert all(np.array_equal(found[name], alone[name]) for name in alone), "in their order"


def test_a_teacher_whose_steps_follow_each_other_would_not_get_on(samples, make_spec, monkeypatch):
    teacher = TeacherModel(make_spec("mlp"))
    teacher.stages.inputs = teacher.stages.forward = teacher.stages.encode = threading.RLock()
    data = watched(samples, teacher, Meeting(BATCHES, patience_s=0.2), monkeypatch)
    rows = samples.splits["train"][: BATCH * BATCHES]
    with pytest.raises(threading.BrokenBarrierError):
        teacher.score(data, rows, np.zeros(len(rows), np.int64))


def test_requests_of_several_threads_overlap_too_and_get_their_own_answers(
    samples, make_spec, monkeypatch
):
    teacher = TeacherModel(make_spec("cnn", taps=("blocks.0",)))
    parts = [samples.splits["train"][i * BATCH : (i + 1) * BATCH] for i in range(BATCHES)]
    views = np.zeros(BATCH, np.int64)
    alone = [teacher.score(samples, rows, views) for rows in parts]
    data = watched(samples, teacher, Meeting(BATCHES), monkeypatch)
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as clients:
        found = list(clients.map(lambda rows: teacher.score(data, rows, views), parts))
    for one, other in zip(found, alone, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_what_breaks_in_one_batch_is_raised_and_the_next_call_is_answered(samples, make_spec):
    model = FactoryModel(path="raykd_test_models:poisoned", kwargs={"how": "nan"})
    teacher, rows = TeacherModel(make_spec(model)), samples.splits["train"][:40]
    good = teacher.score(samples, rows, np.zeros(40, np.int64))
    images = samples.inputs["inputs"].copy()
    images[rows[17], :, 4, 4] = 1e4

    bad = replace(samples, inputs={"inputs": images})
    with pytest.raises(NonFiniteError, match="for every class"):
        teacher.score(bad, rows, np.zeros(40, np.int64))
    again = teacher.score(samples, rows, np.zeros(40, np.int64))
    assert all(np.array_equal(again[name], good[name]) for name in good)


def test_pieces_in_turn_keep_their_order_and_are_begun_no_further_ahead():
    begun, release = [], threading.Semaphore(0)

    def work(number):
        begun.append(number)
        assert release.acquire(timeout=PATIENCE_S)
        return number * number

    found = in_turn(work, iter(range(5)), 2)
    release.release(2)
    assert next(found) == 0
    assert max(begun) <= 2, "two under way, and one that was taken"
    release.release(10)
    assert list(found) == [1, 4, 9, 16]

    def fails(number):
        if number == 1:
            raise ValueError("one")
        return number

    with pytest.raises(ValueError, match="one"):
        list(in_turn(fails, range(9), 2))


def test_seconds_of_overlapping_work_add_up_to_the_time_with_any():
    time = WorkTime()
    assert time.done(0.0, 3.0) == 3.0
    assert time.done(1.0, 4.0) == 1.0, "of which two were under way until 3"
    assert time.done(10.0, 12.0) == 2.0, "nothing was, from 4 to 10"
    assert time.total_s == 6.0


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_makes_the_next_inputs_while_it_computes(make_samples, make_spec, heard):
    samples = make_samples({"type": "factory", "path": "raykd_test_models:noticed"}, count=4)
    kwargs = {"batches": 2 * BATCHES}
    spec = make_spec(FactoryModel(path="raykd_test_models:awaiting", kwargs=kwargs), data=samples)
    settings = TeacherCluster(start_timeout_s=60, request_timeout_s=60)
    rows, places = samples.splits["train"], {"wide": TeacherResources(1, 0.5, 0)}
    with ActorFleet({"wide": spec}, places, ray.put(samples), settings, heard) as fleet:
        live = LiveTargets(fleet.client, ["wide"])
        tickets = [
            live.submit(samples.batch(rows[i * BATCH : (i + 1) * BATCH], 0)) for i in range(BATCHES)
        ]
        tickets.append(live.submit(samples.batch(rows[:48], 1)))  # as many batches in one request
        answers = [live.collect(ticket, 600)["wide"] for ticket in tickets]
        load = fleet.statistics()["wide"]
    assert len(answers) == BATCHES + 1
    assert not heard, "no forward pass waited in vain"
    assert load["samples_scored"] == 2 * BATCH * BATCHES
    assert raykd_test_models.VIEWED[0] > 0, "those of this process's own batches"
