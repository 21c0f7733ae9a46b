"""Blocks are made in a stream aside, and waited for by the stream that uses them: the order, on a device that writes it down."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import torch

from raykd.objective import Context
from raykd.train import World
from raykd.train.aside import NoStreams, made_aside, streams_of, taken, tensors_in
from raykd.train.feed import Feed, prefetch
from raykd.train.fit import build_module
from raykd.train.step import Lesson


class Written:
    """A device that writes down what it is told, and where each tensor was made."""

    def __init__(self):
        self.told, self.inside, self.used = [], threading.local(), []

    @contextmanager
    def aside(self):
        self.inside.now = True
        try:
            yield
        finally:
            self.inside.now = False

    @property
    def is_aside(self):
        return getattr(self.inside, "now", False)

    def follow(self):
        assert not self.is_aside
        self.told.append("follow")

    def mark(self):
        assert self.is_aside
        number = sum(one[0] == "mark" for one in self.told if isinstance(one, tuple))
        self.told.append(("mark", number))
        return number

    def wait(self, mark):
        assert not self.is_aside
        self.told.append(("wait", mark))

    def use(self, tensor):
        assert not self.is_aside
        self.used.append(tensor.data_ptr())


def test_each_item_is_made_aside_and_waited_for_before_it_is_used():
    device, where = Written(), []

    def items():
        for number in range(3):
            where.append((device.is_aside, threading.current_thread().name))
            yield {"x": torch.full((2,), float(number))}

    for number, item in enumerate(taken(prefetch(made_aside(items(), device)), device)):
        assert item["x"].tolist() == [number, number]
        assert ("wait", number) in device.told
        assert ("wait", number + 1) not in device.told
        assert device.used[-1] == item["x"].data_ptr()
    assert all(aside and name.startswith("ahead") for aside, name in where)
    waits = [one[1] for one in device.told if one[0] == "wait"]
    assert waits == [0, 1, 2]
    assert all(device.told.index(("mark", n)) < device.told.index(("wait", n)) for n in waits)


def test_what_making_raises_is_raised_where_it_would_be_used():
    def items():
        yield torch.zeros(1)
        raise ValueError("broken")

    device = Written()
    made = taken(prefetch(made_aside(items(), device)), device)
    next(made)
    with pytest.raises(ValueError, match="broken"):
        next(made)
    assert not device.is_aside


@pytest.mark.parametrize("live", [False, True])
def test_a_fits_blocks_have_every_tensor_waited_for(live, runs, samples, make_fit, monkeypatch):
    device = Written()
    monkeypatch.setattr("raykd.train.feed.streams_of", lambda _: device)
    monkeypatch.setattr("raykd.train.feed._FEW_STEPS", 10**6)  # as where blocks are large
    fit = make_fit(samples, objective={"weighting": {"type": "gradient"}} if live else None)
    source = runs.source(fit)
    source.at_once = not live
    module = build_module(fit, samples)
    feed = Feed(fit, samples, source, module, World(), depth=2)
    blocks = list(feed.blocks(0, 0, 1))
    plain = Feed(fit, samples, source, module, World(), depth=2)
    plain._streams = NoStreams()
    for block, other in zip(blocks, plain.blocks(0, 0, 1), strict=True):
        own, others = list(tensors_in(block)), list(tensors_in(other))
        assert all(map(torch.equal, own, others))
        assert {one.data_ptr() for one in own} <= set(device.used)
    assert device.told[0] == "follow"
    found = {name for block in blocks for name in block.lessons[0].targets}
    assert found == ({"a", "b"} if live else set())


def test_tensors_are_found_wherever_they_are(samples):
    batch = samples.batch(samples.splits["train"][:4], 0, labels="all")
    lesson = Lesson(batch=batch, targets={}, context=Context(epoch=0.0, seed=1))
    found = {id(tensor) for tensor in tensors_in([(lesson,), "text", None, 3])}
    assert {id(batch.labels), id(batch.present_B), *map(id, batch.inputs.values())} <= found


def test_a_cpu_has_no_streams():
    assert isinstance(streams_of(torch.device("cpu")), NoStreams)
