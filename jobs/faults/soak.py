"""Ten thousand steps with live teachers, one of which is killed every five hundred: nothing grows, nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch

from jobs.bench.fleets import fleet_of, silent
from jobs.bench.synthetic import Bench, recipe
from jobs.faults.scenario import Found
from raykd.folders import RunFolder
from raykd.runtime import connect
from raykd.targets import NoTargets, TargetSource, Ticket
from raykd.teachers import LiveTargets
from raykd.teachers.client import Client
from raykd.train import FolderReporter, World, train
from raykd.types import Batch, LearntOutputs

_EVERY = 500
_BATCH, _SAMPLES, _CLASSES = 32, 4096, 10
_WARM = 0.2
_MOST_GROWTH = 0.05
_SETTLED_S = 60.0
_FEW, _LITTLE_BYTES = 2, 1e6


@dataclass
class _Soaked:
    """A live source whose actors are killed in turn; measures this process on the way.

    Attributes:
        source: what answers.
        actors: all of the fleet.
        every: steps from one kill to the next.
        samples: (resident bytes, open files, bytes in the object store) halfway between two kills.
        kills: so far.
        collected: answers so far.
    """

    source: TargetSource
    actors: Sequence[Any]
    every: int
    samples: list[tuple[int, int, float]] = field(default_factory=list)
    kills: int = 0
    collected: int = 0

    def submit(self, batch: Batch) -> Ticket:
        """As the source."""
        return self.source.submit(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """As the source, some time after a kill."""
        self.collected += 1
        if self.collected % self.every == 0:
            actor = self.actors[self.kills % len(self.actors)]
            os.kill(ray.get(actor.alive.remote(), timeout=60), signal.SIGKILL)
            self.kills += 1
        if self.collected % self.every == self.every // 2:
            self.samples.append(_measure())
        return self.source.collect(ticket, timeout_s)


def _measure() -> tuple[int, int, float]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(list(Path("/proc/self/fd").iterdir())),
        _in_store(),
    )


def _in_store() -> float:
    total, free = ray.cluster_resources(), ray.available_resources()
    return float(total["object_store_memory"] - free.get("object_store_memory", 0.0))


def soak(folder: Path, quick: bool) -> Found:
    """Steps of a student beside the actors of two teachers, as live training takes them."""
    steps, every = (400, 100) if quick else (10_000, _EVERY)
    model = {"type": "mlp", "width": 0.25, "depth": 1}
    named = [{"name": n, "model": model, "fit": {"epochs": 1}} for n in ("one", "other")]
    rows = _SAMPLES - 2 * (_SAMPLES // 16)
    epochs = -(-steps // -(-rows // _BATCH))
    bench = Bench.of(recipe(_SAMPLES, _CLASSES, named, model, _BATCH, epochs), RunFolder(folder))
    torch.set_num_threads(1)
    with connect(None):
        before = _actors(), _in_store()
        soaked = _trained(bench, every)
        left = _settled(*before)
    return _judged(soaked, left, steps)


def _trained(bench: Bench, every: int) -> _Soaked:
    """What was seen of one fit; nothing of it holds an actor or an object any more."""
    with fleet_of(bench, cpus=0.5) as fleet:
        actors = [one for replicas in fleet.actors.values() for one in replicas]
        client = Client(fleet.actors, fleet.settings, silent)
        source = _Soaked(LiveTargets(client, list(fleet.actors)), actors, every)
        fit = bench.fit("student/replica0", list(fleet.actors))
        train(fit, bench.samples, source, FolderReporter(bench.folder, silent), World())
    return replace(source, source=NoTargets(), actors=())


def _judged(soaked: _Soaked, left: tuple[int, float], steps: int) -> Found:
    warm = soaked.samples[max(1, int(_WARM * len(soaked.samples))) - 1 :]
    growth = warm[-1][0] / warm[0][0] - 1
    files, objects = [one[1] for one in warm], [one[2] for one in warm]
    said = f"{soaked.collected:,} live steps, {soaked.kills} kills; memory {growth:+.1%} after a fifth of them, "
    said += f"open files {files[0]} → {files[-1]} (most {max(files)}), object store "
    said += f"{objects[0] / 1e6:.1f} → {objects[-1] / 1e6:.1f} MB (most {max(objects) / 1e6:.1f}); left: "
    said += f"{left[0]} actors, {left[1] / 1e6:.1f} MB"
    flat = files[-1] <= files[0] + _FEW and objects[-1] <= objects[0] + _LITTLE_BYTES
    gone = left[0] == 0 and left[1] < _LITTLE_BYTES
    return Found(said, soaked.collected >= steps and growth < _MOST_GROWTH and flat and gone)


def _actors() -> int:
    from ray._private.state import actors

    return sum(one["State"] not in ("DEAD",) for one in actors().values())


def _settled(actors: int, stored: float) -> tuple[int, float]:
    """Actors and bytes more than before, once they have had time to go."""
    gc.collect()
    until = time.monotonic() + _SETTLED_S
    while (_actors() > actors or _in_store() > stored + 1) and time.monotonic() < until:
        time.sleep(0.5)
    return _actors() - actors, _in_store() - stored
