"""How busy the teachers are, and whether more of them would help: plain arithmetic, no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

HIGH_WAIT = 0.10
"""Share of the student's time, spent waiting, from which on advice is given."""
LOW_WAIT = 0.05
"""What the advice aims at."""
WORK = "teacher_work_s_per_step"
STEP = "student_s_per_step"
WAIT = "teacher_wait_fraction"
SCORED = "teacher_samples_scored"
"""Of teachers in the students' own processes, which nobody else can count."""


@dataclass
class TeacherLoad:
    """What one client saw of one teacher since it was last asked; sums add up over clients.

    Attributes:
        requests: answers received.
        samples: samples in them.
        size_bytes: bytes of their arrays.
        busy_s: seconds that a replica worked on them, measured there.
        asked: requests made, the repeated ones among them.
        queued: requests that were under way, summed over the moments when one was made.
        clients: 1; the number of workers once summed.
        places: of the batches that were run for them, padding among them.
        wait_s: seconds that the client waited for the answers.
        failures: requests that were not answered.
    """

    requests: float = 0
    samples: float = 0
    size_bytes: float = 0
    busy_s: float = 0
    asked: float = 0
    queued: float = 0
    clients: float = 1
    places: float = 0
    wait_s: float = 0
    failures: float = 0

    def take(self) -> list[float]:
        """The numbers in the order of the attributes; counting starts anew."""
        numbers = [float(number) for number in astuple(self)]
        for name, number in vars(TeacherLoad()).items():
            setattr(self, name, number)
        return numbers


@dataclass
class WorkTime:
    """Seconds of pieces of work that overlap: of each since it was begun, or since another one was done.

    They add up to the time in which there was any work, and while there always is, a piece takes as long as pieces follow
    each other.
    """

    total_s: float = 0.0
    _ended_s: float = -math.inf

    def done(self, begun_s: float, now_s: float) -> float:
        """The seconds of a piece that is done now."""
        seconds = now_s - max(begun_s, self._ended_s)
        self._ended_s = now_s
        self.total_s += seconds
        return seconds


WIDTH = len(fields(TeacherLoad))
"""Numbers of one teacher in what `describe` takes."""


def describe(
    numbers: Sequence[float], replicas: Mapping[str, int], seconds: float
) -> dict[str, dict[str, float]]:
    """The values of an epoch event that tell how busy the teachers were.

    Args:
        numbers: `Load.take` of each teacher, one after the other, summed over the student's workers.
        replicas: actors by teacher, in the same order.
        seconds: length of the epoch.

    Returns:
        By name, then teacher: `teacher_busy_fraction` (of its replicas' time), `teacher_queue` (requests
        under way when another is made), `teacher_samples_per_s`, `teacher_bytes_per_sample`,
        `teacher_work_s_per_step` (seconds of one replica for one step of the student), `teacher_batch_fill` (part of
        the batches that is no padding), `teacher_wait_s_per_step` (that a student waits for the answer) and
        `teacher_failures` (requests without an answer).
    """
    found: dict[str, dict[str, float]] = {}
    for index, (name, actors) in enumerate(replicas.items()):
        load = TeacherLoad(*numbers[index * WIDTH : (index + 1) * WIDTH])
        steps = load.requests / max(1.0, load.clients)
        values = {
            "teacher_busy_fraction": load.busy_s / max(seconds * actors, 1e-9),
            "teacher_queue": load.queued / max(1.0, load.asked) * load.clients,
            "teacher_samples_per_s": load.samples / max(seconds, 1e-9),
            "teacher_bytes_per_sample": load.size_bytes / max(1.0, load.samples),
            WORK: load.busy_s / max(1.0, steps),
            "teacher_batch_fill": load.samples / max(1.0, load.places),
            "teacher_wait_s_per_step": load.wait_s / max(1.0, load.requests),
            "teacher_failures": load.failures,
        }
        for key, value in values.items():
            found.setdefault(key, {})[name] = value
    return found


@dataclass(frozen=True)
class Utilization:
    """Of students that asked live teachers: means over their epochs.

    Attributes:
        work_s: teacher -> seconds of one replica's work for one step of the student.
        student_s: seconds of a step that the student does not wait.
        wait: share of its time that it waits.
    """

    work_s: Mapping[str, float]
    student_s: float
    wait: float


def utilization_of(epochs: Iterable[Mapping[str, Any]]) -> Utilization | None:
    """The pace that epoch records tell of; None where no teacher was asked live.

    Fits that ask fewer teachers than others (a control with the best one) are left out, and so is the first
    epoch of a fit, in which caches fill, where there is another.
    """
    live = [line for line in epochs if line.get(WORK)]
    if not live:
        return None
    most = max(len(line[WORK]) for line in live)
    whole = [line for line in live if len(line[WORK]) == most]
    warm = [line for line in whole if line["epoch"] > 1] or whole
    work_s = {name: _mean([line[WORK][name] for line in warm]) for name in warm[0][WORK]}
    return Utilization(
        work_s, _mean([line[STEP] for line in warm]), _mean([line[WAIT] for line in warm])
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def advise_replicas(pace: Utilization, replicas: Mapping[str, int]) -> str | None:
    """What would shorten a long wait for the teachers, in words; None where it is short.

    A step takes as long as the slowest of: the student, and each teacher's work over its replicas. That
    holds while batches are asked for ahead and a new replica has a core or GPU of its own.

    Args:
        pace: how long student and teachers took.
        replicas: actors by teacher.
    """
    if pace.wait < HIGH_WAIT or not pace.work_s or not pace.student_s > 0:
        return None
    rounds = {name: work / replicas[name] for name, work in pace.work_s.items()}
    slowest = max(rounds, key=lambda name: rounds[name])
    explained = 1 - pace.student_s / max(pace.student_s, rounds[slowest])
    if explained < pace.wait / 2:
        return (
            f"the student waits {_percent(pace.wait)} of its time for teachers, but none is at its limit "
            f"(teacher `{slowest}` works {_ms(rounds[slowest])} a step, the student {_ms(pace.student_s)}): "
            "more replicas would not help; try a greater targets.depth, and larger batches"
        )
    enough = pace.student_s / (1 - LOW_WAIT)
    needed = {
        name: math.floor(work / enough) + 1
        for name, work in pace.work_s.items()
        if work / replicas[name] >= enough
    }
    others = "".join(f", and {n} of `{name}`," for name, n in needed.items() if name != slowest)
    return (
        f"teacher `{slowest}` is the bottleneck ({_ms(pace.work_s[slowest])} of work a step for "
        f"{_replicas(replicas[slowest])}, the student takes {_ms(pace.student_s)}): "
        f"{_replicas(needed[slowest])}{others} would bring the wait from {_percent(pace.wait)} to under "
        f"{_percent(LOW_WAIT)}, if each has a core or GPU of its own"
    )


def _replicas(count: int) -> str:
    return f"{count} replica{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
