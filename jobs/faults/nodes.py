"""Nodes that are lost, taken back with notice, added, and a head that is restarted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.fleets import fresh
from jobs.faults.machines import STUDENT_CPUS, Machines, machines
from jobs.faults.scenario import Found
from jobs.faults.students import STEPS_PER_EPOCH, TEACHERS, Lesson, lesson, rank_of_worker
from raykd.config.root import StudentCluster, TeacherCluster
from raykd.data import Samples
from raykd.folders import RunFolder
from raykd.runtime import Mailbox, put
from raykd.targets import TargetSource
from raykd.teachers import ActorFleet, LiveTargets, TeacherResources
from raykd.teachers.client import Client
from raykd.testing.sources import Recorded, record_of
from raykd.tracking import Event
from raykd.train import Fit, Plan
from raykd.train.launch import run_fits
from raykd.train.work import Work

_SETTINGS = TeacherCluster(request_timeout_s=5, start_timeout_s=120, max_restarts=5)
_PAUSE_S = 0.25
_NOTICE_S = 15.0
_PATIENCE_S = 120.0
_AHEAD = 1  # the answer that is got ready while a step is computed
_SAVED = re.compile(r"saved after step (\d+),")


@dataclass
class Watched:
    """What is seen of a fit while it is trained on nodes.

    Attributes:
        plan: its order.
        record: file of the rows that its workers trained on.
        heard: its events.
    """

    plan: Plan
    record: Path
    heard: list[Event] = field(default_factory=list)

    def decisions(self) -> list[str]:
        """About the student's workers."""
        failures = [e for e in self.heard if e.kind == "failure" and e.stage == "student"]
        return [str(event.values["decision"]) for event in failures]

    def sizes(self) -> list[int]:
        """Workers of each group."""
        texts = [e.values["text"].split() for e in self.heard if e.kind == "message"]
        return [int(words[1]) for words in texts if words[0] == "student:"]

    def reached(self) -> int:
        """Steps of the whole fit that rank 0 has answers for."""
        return max((step + 1 for _, step in self._steps()), default=0)

    def moved(self) -> list[tuple[int, int]]:
        """(step after which a group saved and stopped, step after which the next one went on)."""
        said = [str(e.values["message"]) for e in self.heard if e.values.get("decision") == "move"]
        saved = [int(found[1]) for one in said if (found := _SAVED.search(one))]
        resumed = [e.step for e in self.heard if e.values.get("state") == "resumed"]
        return list(zip(saved, [step or 0 for step in resumed], strict=False))

    def lost(self) -> list[int]:
        """Answers that each group but the first asked for again; negative = left out."""
        found, reached, known = [], 0, set[int]()
        for pid, step in self._steps():
            if pid not in known and known:
                found.append(reached - step)
            known.add(pid)
            reached = max(reached, step + 1)
        return found

    def _steps(self) -> list[tuple[int, int]]:
        """(pid, step of the whole fit) of rank 0, which holds the first rows of each batch."""
        lines = [line for line in record_of(self.record) if line["rank"] == 0]
        firsts: dict[tuple[int, int], int] = {}
        for epoch in range(1 + max((line["views"][0] for line in lines), default=0)):
            for step in range(STEPS_PER_EPOCH):
                rows, views = self.plan.batch(epoch, step)
                firsts[int(rows[0]), int(views[0])] = epoch * STEPS_PER_EPOCH + step
        return [(line["pid"], firsts[line["rows"][0], line["views"][0]]) for line in lines]


@dataclass(frozen=True)
class _Asking:
    """Gives a fit live teachers, and writes down what it is answered."""

    actors: Mapping[str, Any]
    emit: Callable[[Event], None]
    record: Path

    def __call__(self, samples: Samples, fit: Fit) -> TargetSource:  # noqa: ARG002 (they have it)
        client = Client(self.actors, _SETTINGS, self.emit)
        live = LiveTargets(client, [teacher.name for teacher in fit.teacher_infos])
        rank = rank_of_worker()
        return Recorded(live, self.record, rank, _PAUSE_S)


@contextmanager
def _fleet(given: Lesson, emit: Callable[[Event], None]) -> Iterator[ActorFleet]:
    """Two actors of each teacher, on nodes that have GPUs."""
    weights = {name: fresh(given.bench, name) for name in TEACHERS}
    specs = given.bench.prepared.specs(weights)
    places = {name: TeacherResources(replicas=2, cpus=0, gpus=1) for name in specs}
    with ActorFleet(specs, places, put(given.samples), _SETTINGS, emit) as fleet:
        yield fleet


