"""Hours that a run will take, from what was measured of one worker; arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raykd.config import Config
from raykd.forecast.counts import Share
from raykd.forecast.timing import Pace
from raykd.pipeline.placement import Placement
from raykd.runtime import Resources
from raykd.teachers.pool import TeacherResources


@dataclass(frozen=True)
class Load:
    """Work that several equal workers share.

    Attributes:
        seconds: of one worker that does it all, with its resources to itself.
        workers: how many share it.
        cpus: threads of each.
        gpus: of each; a part of one is a whole one that is busy for a part of the time.
    """

    seconds: float
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Durations:
    """Seconds of each stage, as estimated.

    Attributes:
        teachers_s: fitting teachers.
        targets_s: filling the store.
        student_s: all fits of the student and its controls.
    """

    teachers_s: float
    targets_s: float
    student_s: float

    @property
    def total_s(self) -> float:
        """All stages, one after the other."""
        return self.teachers_s + self.targets_s + self.student_s

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "total_s": self.total_s}


def spread_s(loads: Sequence[Load], cpus: float, gpus: float) -> float:
    """Seconds in which workers do all loads side by side: as the longest one, or as busy as the machines are.

    Args:
        loads: what is done at the same time.
        cpus: CPUs that there are.
        gpus: GPUs that there are.
    """
    longest = max((load.seconds / load.workers for load in loads), default=0.0)
    on_cpus = sum(load.seconds * load.cpus for load in loads) / cpus
    on_gpus = sum(load.seconds * load.gpus for load in loads) / gpus if gpus else 0.0
    return max(longest, on_cpus, on_gpus)


def durations(
    config: Config,
    placement: Placement,
    resources: Resources,
    pace: Pace,
    shares: Mapping[str, Share],
    *,
    for_menu: int = 0,
) -> Durations:
    """Seconds of each stage. Evaluation, report and the start of the cluster are not counted.

    Args:
        config: the recipe.
        placement: what runs where.
        resources: what there is.
        pace: what one worker takes.
        shares: each teacher's answers to come, in the mode of the placement.
        for_menu: students that are trained only so that a target can be chosen.
    """
    cpus, gpus = resources.cpus, resources.gpus
    places = placement.teachers
    fits = [_load(pace.teacher_fit_s[n], places[n], 1) for n in pace.teacher_fit_s]
    scores = [
        _load(
            shares[name].passes_to_come * each_s,
            places[name],
            placement.seats or places[name].replicas,
        )
        for name, each_s in pace.score_s.items()
    ]
    student = config.cluster.student
    workers = max(student.most, placement.lanes)
    inside_s = 0.0  # of teachers where students train
    if placement.with_student:
        inside_s = sum(shares[n].passes_to_come * each_s for n, each_s in pace.score_s.items())
        scores = []
    students = Load(
        config.seeds * sum(pace.student_fit_s.values())
        + for_menu * pace.student_fit_s["student"]
        + inside_s,
        min(workers, _fits(config)) if student.most == 1 else workers,
        student.threads,
        _whole(student.gpus),
    )
    actors = sum(resources.replicas for name, resources in places.items() if pace.score_s[name])
    live = placement.mode == "live"
    filling = bool(any(share.passes_to_come for share in shares.values()))
    starts = [len(fits), actors * filling, student.uses_ray_train + students.workers]
    if (
        placement.seats and not student.uses_ray_train
    ):  # the crew starts once, with the first work there is
        starts = [len(fits), placement.seats * filling * (not fits)]
        starts.append(0 if any(starts) else students.workers)
    start_s = [_start_s(pace, processes, cpus) for processes in starts]
    return Durations(
        teachers_s=spread_s(fits, cpus, gpus) + start_s[0],
        targets_s=(0.0 if live else spread_s(scores, cpus, gpus)) + start_s[1],
        student_s=spread_s([students, *(scores if live else [])], cpus, gpus) + start_s[2],
    )


def _fits(config: Config) -> int:
    return config.seeds * (1 + len(config.evaluate.controls) + len(config.students))


def _load(seconds: float, resources: TeacherResources, workers: int) -> Load:
    return Load(seconds, workers, max(1, int(resources.cpus)), _whole(resources.gpus))


def _whole(gpus: float) -> float:
    """A worker keeps a GPU busy also where it is given a part of it."""
    return max(1.0, gpus) if gpus else 0.0


def _start_s(pace: Pace, processes: int, cpus: float) -> float:
    """Until so many processes have loaded what they need, as many at a time as there are CPUs."""
    return pace.start_s * max(1.0, processes / cpus) if processes else 0.0
