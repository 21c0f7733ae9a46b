"""A chain of stages on several Ray nodes, whose teachers are killed in the middle of its second stage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from ray._private.state import actors

from jobs.faults.machines import STUDENT_CPUS, Machines, machines
from jobs.faults.scenario import Found
from jobs.faults.small_runs import RECIPE, lines, outcome
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options, run

_EPOCHS = 14
_BETWEEN = 4
"""Epochs of the last stage before the first disturbance, and between two of them."""
_STUDENT = "student/replica0"
_TEACHERS = ("first", "wide", "narrow")
_CHAIN: dict[str, Any] = {
    **RECIPE,
    "targets": {"mode": "live"},  # so that teachers are at work for as long as a stage trains
    "stages": [
        {"name": "first", "student": {"model": {"width": 0.5}}},
        {"name": "second", "teachers": list(_TEACHERS), "train": {"epochs": _EPOCHS}},
    ],
    "evaluate": {"controls": ["labels"]},
    "cluster": {
        "student": {"cpus": STUDENT_CPUS, "parallel_fits": 1, "start_timeout_s": 600},
        "teachers": {"cpus": 0, "gpus": 1, "start_timeout_s": 600, "max_restarts": 5},
    },
}
_PASSING = ("seconds", "teacher_samples_scored")
"""What a generation says of its own cost: answers that were asked for again are counted again."""
_POLL_S = 0.1
_PATIENCE_S = 120.0


@dataclass
class _Disturbing:
    """Kills every teacher of the last stage, and some epochs later ends their node.

    Attributes:
        run: the run's folder.
        cluster: its nodes.
        node: whether the node of the teachers is lost, too.
        killed: pids of the teachers that were killed.
        nodes: how many nodes were lost.
    """

    run: Path
    cluster: Machines
    node: bool
    killed: list[int] = field(default_factory=list)
    nodes: int = 0

    def until(self, over: Event) -> None:
        """Disturb where it is time, until the run is over."""
        while not over.wait(_POLL_S):
            epochs = _epochs(self.run)
            if not self.killed and epochs >= _BETWEEN:
                self._kill()
            elif self.node and not self.nodes and epochs >= 2 * _BETWEEN:
                self.cluster.remove(self.cluster.teachers)
                self.cluster.add_teachers()
                self.nodes += 1

    def _kill(self) -> None:
        for one in actors().values():
            if (one["ActorClassName"], one["State"]) == ("TeacherActor", "ALIVE"):
                os.kill(int(one["Pid"]), signal.SIGKILL)
                self.killed.append(int(one["Pid"]))


def _epochs(run: Path) -> int:
    """That the student of the last stage has been trained so far."""
    return sum((one["kind"], one.get("fit")) == ("epoch", _STUDENT) for one in lines(run))


@contextmanager
def _beside(disturbing: _Disturbing) -> Iterator[None]:
    """Disturbs in a thread for the length of a block."""
    over = Event()
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(disturbing.until, over)
        try:
            yield
        finally:
            over.set()
        done.result(_PATIENCE_S)


def kill_teachers_of_chain(folder: Path, quick: bool) -> Found:
    """All teachers of the second stage, the first stage's student among them, are killed; then their node is lost."""
    plain, disturbed = folder / "plain", folder / "run"
    with machines(students=1) as cluster:
        _run(plain, cluster)
        disturbing = _Disturbing(disturbed, cluster, node=not quick)
        with _beside(disturbing):
            _run(disturbed, cluster)
    wanted, found = _found(plain), _found(disturbed)
    told = [one for one in lines(disturbed) if one["kind"] == "failure"]
    differing = [name for name in wanted if wanted[name] != found[name]]
    node = " and their node lost" if disturbing.nodes else ""
    text = f"{len(disturbing.killed)} teachers killed{node} in the second stage, {len(told)} failures told; "
    text += f"{len(wanted['students'])} students of stages and control "
    text += f"DIFFER in {', '.join(differing)}" if differing else "bit-identical, summary as undisturbed"  # fmt: skip
    whole = len(disturbing.killed) == len(_TEACHERS) and disturbing.nodes == int(not quick)
    return Found(text, passed=whole and bool(told) and not differing)


def _run(output: Path, cluster: Machines) -> None:
    """The chain, in a home of its own, so that nothing of another run is used."""
    os.environ["RAYKD_HOME"] = str(output.with_name(f"home-{output.name}"))
    run(_CHAIN, Options(output=output, address=cluster.address))


def _found(output: Path) -> Mapping[str, Any]:
    """What a chain has come to, without its cost: weights of every student, and all numbers."""
    files = sorted(output.glob("**/checkpoints/*/replica*/best.safetensors"))
    students = {str(f.relative_to(output)): fingerprint(load_weights(f, key="best")) for f in files}
    generations = read_json(RunFolder(output).summary)["generations"]
    rows = [{k: v for k, v in one.items() if k not in _PASSING} for one in generations]
    return {**outcome(output), "students": students, "generations": rows}
