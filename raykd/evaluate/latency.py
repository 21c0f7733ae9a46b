"""How long calls take on one CPU thread: the lowest of blocks of calls that take turns, and what else went on meanwhile.

What disturbs a machine only ever adds time, so the lowest repeats best (as in Python's `timeit`), and blocks in
turns meet the same disturbance. A call of B samples takes t(B) = overhead + B × the time of a sample.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

import torch

ROUNDS = 10
LONGEST_CALL_S = 20.0
_BLOCK_S = 0.01
_ENOUGH_S = 0.4
_LEAST_BLOCKS = 3
_LONG_CALL_S = 0.1
_PROBE = 16
_BUSY = 0.1
_SEVERAL = 1.5
_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)
"""Where a line of it has the time without work: idle, and waiting for a disk."""
_COUNTED = 8
"""Columns of it that add up; the rest is part of them."""

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Conditions:
    """What else went on while calls were timed.

    Attributes:
        others: CPUs that other processes used on average; None where the system does not say.
        cpus: that this process may use.
        spread: by which share the median block was slower than the lowest; median over all that was timed.
        threaded: whose calls used more than one CPU, since it starts threads that are not pinned.
        seconds: that it took.
    """

    others: float | None
    cpus: int
    spread: float
    threaded: tuple[str, ...]
    seconds: float

    @property
    def busy(self) -> bool:
        """Whether others used more than a tenth of the CPUs, or median blocks were more than a tenth slower than lowest.

        The latencies may then be too high, and others next time.
        """
        return bool(self.signs)

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `busy`."""
        return {"busy": self.busy, **asdict(self), "threaded": list(self.threaded)}

    @property
    def signs(self) -> str:
        """By what it is seen that the machine was busy: `other processes used 1.5 of 2 CPUs`; empty where it was not."""
        found = []
        if self.others is not None and self.others > _BUSY * self.cpus:
            found.append(f"other processes used {self.others:.1f} of {self.cpus} CPUs")
        if self.spread > _BUSY:
            found.append(f"typical calls took {100 * self.spread:.0f} % longer than the shortest")
        return " and ".join(found)


@dataclass
class Turns(Generic[Key]):
    """Blocks of several calls, in turns.

    Attributes:
        blocks: key -> seconds of each call of each of its blocks.
    """

    blocks: dict[Key, list[list[float]]] = field(default_factory=dict)
    _taken_s: dict[Key, float] = field(default_factory=dict)
    _worked_s: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun, self._machine, self._own = time.perf_counter(), _work_s(), time.process_time()

    def block(self, key: Key, call: Call) -> float:
        """Time calls for some milliseconds, at least two of them unless they are long; the lowest so far [s]."""
        begun, worked, block = time.perf_counter(), time.process_time(), [timed_s(call)]
        while (taken := time.perf_counter() - begun) < _BLOCK_S or (
            len(block) == 1 and taken < _LONG_CALL_S
        ):
            block.append(timed_s(call))
        self.blocks.setdefault(key, []).append(block)
        self._taken_s[key] = self._taken_s.get(key, 0.0) + taken
        self._worked_s[key] = self._worked_s.get(key, 0.0) + time.process_time() - worked
        return self.lowest_s(key)

    def run(self, calls: Mapping[Key, Call], rounds: int = ROUNDS) -> None:
        """Give each call a block in each round; a slow one has three, and no more after 0.4 s."""
        for _ in range(rounds):
            for key, call in calls.items():
                done = len(self.blocks.get(key, ()))
                if done < rounds and (done < _LEAST_BLOCKS or self._taken_s[key] < _ENOUGH_S):
                    self.block(key, call)

    def lowest_s(self, key: Key) -> float:
        """Seconds of the shortest call."""
        return min(min(block) for block in self.blocks[key])

    def conditions(self, name: Callable[[Key], str] = str) -> Conditions:
        """What else went on since the start.

        Args:
            name: what a key is called.
        """
        seconds = time.perf_counter() - self._begun
        own, cpus, after = time.process_time() - self._own, len(_cpus()), _work_s()
        others = None
        if self._machine is not None and after is not None and after > self._machine:
            others = max(0.0, after - self._machine - own) / seconds
        spread = median(
            median(map(min, blocks)) / self.lowest_s(key) - 1 for key, blocks in self.blocks.items()
        )
        several = [key for key, s in self._worked_s.items() if s > _SEVERAL * self._taken_s[key]]
        return Conditions(
            others=others,
            cpus=cpus,
            spread=spread,
            threaded=tuple(sorted({name(key) for key in several})),
            seconds=seconds,
        )


