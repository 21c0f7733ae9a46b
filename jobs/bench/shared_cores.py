"""Teachers on the student's own cores: what raykd adds to their arithmetic, live and ahead of training.

To be taken on a machine that does nothing else: beside other work a loop with all cores loses most, since its
threads wait for each other in every operation, and raykd would look better than it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from jobs.bench.fleets import CLASSES, client_of, fill_s, fleet_of, silent
from jobs.bench.measuring import Row, Sizes, paired
from jobs.bench.ratios import COUNT, STUDENT, TEACHERS, Cost, cost
from jobs.bench.synthetic import Bench, recipe
from raykd.folders import RunFolder
from raykd.runtime import connect, machine
from raykd.targets import Ticket
from raykd.teachers import ActorFleet, LiveTargets
from raykd.teachers.model import Spec, TeacherModel
from raykd.train.fit import build_network
from raykd.types import Batch, Dense, TeacherOutputs

_FILLED = 8
"""Most views filled at a time, divided by the teachers' cost: the cheaper, the more, to be at work for as long."""


def shared(sizes: Sizes) -> list[Row]:
    """Live training and the fill, each beside a loop over the same models in one process with all cores."""
    with connect(None):
        return [row for name in TEACHERS for row in _at(TEACHERS[name], sizes)]


@dataclass(frozen=True)
class InProcess:
    """What one would write without a fleet: every teacher looks at the batch that the student gets."""

    models: Mapping[str, TeacherModel]

    def submit(self, batch: Batch) -> Ticket:
        """Nothing happens ahead."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """The teachers' logits as they are: neither encoded nor stored."""
        inputs, valid_N = ticket.batch.inputs, torch.ones(len(ticket.batch), dtype=torch.bool)
        with torch.inference_mode():
            said = {name: model.network(inputs) for name, model in self.models.items()}
        return {
            name: Dense(kind="logits", values_NC=logits_NC.clone(), valid_N=valid_N)
            for name, logits_NC in said.items()
        }


def _at(teacher: Mapping[str, Any], sizes: Sizes) -> list[Row]:
    cores, names = int(machine().cpus), [f"t{k}" for k in range(COUNT)]
    teachers = [{"name": name, "model": dict(teacher), "fit": {"epochs": 1, "seed": k}}
                for k, name in enumerate(names)]  # fmt: skip
    config = recipe(sizes.samples, CLASSES, teachers, dict(STUDENT), sizes.units)
    before = torch.get_num_threads()
    with TemporaryDirectory() as root:
        bench = Bench.of(config, RunFolder(Path(root) / "run"))
        rows = bench.samples.splits["train"]
        with fleet_of(bench, cpus=cores / COUNT) as fleet:
            models = {n: TeacherModel(s) for n, s in fleet.specs.items() if isinstance(s, Spec)}
            found = _cost(bench, models, cores)
            student = max(1, round(cores / (1 + found.ratio)))
            views = max(1, round(_FILLED / max(1.0, found.ratio)))
            times: dict[str, list[float]] = {"live": [], "loop": [], "fill": [], "bare": []}
            for repeat in range(1 + sizes.repeats):
                torch.set_num_threads(student)
                times["live"].append(_live_s(bench, fleet, names, repeat))
                torch.set_num_threads(cores)
                times["loop"].append(
                    bench.fit_s(f"loop/replica{repeat}", InProcess(models), names, silent)
                )
                times["bare"].append(_bare_s(list(models.values()), bench, rows, views))
                store = Path(root) / f"store{repeat}"
                times["fill"].append(fill_s(store, bench, fleet, rows, views))
    torch.set_num_threads(before)
    return table(times, found)


def table(times: Mapping[str, Sequence[float]], found: Cost) -> list[Row]:
    """The rows of one cost.

    Args:
        times: seconds of each repeat, a first one that only warms up included, of training `live` and by
            the `loop` in process, of the `fill` and of the `bare` inference loop.
        found: what the models cost.
    """
    warm = {what: seconds[1:] for what, seconds in times.items()}
    return [
        paired(f"live on shared cores / in-process loop ({found})", warm["live"], warm["loop"],
               bar="<= 1.15"),
        paired(f"fill rate / bare inference loop ({found})", warm["bare"], warm["fill"],
               bar=">= 0.9"),
    ]  # fmt: skip


def _cost(bench: Bench, models: Mapping[str, TeacherModel], cores: int) -> Cost:
    fit = bench.fit("labels/replica0", [])
    batch = bench.samples.batch(fit.plan.rows[: fit.plan.batch_size], 0)
    teachers = [model.network for model in models.values()]
    student = build_network(fit, bench.samples)
    return cost(teachers, student, batch.inputs, batch.labels, cores)


def _live_s(bench: Bench, fleet: ActorFleet, names: Sequence[str], repeat: int) -> float:
    source = LiveTargets(client_of(fleet, names), names)
    return bench.fit_s(f"live/replica{repeat}", source, names, silent)


def _bare_s(models: Sequence[TeacherModel], bench: Bench, rows: np.ndarray, views: int) -> float:
    """What one would write without a fleet: each batch made once, and shown to each model, with all cores."""
    begun, batch = time.perf_counter(), bench.prepared.config.train.batch_size
    with torch.inference_mode():
        for view in range(views):
            for start in range(0, len(rows), batch):
                inputs = bench.samples.batch(rows[start : start + batch], view).inputs
                for model in models:
                    model.network(inputs)
    return time.perf_counter() - begun
