"""How calls are timed: in turns, on one thread, and with what else went on."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from raykd.evaluate import latency
from raykd.evaluate.latency import Conditions, Turns, latencies, one_thread, overhead_ms, timed_s


@pytest.mark.parametrize("seed", range(3))
def test_overhead_is_where_the_line_through_two_batches_begins(seed):
    overhead, each = np.random.default_rng(seed).uniform(0.1, 10, size=2)
    known = {"1": overhead + each, "256": overhead + 256 * each}
    (expected,) = np.linalg.solve([[1, 1], [1, 256]], list(known.values()))[:1]
    assert overhead_ms(known) == pytest.approx(expected) == pytest.approx(overhead)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"1": 2.0, "256": 1.5}, 2.0),  # a large batch that takes no longer: all of it is overhead
        ({"1": 2.0, "256": 600.0}, 0.0),  # one that takes longer than 256 calls: none
        ({"1": 2.0, "256": None}, None),
        ({"1": None, "256": 3.0}, None),
        ({}, None),
    ],
)
def test_overhead_at_the_ends(known, expected):
    assert overhead_ms(known) == expected


def test_models_take_turns(monkeypatch):
    monkeypatch.setattr(latency, "_BLOCK_S", 0.0)
    made = []
    calls = {name: lambda size, name=name: lambda: made.append((name, size)) for name in "ab"}
    found, _ = latencies(calls, (1, 4), rounds=3)
    keys = [("a", 1), ("a", 4), ("b", 1), ("b", 4)]
    assert made == [key for _ in range(3) for key in keys for _ in range(2)]
    assert {name: set(sizes) for name, sizes in found.items()} == {n: {"1", "4"} for n in "ab"}


def test_the_shortest_call_counts_and_a_slow_one_has_three_blocks(monkeypatch):
    times = iter([5.0, 0.4, 0.3, 7.0, 7.0])
    clock = SimpleNamespace(now=0.0)

    def timed(call):
        seconds = next(times)
        clock.now += seconds
        return seconds

    monkeypatch.setattr(latency, "timed_s", timed)
    fake = SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: 0.0)
    monkeypatch.setattr(latency, "time", fake)
    turns = Turns()
    turns.run({"it": lambda: None}, rounds=10)
    assert turns.blocks["it"] == [[5.0], [0.4], [0.3]]
    assert turns.lowest_s("it") == 0.3
    assert turns.conditions().spread == pytest.approx(0.4 / 0.3 - 1)


@pytest.mark.parametrize(("waits", "expected"), [((7, 7), 1.0), ((7, 8), 5.0), ((None, None), 5.0)])
def test_time_in_which_others_had_the_cpu_does_not_count(monkeypatch, waits, expected):
    """Five seconds by the clock, of which this thread worked one; then it matters whether it waited by itself."""
    counts = iter(waits)
    clock, cpu = iter([10.0, 15.0]), iter([2.0, 3.0])
    monkeypatch.setattr(latency, "_waits", lambda: next(counts))
    fake = SimpleNamespace(perf_counter=lambda: next(clock), thread_time=lambda: next(cpu))
    monkeypatch.setattr(latency, "time", fake)
    assert timed_s(lambda: None) == expected


STAT = """cpu  900 0 0 900 0 0 0 0 0 0
cpu0 {} 10 20 500 60 1 2 {} 4 4
cpu1 100 0 0 900 0 0 0 0 0 0
intr 1 2 3
"""


def test_work_of_others_is_that_of_this_process_s_cpus(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(100, 7))
    monkeypatch.setattr(latency, "_STAT", stat)
    monkeypatch.setattr(latency, "_cpus", lambda: {0})
    monkeypatch.setattr(latency.os, "sysconf", lambda name: 100)
    now = SimpleNamespace(clock=0.0, own=0.0)
    fake = SimpleNamespace(perf_counter=lambda: now.clock, process_time=lambda: now.own)
    monkeypatch.setattr(latency, "time", fake)
    turns = Turns(blocks={"it": [[1.0]]}, _taken_s={"it": 1.0}, _worked_s={"it": 1.6})
    stat.write_text(STAT.format(100 + 250, 7 + 50))  # 2.5 s of work and 0.5 s stolen
    now.clock, now.own = 4.0, 1.0
    seen = turns.conditions()
    assert seen.others == pytest.approx((2.5 + 0.5 - 1.0) / 4)
    assert (seen.cpus, seen.seconds, seen.spread) == (1, 4.0, 0.0)
    assert seen.threaded == ("it",)
    assert seen.signs == "other processes used 0.5 of 1 CPUs"
    stat.unlink()
    assert turns.conditions().others is None


@pytest.mark.parametrize(
    ("others", "spread", "busy"),
    [
        (0.1, 0.02, False),
        (0.3, 0.02, True),
        (None, 0.02, False),
        (0.1, 0.2, True),
        (None, 0.2, True),
    ],
)
def test_a_busy_machine_is_marked(others, spread, busy):
    seen = Conditions(others=others, cpus=2, spread=spread, threaded=(), seconds=1.0)
    assert seen.busy is busy is bool(seen.signs)
    assert seen.to_json() == {
        "busy": busy, "others": others, "cpus": 2, "spread": spread, "threaded": [], "seconds": 1.0,
    }  # fmt: skip


def test_one_thread_holds_for_torch_blas_and_joblib_and_is_put_back():
    def threads():
        return torch.get_num_threads(), [one["num_threads"] for one in threadpool_info()]

    def seen():
        tasks = (joblib.delayed(threading.get_ident)() for _ in range(4))
        return set(joblib.Parallel(n_jobs=4, require="sharedmem")(tasks))

    own = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = threads()
        with one_thread():
            assert torch.get_num_threads() == 1
            assert {one["num_threads"] for one in threadpool_info()} == {1}
            assert seen() == {threading.get_ident()}
        assert threads() == before
        assert seen() != {threading.get_ident()}
    finally:
        torch.set_num_threads(own)