def _train(
    folder: Path,
    lessons: Sequence[Lesson],
    cluster: StudentCluster,
    disturb: Callable[[Watched], None],
) -> tuple[Watched, dict[str, Any]]:
    """Train on the nodes that there are while a thread disturbs."""
    given = lessons[0]
    watched = Watched(given.fit.plan, folder / "record.jsonl")
    mailbox = Mailbox(watched.heard.append)
    thread = ThreadPoolExecutor(1)
    fits = [one.fit for one in lessons]
    try:
        with _fleet(given, mailbox.sender) as fleet:
            make = _Asking(fleet.actors, mailbox.sender, watched.record)
            work = Work(
                put(given.samples), put(fits), make, RunFolder(folder / "run"), mailbox.sender, 2
            )
            disturbing = thread.submit(disturb, watched)
            results = run_fits(work, fits, cluster)
            disturbing.result(timeout=_PATIENCE_S)
    finally:
        thread.shutdown(wait=False)
        mailbox.close()
    return watched, results


def _until(condition: Callable[[], bool]) -> None:
    """Wait.

    Raises:
        TimeoutError: it did not come true within two minutes.
    """
    until = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.05)


def lose_nodes(folder: Path, quick: bool) -> Found:
    """One node after the other ends without a word, one of teachers among them; another one takes its place."""
    removals, epochs = (2, 5) if quick else (10, 24)
    given = lesson(folder / "bench", epochs)
    draw = np.random.default_rng(0)
    removed: list[int] = []

    def disturb(watched: Watched, cluster: Machines) -> None:
        for number in range(removals):
            goal = watched.reached() + int(draw.integers(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH))
            _until(lambda goal=goal: watched.reached() >= goal)  # type: ignore[misc]
            if number % 5 == 1:
                cluster.remove(cluster.teachers)
                cluster.add_teachers()
            else:
                cluster.remove(cluster.students[int(draw.integers(2))])
                cluster.add_student()
            removed.append(goal)

    with machines(students=2) as cluster:
        workers = StudentCluster(workers=(1, 2), cpus=STUDENT_CPUS, max_failures=removals)
        watched, results = _train(folder, [given], workers, partial(disturb, cluster=cluster))
    lost, steps = watched.lost(), epochs * STEPS_PER_EPOCH
    whole = results[given.fit.fit_id]["steps"] == steps
    said = (
        f"{len(removed)} of {removals} nodes lost; {len(lost)} restarts, answers asked for again "
    )
    said += f"{lost}, an interval is {STEPS_PER_EPOCH}; {steps} steps trained, groups of {watched.sizes()}"
    kept = all(0 <= answers <= STEPS_PER_EPOCH + _AHEAD for answers in lost)
    return Found(said, whole and kept and bool(lost) and len(removed) == removals)


def take_back(folder: Path, quick: bool) -> Found:
    """A node of a student worker is taken back, with notice; another one is there."""
    times, epochs = (1, 9) if quick else (3, 26)
    given = lesson(folder / "bench", epochs)
    removed: list[int] = []

    def disturb(watched: Watched, cluster: Machines) -> None:
        for _ in range(times):
            goal = watched.reached() + STEPS_PER_EPOCH + 4
            _until(lambda goal=goal: watched.reached() >= goal)  # type: ignore[misc]
            victim = cluster.students[0]  # all of them have a worker by now
            cluster.add_student()
            cluster.give_notice(victim, _NOTICE_S)
            time.sleep(_NOTICE_S)
            cluster.remove(victim)
            removed.append(goal)

    with machines(students=2) as cluster:
        workers = StudentCluster(workers=2, cpus=STUDENT_CPUS, max_failures=0)
        watched, results = _train(folder, [given], workers, partial(disturb, cluster=cluster))
    moved, decisions = watched.moved(), watched.decisions()
    said = f"{len(removed)} nodes taken back, {_NOTICE_S:g} s notice; saved after and gone on from steps "
    said += f"{moved}; decisions {', '.join(decisions) or 'none'}, with max_failures 0"
    exact = len(moved) == times and all(saved == resumed for saved, resumed in moved)
    order = all(0 <= answers <= _AHEAD for answers in watched.lost())
    passed = exact and order and decisions == ["move"] * times and len(removed) == times
    return Found(said, passed and results[given.fit.fit_id]["steps"] == epochs * STEPS_PER_EPOCH)


def grow(folder: Path, quick: bool) -> Found:
    """Two fits begin on the one node there is; a second one comes."""
    epochs = 3 if quick else 5
    first = lesson(folder / "bench", epochs)
    second = lesson(folder / "bench", epochs, "student/replica1")

    def disturb(watched: Watched, cluster: Machines) -> None:
        _until(lambda: watched.reached() >= STEPS_PER_EPOCH // 2)
        cluster.add_student()

    with machines(students=1) as cluster:
        workers = StudentCluster(workers=(1, 2), cpus=STUDENT_CPUS, max_failures=0)
        watched, results = _train(
            folder, [first, second], workers, partial(disturb, cluster=cluster)
        )
    said = f"groups of {watched.sizes()} workers; {len(results)} of 2 fits finished, no failure"
    return Found(said, watched.sizes() == [1, 2] and len(results) == 2 and not watched.decisions())