def latencies(
    calls: Mapping[str, Callable[[int], Call]],
    batch_sizes: tuple[int, ...] = (1, 256),
    *,
    rounds: int = ROUNDS,
    longest_call_s: float = LONGEST_CALL_S,
) -> tuple[dict[str, dict[str, float | None]], Conditions]:
    """Time all models in turns.

    Args:
        calls: name -> what makes, for a batch size, a call of the model.
        batch_sizes: to time, in ascending order.
        rounds: blocks of each model and size, at most.
        longest_call_s: a batch size whose call is expected to take longer is not run, and has None.

    Returns:
        Name -> batch size as text -> milliseconds of the shortest call, or None; what else went on.
    """
    turns = Turns[tuple[str, int]]()
    due: dict[tuple[str, int], Call] = {}
    with one_thread():
        for name, make in calls.items():
            known: dict[int, float] = {}
            for size in batch_sizes:
                if _too_long(known, size, make, longest_call_s):
                    continue
                due[name, size] = make(size)
                known[size] = turns.block((name, size), due[name, size])
        turns.run(due, rounds)
        found = {
            name: {
                str(size): 1e3 * turns.lowest_s((name, size)) if (name, size) in due else None
                for size in batch_sizes
            }
            for name in calls
        }
        return found, turns.conditions(lambda key: key[0])


def _too_long(
    known: Mapping[int, float], size: int, make: Callable[[int], Call], longest_s: float
) -> bool:
    """Whether a call is expected to take too long; where one sample is slow, a few show what they add to it."""
    if not known:
        return False
    small, small_s = max(known.items())
    if size * small_s / small <= longest_s:
        return False
    if not small < _PROBE < size or _PROBE * small_s / small > longest_s:
        return True
    each_s = max(0.0, timed_s(make(_PROBE)) - small_s) / (_PROBE - small)
    return small_s + (size - small) * each_s > longest_s


def overhead_ms(latency_ms: Mapping[str, float | None]) -> float | None:
    """Milliseconds that a call takes whatever its batch: t(0) of the line through its smallest and its largest batch.

    Args:
        latency_ms: batch size as text -> milliseconds of a call; None = unknown.

    Returns:
        Between 0 and the time of the smallest batch; None unless two are known.
    """
    known = sorted((int(size), ms) for size, ms in latency_ms.items() if ms is not None)
    if len(known) < 2:
        return None
    (small, small_ms), (large, large_ms) = known[0], known[-1]
    each_ms = max(0.0, large_ms - small_ms) / (large - small)
    return max(0.0, small_ms - small * each_ms)


def timed_s(call: Call) -> float:
    """Seconds of a call, without those in which other processes had this thread's CPU, where that can be known.

    A thread that never gave up its CPU by itself waited for nothing, so its CPU time is what the call takes on an
    idle machine. One that waited, as for other threads, is timed by the clock.
    """
    waited, cpu, begun = _waits(), time.thread_time(), time.perf_counter()
    call()
    clock, cpu = time.perf_counter() - begun, time.thread_time() - cpu
    return min(clock, cpu) if waited is not None and _waits() == waited else clock


def _waits() -> int | None:
    """How often this thread has given up its CPU by itself; None where the system does not say."""
    which: int | None = getattr(resource, "RUSAGE_THREAD", None)
    return None if which is None else resource.getrusage(which).ru_nvcsw


def _cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _work_s() -> float | None:
    """Seconds that the CPUs of this process have worked since the machine started, for whomever; None = unknown."""
    if not _STAT.is_file():
        return None
    names = {f"cpu{index}" for index in _cpus()}
    lines = (line.split() for line in _STAT.read_text().splitlines())
    ticks = [[int(cell) for cell in cells[1:][:_COUNTED]] for cells in lines if cells[0] in names]
    return sum(sum(line) - sum(line[_IDLE]) for line in ticks) / os.sysconf("SC_CLK_TCK")


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for torch, BLAS, OpenMP and joblib (scikit-learn), and back to as many as before.

    A session of onnxruntime has as many as torch when it is opened. Threads that a model starts otherwise are not
    pinned.
    """
    from joblib import parallel_config
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    with threadpool_limits(limits=1), parallel_config(backend="sequential"):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
