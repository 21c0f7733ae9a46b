"""Processes that do one piece of work after the other, each as a new process would."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np
import pytest
import ray
import torch

from raykd.config import load_config
from raykd.errors import InputError, TrainingError
from raykd.runtime import Crew
from raykd.runtime.engine import engine

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
NEEDS = {"CPU": 0.5}
MINIMAL = {
    "data": {"source": {"type": "digits"}},
    "teachers": [{"name": "one", "model": {"type": "mlp"}, "fit": {}}],
    "student": {"model": {"type": "mlp"}},
}


def untidy():
    """Leaves nothing as it found it."""
    found = state()
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    torch.set_grad_enabled(False)
    return found


def state():
    return {
        "drawn": (random.random(), float(np.random.rand()), float(torch.rand(()))),  # noqa: NPY002
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "process": os.getpid(),
    }


def test_each_piece_of_work_finds_a_new_process_s_state_in_the_same_process():
    crew = Crew()
    member = crew.take(NEEDS)
    first = ray.get(member.do.remote(1, untidy), timeout=60)
    crew.give_back(member, NEEDS)
    second = ray.get(crew.take(NEEDS).do.remote(1, state), timeout=60)
    assert second == first
    assert (first["dtype"], first["threads"], first["gradients"]) == ("torch.float32", 1, True)
    ray.kill(member)


def test_who_needs_something_else_gets_another_process_and_idle_ones_make_room():
    crew = Crew()
    crew.start(NEEDS, 2)
    one, other = crew.take(NEEDS), crew.take(NEEDS)
    larger = crew.take({"CPU": 1.0})
    pids = ray.get([member.ready.remote() for member in (one, other, larger)], timeout=60)
    assert len(set(pids)) == 3
    for member in (one, other):
        crew.give_back(member, NEEDS)
    crew.give_back(larger, {"CPU": 1, "GPU": 0})
    assert crew.take({"CPU": 1.0}) is larger
    ray.kill(crew.take({"CPU": 0.75}))  # of another size: the idle ones make room for it
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(one.do.remote(1, state), timeout=60)
    assert ray.get(larger.ready.remote(), timeout=60) == pids[2], "it is at work"
    ray.kill(larger)


def asked_until_gone(member, patience_s=10.0):
    """What is asked of a process that is about to end may still be answered."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        ray.get(member.ready.remote(), timeout=60)


def test_a_run_on_a_cluster_that_stays_leaves_no_process_behind():
    with engine(
        None, load_config({**MINIMAL, "cluster": {"student": {"cpus": NEEDS["CPU"]}}})
    ) as crew:
        member = crew.take(NEEDS)
        ray.get(member.ready.remote(), timeout=60)
        crew.give_back(member, NEEDS)
    with pytest.raises(ray.exceptions.RayActorError):
        asked_until_gone(member)


def doubled(value, killed):
    """Twice the value; the process that is the first to be given 3 is lost."""
    if value == 3 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if value < 0:
        raise InputError.at("value", "found a negative one")
    return 2 * value, os.getpid()


def test_pieces_of_work_are_done_side_by_side_and_what_is_lost_is_done_again(tmp_path):
    crew, killed = Crew(), tmp_path / "killed"
    try:
        given = [(value, killed) for value in range(8)]
        found = crew.each(doubled, given, NEEDS, 2, patience_s=60)
        assert [value for value, _ in found] == [0, 2, 4, 6, 8, 10, 12, 14]
        assert killed.exists()
        assert 2 <= len({process for _, process in found}) <= 3
        again = crew.each(doubled, [(1, killed)], NEEDS, 2, patience_s=60)
        assert again[0][1] in {process for _, process in found}, "the same processes go on"
        with pytest.raises(InputError, match="negative"):
            crew.each(doubled, [(-1, killed), (2, killed)], NEEDS, 2, patience_s=60)
        with pytest.raises(TrainingError, match=r"no process started within 0.5 s.*'CPU': 64"):
            crew.each(doubled, given, {"CPU": 64.0}, 1, patience_s=0.5)
        assert crew.each(doubled, [], NEEDS, 2, patience_s=60) == []
    finally:
        crew.dismiss()


def imported(name):
    return name in sys.modules


@pytest.mark.soak
def test_an_idle_process_imports_what_its_next_piece_needs():
    """At once with its own time; those of another size are not asked."""
    crew, unused = Crew(), "wave"
    try:
        assert crew.each(imported, [(unused,)], NEEDS, 1, patience_s=60) == [False]
        assert (crew.idle(NEEDS), crew.idle({"CPU": 1})) == (1, 0)
        crew.prepare({"CPU": 1}, [unused])
        crew.prepare(NEEDS, [unused])
        until = time.monotonic() + 60
        while crew.each(imported, [(unused,)], NEEDS, 1, patience_s=60) == [False]:
            assert time.monotonic() < until
        assert crew.idle(NEEDS) == 1
    finally:
        crew.dismiss()
