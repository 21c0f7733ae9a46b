"""Ray Train shell: one trainer works off the list of student fits, several at once where each takes one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from raykd.config.root import StudentCluster
from raykd.data import Samples
from raykd.errors import RaykdError, TrainingError
from raykd.folders import RunFolder
from raykd.targets import TargetSource
from raykd.tracking import Event
from raykd.train.fit import Fit
from raykd.train.loop import train
from raykd.train.reporter import FolderReporter
from raykd.train.world import World

MakeSource = Callable[[Samples, Fit], TargetSource]


@dataclass(frozen=True)
class Work:
    """What every worker of the trainer gets.

    Attributes:
        samples: object reference of the data.
        fits: object reference of the list of fits.
        make_source: gives a fit its targets; called in the worker.
        run: the run folder.
        emit: passes an event to the driver; callable from the worker.
        depth: batches asked for ahead.
        threads: of torch, in each worker.
        lanes: fits trained side by side, each by one worker; 1 = all workers train one fit together.
    """

    samples: Any
    fits: Any
    make_source: MakeSource
    run: RunFolder
    emit: Callable[[Event], None]
    depth: int
    threads: int = 1
    lanes: int = 1


def run_fits(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> dict[str, dict[str, Any]]:
    """Train every fit on Ray Train workers; finished ones are not trained again.

    A lost worker restarts the group, which continues from the last checkpoints.

    Returns:
        fit id -> result.

    Raises:
        TrainingError: a fit failed, or the workers failed more often than allowed.
        KeyboardInterrupt: Ctrl-C, once the workers are ended.
    """
    before = _results(work, fits)
    if len(before) == len(fits):  # starting workers to find nothing to do takes seconds
        return before
    (work.run.path / ".ray").mkdir(parents=True, exist_ok=True)
    _failure(work.run).unlink(missing_ok=True)
    resources = {"CPU": cluster.cpus}
    if cluster.gpus:
        resources["GPU"] = cluster.gpus
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    together = cluster.workers > 1
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus and together else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers if together else work.lanes,
            use_gpu=cluster.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(work.run.path / ".ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        with _interruptible():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        if not _failure(work.run).is_file():
            raise TrainingError(f"student training failed: {error}") from error
    results = _results(work, fits)
    if unfinished := [fit.fit_id for fit in fits if fit.fit_id not in results]:
        why = _failure(work.run)
        cause = why.read_text(encoding="utf-8") if why.is_file() else "see events.jsonl"
        raise TrainingError(
            f"{len(unfinished)} fits did not finish, {unfinished[0]} first: {cause}"
        )
    return results


def _results(work: Work, fits: Sequence[Fit]) -> dict[str, dict[str, Any]]:
    """The results of those fits that are finished."""
    reporter = FolderReporter(work.run, work.emit)
    found = {fit.fit_id: reporter.folder(fit.fit_id).result() for fit in fits}
    wanted = {fit.fit_id: fit.identity for fit in fits}
    return {
        name: result
        for name, result in found.items()
        if result is not None and result["identity"] == wanted[name]
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as everywhere else: Ray Train's own handler exits with status 0, and would stay behind."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:  # raised by that handler alone, when the workers are ended
        raise KeyboardInterrupt from end
    finally:
        if before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _failure(run: RunFolder) -> Path:
    """Where a worker leaves what it failed of, for the driver and for its own restart."""
    return run.path / ".ray" / "failure.txt"


def _worker(config: dict[str, Any]) -> None:
    """Work off the list: all ranks together, or each rank every so-manieth fit."""
    work: Work = config["work"]
    samples, fits = ray.get([work.samples, work.fits], timeout=600)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if work.lanes > 1:
        fits, world = fits[rank::workers], World(device=get_device())
    else:
        world = World(rank, workers, get_device())
    torch.set_num_threads(work.threads)
    reporter, failure = FolderReporter(work.run, work.emit), _failure(work.run)
    for fit in fits:
        if failure.is_file():  # of another lane, or of the group that this one replaces
            return
        try:
            train(fit, samples, work.make_source(samples, fit), reporter, world, depth=work.depth)
        except RaykdError as error:
            failure.write_text(f"{fit.fit_id}: {error}", encoding="utf-8")
            if world.workers > 1:
                raise  # ends the whole group: the others may be waiting for this worker
            return
