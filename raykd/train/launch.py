"""Ray Train shell: one trainer works off the list of student fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """

    samples: Any
    fits: Any
    make_source: MakeSource
    run: RunFolder
    emit: Callable[[Event], None]
    depth: int
    threads: int = 1


def run_fits(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> dict[str, dict[str, Any]]:
    """Train every fit on Ray Train workers, in order; finished ones are not trained again.

    A lost worker restarts the group, which continues from the last checkpoints.

    Returns:
        fit id -> result.

    Raises:
        TrainingError: a fit failed, or the workers failed more often than allowed.
    """
    resources = {"CPU": cluster.cpus}
    if cluster.gpus:
        resources["GPU"] = cluster.gpus
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
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
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"student training failed: {error}") from error
    reporter = FolderReporter(work.run, work.emit)
    results = {fit.fit_id: reporter.folder(fit.fit_id).result() for fit in fits}
    unfinished = [fit_id for fit_id, result in results.items() if result is None]
    if unfinished:
        failures = _failures(work.run.path)
        raise TrainingError(
            f"{len(unfinished)} fits did not finish, {unfinished[0]} first: {failures}"
        )
    return {fit_id: result for fit_id, result in results.items() if result is not None}


def _failures(run: Path) -> str:
    path = run / ".ray" / "failure.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else "see events.jsonl"


def _worker(config: dict[str, Any]) -> None:
    """Work off the list; the same on every rank."""
    work: Work = config["work"]
    samples, fits = ray.get([work.samples, work.fits], timeout=600)
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    torch.set_num_threads(work.threads)
    reporter = FolderReporter(work.run, work.emit)
    for fit in fits:
        try:
            train(fit, samples, work.make_source(samples, fit), reporter, world, depth=work.depth)
        except RaykdError as error:  # the same again on a restart: report it and end
            failure = work.run.path / ".ray" / "failure.txt"
            failure.write_text(f"{fit.fit_id}: {error}", encoding="utf-8")
            return
        ray.train.report({"finished": 1})
