"""What it costs to ask teachers live, and how fast they fill the store: real actors on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from raykd.bench.measuring import Row, Sizes, paired, row_of
from raykd.bench.synthetic import Bench, recipe
from raykd.folders import RunFolder
from raykd.pipeline.serving import make_specs, store_keys
from raykd.runtime import connect, machine, put
from raykd.targets import NoTargets
from raykd.teachers import Fleet, LiveTargets
from raykd.teachers.client import Client
from raykd.teachers.filling import fill, missing_parts
from raykd.teachers.model import Spec, TeacherModel
from raykd.teachers.pool import Place
from raykd.tracking import Event

_CLASSES = 100
_STUDENT = {"type": "cnn", "width": 0.34, "depth": 3}
_TEACHER = {"type": "resnet", "width": 1.0, "depth": 8}
_SERVICE = 0.5
"""Simulated service time, as a part of the student's step."""


def live(sizes: Sizes) -> list[Row]:
    """Teachers that only take time, then real ones that fill the store on the student's own cores."""
    torch.set_num_threads(1)
    with connect(None):
        return [*_simulated(sizes), *_fill_rate(sizes)]


def _simulated(sizes: Sizes) -> list[Row]:
    with TemporaryDirectory() as root:
        alone = Bench.of(_sleepers(sizes, 1, 1.0), RunFolder(Path(root) / "warm"))
        seconds, _ = alone.epoch_s("labels/replica0", NoTargets(), [])
        step_ms = 1000 * seconds * sizes.units / len(alone.samples.splits["train"])
        service_ms = _SERVICE * step_ms
        bench = Bench.of(_sleepers(sizes, 4, service_ms), RunFolder(Path(root) / "run"))
        names = list(bench.prepared.teachers)
        found: dict[str, list[float]] = {"labels": [], "one": [], "four": []}
        waits: list[float] = []
        with _fleet(bench) as fleet:
            for repeat in range(sizes.repeats):
                for what, heard in (("labels", []), ("one", names[:1]), ("four", names)):
                    source = LiveTargets(_client(fleet, heard), heard) if heard else NoTargets()
                    took, wait = bench.epoch_s(f"{what}/replica{repeat}", source, heard)
                    found[what].append(took)
                    if what == "four":
                        waits.append(100 * wait)
    step = f"student's step {step_ms:.0f} ms, teachers' service {service_ms:.0f} ms"
    return [
        paired(f"labels alone / live, 4 teachers ({step})", found["labels"], found["four"], bar=">= 0.95"),
        {**row_of("exposed teacher wait, 4 teachers", "% of the step", waits), "bar": "< 5"},
        paired("live, 4 teachers / 1 teacher", found["four"], found["one"], bar="<= 1.1"),
    ]  # fmt: skip


def _sleepers(sizes: Sizes, teachers: int, service_ms: float) -> Any:
    path = "raykd.bench.synthetic:sleeper"
    model = {"type": "factory", "path": path, "kwargs": {"service_ms": service_ms}}
    named = [{"name": f"t{k}", "model": model} for k in range(teachers)]
    return recipe(sizes.samples, _CLASSES, named, _STUDENT, sizes.units)


def _fill_rate(sizes: Sizes) -> list[Row]:
    """Samples per second into the store against the bare inference loop on the same cores."""
    cores = int(machine().cpus)
    names = [f"t{k}" for k in range(2)]
    teachers = [{"name": name, "model": _TEACHER, "fit": {"epochs": 1, "seed": k}}
                for k, name in enumerate(names)]  # fmt: skip
    config = recipe(sizes.samples, _CLASSES, teachers, _STUDENT, sizes.units)
    with TemporaryDirectory() as root:
        bench = Bench.of(config, RunFolder(Path(root) / "run"))
        rows = bench.samples.splits["train"]
        with _fleet(bench, cpus=cores / len(names)) as fleet:
            models = [TeacherModel(spec) for spec in fleet.specs.values() if isinstance(spec, Spec)]
            ours, bare = [], []
            for repeat in range(1 + sizes.repeats):
                ours.append(_fill_s(Path(root) / f"store{repeat}", bench, fleet, rows))
                torch.set_num_threads(cores)
                bare.append(_bare_s(models, bench, rows, sizes.units))
                torch.set_num_threads(1)
    return [
        paired(
            "fill rate / bare inference loop, same models and cores",
            bare[1:],
            ours[1:],
            bar=">= 0.9",
        )
    ]


def _fill_s(root: Path, bench: Bench, fleet: Fleet, rows: np.ndarray) -> float:
    begun = time.perf_counter()
    keys = {name: one.augmented for name, one in store_keys(fleet.specs, bench.samples).items()}
    parts = list(missing_parts(root, keys, bench.samples, rows, [0]))
    fill(root, parts, fleet, _silent)
    return time.perf_counter() - begun


def _bare_s(models: Sequence[TeacherModel], bench: Bench, rows: np.ndarray, batch: int) -> float:
    """What one would write without a fleet: each model over each batch, with all cores."""
    begun = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            inputs = bench.samples.batch(part, np.zeros(len(part), np.int64)).inputs
            for model in models:
                model.network(inputs)
    return time.perf_counter() - begun


@contextmanager
def _fleet(bench: Bench, cpus: float = 0.1) -> Iterator[Fleet]:
    weights = {n: c.weights or _fresh(bench, n) for n, c in bench.prepared.teachers.items()}
    specs = make_specs(bench.prepared, weights)
    places = {name: Place(replicas=1, cpus=cpus, gpus=0.0) for name in specs}
    settings = bench.prepared.config.cluster.teachers
    with Fleet(specs, places, put(bench.samples), settings, _silent) as fleet:
        yield fleet


def _fresh(bench: Bench, name: str) -> Any:
    """Untrained weights: a teacher's speed does not depend on what it has learnt."""
    from raykd.models import build_model

    settings = bench.prepared.teachers[name].settings
    assert settings.model is not None, "made-up teachers have a model"
    shape = bench.samples.input_shape
    model = build_model(settings.model, input_shape=shape, classes=_CLASSES, key=name)
    return dict(model.state_dict())


def _client(fleet: Fleet, names: Sequence[str]) -> Client:
    return Client({name: fleet.actors[name] for name in names}, fleet.settings, _silent)


def _silent(event: Event) -> None:
    """Nobody listens to a benchmark."""
