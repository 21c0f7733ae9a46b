"""What runs in a trial's own process: the one training loop, its progress told to Tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.tune
import torch

from raykd.data import Samples
from raykd.errors import RaykdError
from raykd.targets import TargetSource
from raykd.tracking import Event, JsonLines
from raykd.train import Fit, World, train
from raykd.train.checkpoint import FitFolder

MakeSource = Callable[[Samples, Fit], TargetSource]
Message = dict[str, Any]
CHECKPOINT = "checkpoint"
FETCH_TIMEOUT_S = 600.0
"""Bound on getting data and fit from the object store."""


@dataclass(frozen=True)
class TrialWork:
    """What every trial gets.

    Attributes:
        samples: object reference of the data.
        make_source: gives a fit its targets; called in the trial.
        folder: of all trials.
        emit: passes an event to the driver; callable from the trial.
        depth: batches asked for ahead.
        threads: of torch, in each process that trains.
    """

    samples: Any
    make_source: MakeSource
    folder: Path
    emit: Callable[[Event], None]
    depth: int
    threads: int


def epoch_message(name: str, event: Event) -> Message:
    """What Tune is told at the end of an epoch."""
    validation = dict(event.values["validation"])
    return {"told": "epoch", "trial": name, "epoch": event.epoch, "validation": validation}


@dataclass(frozen=True)
class TuneReporter:
    """Checkpoints and metrics in the trial's own folder, events to the driver, epochs to Tune.

    Tune answers a report when the driver has heard it, and ends the trial there if it is to stop.
    """

    name: str
    path: Path
    lines: JsonLines
    emit: Callable[[Event], None]

    def report(self, event: Event) -> None:
        """Write, tell, and at the end of an epoch ask whether to go on."""
        self.lines.on(event)
        self.emit(event)
        if event.kind == "epoch":
            ray.tune.report(epoch_message(self.name, event))

    def folder(self, fit_id: str) -> FitFolder:  # noqa: ARG002 (a trial has one fit)
        """`trials/<name>/checkpoint`."""
        return FitFolder(self.path / CHECKPOINT)


def single_worker_trial(config: dict[str, Any], work: TrialWork) -> None:
    """A trial of one worker, in a process which may run other trials before and after."""
    samples, fit = ray.get([work.samples, config["fit"]], timeout=FETCH_TIMEOUT_S)
    name, path = config["trial"], work.folder / config["trial"]
    torch.set_num_threads(work.threads)
    device = torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
    lines = JsonLines(path)
    try:
        reporter = TuneReporter(name, path, lines, work.emit)
        source = work.make_source(samples, fit)
        result = train(fit, samples, source, reporter, World(device=device), depth=work.depth)
    except RaykdError as error:
        ray.tune.report({"told": "failed", "trial": name, "why": str(error)})
    else:
        ray.tune.report({"told": "finished", "trial": name, "result": result})
    finally:
        lines.close(None)
