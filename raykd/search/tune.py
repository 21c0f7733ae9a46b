"""Ray Tune shell: each trial is a plain Tune function, in one process or over several workers of its own.

Tune starts trials, keeps the cluster busy, replaces lost processes and ends trials. What is tried, which
trial stops and what is remembered is decided by the `Ledger` in the driver, which knows nothing of Ray:
Tune's own checkpoints are never read, so resuming does not depend on them. A trial of one worker asks only
for its own CPUs and GPUs, one of several workers only for their one placement group, so no ratio of trials,
workers and CPUs can deadlock.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.tune import search

from raykd.config.root import StudentCluster
from raykd.errors import DiskError
from raykd.search.ledger import Ledger
from raykd.search.trials import (
    multi_worker_trial,
    new_relay,
    remove_orphaned_groups,
    single_worker_trial,
    wait_for_controllers,
)
from raykd.train.work import Work

_CLEANUP_S = 0.5
_MEMORY_BYTES = 2**20
"""Of the process of a trial of several workers: Tune requires it to ask for something, and every node has this."""
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl has everything
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C as everywhere else
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads them
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class TrialResources:
    """What trials may use: `concurrent` of them side by side, each with the workers of `student`."""

    concurrent: int
    student: StudentCluster

    @property
    def multi_worker(self) -> bool:
        """Whether a trial has several workers."""
        return self.student.most > 1


def run_trials(ledger: Ledger, work: Work, resources: TrialResources, folder: Path) -> None:
    """Run the trials of the ledger, until there is none left or the search is over.

    Args:
        ledger: decides; called by one thread.
        work: of the sweep, the same for every trial.
        resources: what trials may use.
        folder: for Tune's own files; emptied before.

    Raises:
        RaykdError: a disk was full; trials that had not ended go on with `resume`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    run_config = ray.tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent),
        stop=_Stopper(ledger),
        callbacks=[_Callback(ledger, cleanup=resources.multi_worker)],
        failure_config=ray.tune.FailureConfig(max_failures=resources.student.max_failures),
        verbose=0,
    )
    tune_config = ray.tune.TuneConfig(
        num_samples=ledger.left,
        max_concurrent_trials=resources.concurrent,
        search_alg=_Launcher(ledger),
        reuse_actors=not resources.multi_worker,
    )
    with _trainable(work, resources) as trial, _quietly():
        ray.tune.Tuner(trial, tune_config=tune_config, run_config=run_config).fit()
    ledger.check_room()


@contextmanager
def _trainable(work: Work, resources: TrialResources) -> Iterator[Any]:
    """The function of a trial with what its own process uses; cleans up after trials of several workers."""
    student = resources.student
    if not resources.multi_worker:
        trial = ray.tune.with_parameters(single_worker_trial, work=work)
        yield ray.tune.with_resources(trial, {"CPU": student.cpus_each, "GPU": student.gpus})
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


class _Launcher(search.Searcher):  # type: ignore[misc]
    """Tune asks it for the next trial."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        try:
            launched = self._ledger.launch()
        except DiskError as error:
            self._ledger.halt(str(error))
            launched = None
        if launched is None:
            return search.Searcher.FINISHED
        name, fit = launched
        return {"trial": name, "fit": ray.put(fit)}

    def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
        """The ledger knows of it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search reads the trials' own folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Stopper(ray.tune.Stopper):  # type: ignore[misc]
    """Tune shows it what a trial reports."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:  # noqa: ARG002
        try:
            return self._told(result)
        except DiskError as error:  # Tune would take it for the trial's, and try again
            self._ledger.halt(str(error))
            return True

    def _told(self, result: Mapping[str, Any]) -> bool:
        ledger, state = self._ledger, result.get("state")
        if state == "epoch":
            return ledger.on_epoch(result["trial"], result["epoch"], result["validation"])
        if state == "finished":
            ledger.on_finished(result["trial"], result["result"])
        elif state == "failed":
            ledger.on_failed(result["trial"], result["why"])
        elif state == "no_room":
            ledger.halt(result["why"])
        return False

    def stop_all(self) -> bool:
        return self._ledger.over()


class _Callback(ray.tune.Callback):  # type: ignore[misc]
    """Reports trials whose process was lost too often, and frees what ended trials of several workers held."""

    def __init__(self, ledger: Ledger, *, cleanup: bool) -> None:
        self._ledger = ledger
        self._next_cleanup = time.monotonic() if cleanup else math.inf

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ARG002
        why = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
        try:
            self._ledger.on_failed(trial.config["trial"], why)
        except DiskError as error:
            self._ledger.halt(str(error))

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:  # noqa: ARG002
        if time.monotonic() >= self._next_cleanup:
            remove_orphaned_groups()
            self._next_cleanup = time.monotonic() + _CLEANUP_S


@contextmanager
def _quietly() -> Iterator[None]:
    """Tune's settings, which it reads from the environment, and without its log lines."""
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
