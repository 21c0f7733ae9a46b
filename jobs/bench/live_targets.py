"""What it costs to ask teachers live that take time, and no processor: real actors on this machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jobs.bench.fleets import CLASSES, client_of, fleet_of
from jobs.bench.measuring import Row, Sizes, paired, row_of
from jobs.bench.synthetic import Bench, recipe
from raykd.config import Config
from raykd.folders import RunFolder
from raykd.runtime import connect
from raykd.targets import NoTargets
from raykd.teachers import LiveTargets

_STUDENT = {"type": "cnn", "width": 0.34, "depth": 3}
_SERVICE = 0.5
"""Simulated service time, as a part of the student's step."""


def live(sizes: Sizes) -> list[Row]:
    """A student's epoch beside labels alone, with one and with four teachers of enough capacity."""
    torch.set_num_threads(1)
    with connect(None):
        return _simulated(sizes)


def _simulated(sizes: Sizes) -> list[Row]:
    with TemporaryDirectory() as root:
        alone = Bench.of(sleepers(sizes, 1, 1.0), RunFolder(Path(root) / "warm"))
        seconds, _ = alone.epoch_s("labels/replica0", NoTargets(), [])
        step_ms = 1000 * seconds * sizes.units / len(alone.samples.splits["train"])
        service_ms = _SERVICE * step_ms
        bench = Bench.of(sleepers(sizes, 4, service_ms), RunFolder(Path(root) / "run"))
        names = list(bench.prepared.teachers)
        found: dict[str, list[float]] = {"labels": [], "one": [], "four": []}
        waits: list[float] = []
        with fleet_of(bench) as fleet:
            for repeat in range(sizes.repeats):
                for what, heard in (("labels", []), ("one", names[:1]), ("four", names)):
                    source = LiveTargets(client_of(fleet, heard), heard) if heard else NoTargets()
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


def sleepers(
    sizes: Sizes, teachers: int, service_ms: float, classes: int = CLASSES, epochs: int = 2
) -> Config:
    """A recipe whose teachers take a given time for a batch."""
    path = "jobs.bench.synthetic:sleeper"
    knobs = {"classes": classes, "service_ms": service_ms}
    model = {"type": "factory", "path": path, "kwargs": knobs}
    named = [{"name": f"t{k}", "model": model} for k in range(teachers)]
    return recipe(sizes.samples, classes, named, _STUDENT, sizes.units, epochs)
