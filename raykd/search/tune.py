"""Ray Tune shell: each trial is a plain Tune function, in one process, that runs the one training loop.

Tune starts trials, keeps the cluster busy, replaces lost processes and ends trials. What is tried, which
trial stops and what is remembered is decided by a `Control` in the driver, which knows nothing of Ray:
Tune's own checkpoints are never read, so resuming does not depend on them. A trial asks for nothing but
its own CPUs and GPUs and starts no actor, so no ratio of trials and CPUs can deadlock.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.tune
import torch
from ray.tune import search

from raykd.data import Samples
from raykd.errors import RaykdError
from raykd.targets import TargetSource
from raykd.tracking import Event, JsonLines
from raykd.train import Fit, World, train
from raykd.train.checkpoint import FitFolder

MakeSource = Callable[[Samples, Fit], TargetSource]
CHECKPOINT = "checkpoint"
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl has it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C as everywhere else
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads them
    "RAY_AIR_NEW_OUTPUT": "0",
}


class Control(Protocol):
    """Decides; called in the driver, by one thread."""

    def launch(self) -> tuple[str, Fit] | None:
        """Name and fit of the next trial; None when there is none left."""
        ...

    def heard(self, name: str, epoch: int, validation: Mapping[str, float]) -> bool:
        """A trial has done an epoch, counted from 1; whether it is to end here."""
        ...

    def finished(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial has trained to its end."""
        ...

    def failed(self, name: str, why: str) -> None:
        """A trial cannot go on."""
        ...

    def over(self) -> bool:
        """Whether all trials are to end now."""
        ...


@dataclass(frozen=True)
class TrialWork:
    """What every trial gets.

    Attributes:
        samples: object reference of the data.
        make_source: gives a fit its targets; called in the trial.
        folder: of all trials.
        emit: passes an event to the driver; callable from the trial.
        depth: batches asked for ahead.
        threads: of torch, in each trial.
    """

    samples: Any
    make_source: MakeSource
    folder: Path
    emit: Callable[[Event], None]
    depth: int
    threads: int


@dataclass(frozen=True)
class TrialPlace:
    """What trials may take: `concurrent` of them, each with so many CPUs and GPUs."""

    concurrent: int
    cpus: float
    gpus: float
    max_failures: int


def run_trials(control: Control, most: int, work: TrialWork, place: TrialPlace, own: Path) -> None:
    """Run what `control` launches, until it launches nothing more or says that it is over.

    Args:
        control: decides.
        most: trials that it may launch.
        work: what every trial gets.
        place: what trials may take.
        own: folder for Tune's own files; emptied before.
    """
    shutil.rmtree(own, ignore_errors=True)
    held = _Held(control)
    trial = ray.tune.with_parameters(_trial, work=work)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trial, {"CPU": place.cpus, "GPU": place.gpus}),
        tune_config=ray.tune.TuneConfig(
            num_samples=most,
            max_concurrent_trials=place.concurrent,
            search_alg=_Launches(held),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=own.name,
            storage_path=str(own.parent),
            stop=_Stops(held),
            callbacks=[_Losses(held)],
            failure_config=ray.tune.FailureConfig(max_failures=place.max_failures),
            verbose=0,
        ),
    )
    with _quietly():
        tuner.fit()


class _Held:
    """Keeps the control out of Tune's own checkpoints, which pickle whatever refers to it."""

    def __init__(self, control: Control | None) -> None:
        self._control = control

    def __call__(self) -> Control:
        assert self._control is not None, "a copy from Tune's checkpoint, which nobody uses"
        return self._control

    def __reduce__(self) -> tuple[type[_Held], tuple[None]]:
        return _Held, (None,)

    def __copy__(self) -> _Held:
        return self

    def __deepcopy__(self, memo: Any) -> _Held:
        return self


class _Launches(search.Searcher):  # type: ignore[misc]
    """Tune asks it for the next trial."""

    def __init__(self, held: _Held) -> None:
        super().__init__()
        self._held = held

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        launched = self._held().launch()
        if launched is None:
            return search.Searcher.FINISHED
        name, fit = launched
        return {"trial": name, "fit": ray.put(fit)}

    def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
        """The control has heard of it before."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' own folders are what a resumed search goes by."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Stops(ray.tune.Stopper):  # type: ignore[misc]
    """Tune shows it what a trial reports."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:  # noqa: ARG002
        control, told = self._held(), result.get("told")
        if told == "epoch":
            return control.heard(result["trial"], result["epoch"], result["validation"])
        if told == "finished":
            control.finished(result["trial"], result["result"])
        elif told == "failed":
            control.failed(result["trial"], result["why"])
        return False

    def stop_all(self) -> bool:
        return self._held().over()


class _Losses(ray.tune.Callback):  # type: ignore[misc]
    """Tune tells it of trials whose process was lost more often than allowed."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
        why = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
        self._held().failed(trial.config["trial"], why)


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
            numbers = {"epoch": event.epoch, "validation": dict(event.values["validation"])}
            ray.tune.report({"told": "epoch", "trial": self.name, **numbers})

    def folder(self, fit_id: str) -> FitFolder:  # noqa: ARG002 (a trial has one fit)
        """`trials/<name>/checkpoint`."""
        return FitFolder(self.path / CHECKPOINT)


def _trial(config: dict[str, Any], work: TrialWork) -> None:
    """Runs in a process of its own, which may run other trials before and after."""
    samples, fit = ray.get([work.samples, config["fit"]], timeout=600)
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


@contextmanager
def _quietly() -> Iterator[None]:
    """Tune's settings, which it reads from the environment, and its log lines put aside."""
    before = {name: os.environ.get(name) for name in _SETTINGS}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(_SETTINGS)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
