"""Ray Tune shell: each trial is a plain Tune function, in one process or over several workers of its own.

Tune starts trials, keeps the cluster busy, replaces lost processes and ends trials. What is tried, which
trial stops and what is remembered is decided by a `Control` in the driver, which knows nothing of Ray:
Tune's own checkpoints are never read, so resuming does not depend on them. A trial of one worker asks for
nothing but its own CPUs and GPUs, one of several for nothing but their one placement group, so no ratio of
trials, workers and CPUs can deadlock.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.tune
from ray.tune import search

from raykd.config.root import StudentCluster
from raykd.search.multi_worker import multi_worker_trial, new_relay
from raykd.search.placement_group_cleanup import remove_orphaned_groups, wait_for_controllers
from raykd.search.single_worker import TrialWork, single_worker_trial
from raykd.train import Fit

_TIDY_S = 0.5
_MEMORY_BYTES = 2**20
"""Of the process of a trial of several workers: Tune wants it to ask for something, and every node has this."""
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
class TrialPlace:
    """What trials may take: `concurrent` of them side by side, each with the workers of `student`."""

    concurrent: int
    student: StudentCluster

    @property
    def team(self) -> bool:
        """Whether a trial has several workers."""
        return self.student.most > 1


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
    run_config = ray.tune.RunConfig(
        name=own.name,
        storage_path=str(own.parent),
        stop=_Stops(held),
        callbacks=[_Losses(held), *([_Tidy()] if place.team else [])],
        failure_config=ray.tune.FailureConfig(max_failures=place.student.max_failures),
        verbose=0,
    )
    tune_config = ray.tune.TuneConfig(
        num_samples=most,
        max_concurrent_trials=place.concurrent,
        search_alg=_Launches(held),
        reuse_actors=not place.team,
    )
    with _trainable(work, place) as trial, _quietly():
        ray.tune.Tuner(trial, tune_config=tune_config, run_config=run_config).fit()


@contextmanager
def _trainable(work: TrialWork, place: TrialPlace) -> Iterator[Any]:
    """The function of a trial with what its own process takes; cleans up after trials of several workers."""
    student = place.student
    if not place.team:
        trial = ray.tune.with_parameters(single_worker_trial, work=work)
        yield ray.tune.with_resources(trial, {"CPU": student.cpus, "GPU": student.gpus})
        return
    relay = new_relay()
    try:
        trial = ray.tune.with_parameters(
            multi_worker_trial, work=work, student=student, relay=relay
        )
        yield ray.tune.with_resources(trial, {"CPU": 0, "memory": _MEMORY_BYTES})
        wait_for_controllers()
    finally:
        ray.kill(relay)


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


class _Tidy(ray.tune.Callback):  # type: ignore[misc]
    """Frees what ended trials of several workers held, so that the next ones find room."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:  # noqa: ARG002
        if time.monotonic() >= self._next:
            remove_orphaned_groups()
            self._next = time.monotonic() + _TIDY_S


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
