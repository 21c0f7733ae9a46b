"""Ray Train shell: one trainer works off the list of student fits, several at once where each takes one worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.config.root import StudentCluster
from raykd.data import Samples
from raykd.errors import PreemptedError, RaykdError, TrainingError
from raykd.folders import RunFolder
from raykd.runtime import available_slots
from raykd.targets import TargetSource
from raykd.tracking import Event, events
from raykd.train.checkpoint import FolderReporter, Reporter
from raykd.train.fit import Fit
from raykd.train.loop import train
from raykd.train.world import World

_ROOM_S = 5.0  # for what a group that ended gives back
_GROWTH_S = 1.0
_NOTICE_POLL_S = 1.0  # how often Ray's watcher asks which nodes are being drained; 5 by default
MakeSource = Callable[[Samples, Fit], TargetSource]


class Message(NamedTuple):
    """What a worker tells the driver, and all workers that come after it, before it stops early.

    Attributes:
        failed: whether a fit failed; else it was saved because a node is being taken away.
        text: of what, or where it was saved.
    """

    failed: bool
    text: str


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
        reporter: where progress and checkpoints go; None = events to `emit`, checkpoints to the run folder.
    """

    samples: Any
    fits: Any
    make_source: MakeSource
    run: RunFolder
    emit: Callable[[Event], None]
    depth: int
    threads: int = 1
    lanes: int = 1
    reporter: Reporter | None = None

    @property
    def reports(self) -> Reporter:
        """The reporter that was given, or that of the run folder."""
        return self.reporter or FolderReporter(self.run, self.emit)


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without Ray's detached helper that removes the placement group of a controller that was killed.

    It asks the state API, which does not answer without a dashboard: then it stays for ever itself. A run's
    group goes with its job; that of a killed trial is removed by `raykd.search.trials`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [one for one in made if not isinstance(one, PlacementGroupCleanerCallback)]


def run_fits(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> dict[str, dict[str, Any]]:
    """Train every fit on Ray Train workers; finished ones are not trained again.

    A lost worker restarts the group, which continues from the last checkpoints. A group whose number of
    workers may vary is restarted with as many as there is room for by then. A group of which a node is being
    drained saves after the step that it is at and is started anew elsewhere, which counts as no failure.

    Returns:
        fit id -> result.

    Raises:
        TrainingError: a fit failed, or the workers failed more often than allowed.
        KeyboardInterrupt: Ctrl-C, once the workers are ended.
    """
    results = _results(work, fits)
    if len(results) == len(fits):  # starting workers to find nothing to do takes seconds
        return results
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        return _work_off(work, fits, cluster, messages)
    finally:
        messages.shutdown(force=True)


def _work_off(
    work: Work, fits: Sequence[Fit], cluster: StudentCluster, messages: Queue
) -> dict[str, dict[str, Any]]:
    """One group of workers after the other, until all is done or one ends it; see `run_fits`."""
    results = _results(work, fits)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", str(_NOTICE_POLL_S))
    losses, failures = 0, list[str]()
    while len(results) < len(fits):
        error = _group(work, cluster, _size(work, cluster), messages)
        before, results = results, _results(work, fits)
        received: list[Message] = messages.get_nowait_batch(messages.qsize())
        if failures := [message.text for message in received if message.failed]:
            break
        if received or _preempted(error):
            where = received[0].text if received else str(error)
            text = f"a node of the student's workers is being taken away: {where}"
            work.emit(events.failure("student", text, decision="move"))
            continue
        if error is None and len(results) == len(before):
            break
        if error is None:  # all is done, or there is room for more workers
            continue
        losses += 1
        if not _varies(cluster) or losses > cluster.max_failures:
            raise TrainingError(f"student training failed: {error}") from error
        text = f"the student's workers failed: {str(error).strip().splitlines()[-1]}; they start again from "
        text += f"the last checkpoint, with as many as there is room for ({losses} of {cluster.max_failures})"
        work.emit(events.failure("student", text, decision="resume"))
    if unfinished := [fit.fit_id for fit in fits if fit.fit_id not in results]:
        cause = failures[0] if failures else "see events.jsonl"
        raise TrainingError(
            f"{len(unfinished)} fits did not finish, {unfinished[0]} first: {cause}"
        )
    return results


def _varies(cluster: StudentCluster) -> bool:
    return cluster.fewest < cluster.most


def _each(cluster: StudentCluster) -> dict[str, float]:
    """Resources of one worker, by Ray's names."""
    return {"CPU": cluster.cpus, **({"GPU": cluster.gpus} if cluster.gpus else {})}


def _size(work: Work, cluster: StudentCluster) -> int:
    """Workers of the next group.

    Raises:
        TrainingError: there is no room for the fewest.
    """
    if cluster.most == 1:
        return work.lanes
    if not _varies(cluster):
        return cluster.most
    until = time.monotonic() + cluster.start_timeout_s
    while True:
        size = available_slots(_each(cluster), cluster.most, _ROOM_S)
        if size >= cluster.fewest:
            text = f"student: {size} workers, of {cluster.fewest} to {cluster.most}"
            work.emit(events.message("student", text))
            return size
        if time.monotonic() >= until:
            raise TrainingError(
                f"there is room for {size} student workers, cluster.student.workers asks for at least "
                f"{cluster.fewest}, and no more was found for {cluster.start_timeout_s:g} s; give the cluster "
                "more nodes, or lower it, and resume the run"
            )


def _group(
    work: Work, cluster: StudentCluster, size: int, messages: Queue
) -> ray.train.TrainingFailedError | None:
    """Have a group of workers work off the list; why it ended too early, if it did.

    Ray restarts a group of fixed size itself. Its own elastic groups are not used: they go by what the nodes
    have, not by what of it is free, so that one with live teachers beside it asks for workers that never start.

    Raises:
        KeyboardInterrupt: Ctrl-C, once the workers are ended.
    """
    together = cluster.most > 1
    failures = 0 if _varies(cluster) else cluster.max_failures
    trainer = _Trainer(
        _worker,
        train_loop_config={"work": work, "cluster": cluster, "messages": messages},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus and together else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=size, use_gpu=cluster.gpus > 0, resources_per_worker=_each(cluster)
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(work.run.path / ".ray"),
            failure_config=FailureConfig(
                max_failures=failures,
                controller_failure_limit=failures,
                max_preemption_failures=0,  # the group that comes after it may have to be smaller
            ),
        ),
    )
    try:
        with _interruptible():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        return error
    return None


def _results(work: Work, fits: Sequence[Fit]) -> dict[str, dict[str, Any]]:
    """The results of those fits that are finished."""
    found = {fit.fit_id: work.reports.folder(fit.fit_id).result() for fit in fits}
    expected = {fit.fit_id: fit.identity for fit in fits}
    return {
        name: result
        for name, result in found.items()
        if result is not None and result["identity"] == expected[name]
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


def _preempted(error: ray.train.TrainingFailedError | None) -> bool:
    """Whether a group ended since a node was taken away of which there was word, too short to save in."""
    failures = error.worker_failures if isinstance(error, ray.train.WorkerGroupError) else {}
    lost = [one for one in failures.values() if isinstance(one, RayActorError)]
    return isinstance(error, ray.train.PreemptionError) or any(one.preempted for one in lost)


def _leaving() -> bool:
    """Whether a node of this group is being drained; Ray's own function asks all workers, at every call."""
    return get_train_context().preemption_context.preemption_info is not None


def _worker(config: dict[str, Any]) -> None:
    """Work off the list: all ranks together, or each rank every so-manieth fit."""
    work: Work = config["work"]
    cluster: StudentCluster = config["cluster"]
    messages: Queue = config["messages"]
    samples, fits = ray.get([work.samples, work.fits], timeout=600)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if work.lanes > 1:
        fits, world = fits[rank::workers], World(device=get_device())
    else:
        world = World(rank, workers, get_device())
    torch.set_num_threads(work.threads)
    reporter, trained = work.reports, 0
    for fit in fits:
        if not messages.empty():  # another lane, or the group that this one replaces, stopped early
            return
        if fit.fit_id in _results(work, [fit]):
            continue
        if trained and _varies(cluster) and _grows(cluster, world):
            return
        try:
            source = work.make_source(samples, fit)
            train(fit, samples, source, reporter, world, depth=work.depth, leaving=_leaving)
        except PreemptedError as notice:
            messages.put(Message(failed=False, text=str(notice)))
            return
        except RaykdError as error:
            messages.put(Message(failed=True, text=f"{fit.fit_id}: {error}"))
            if world.workers > 1:
                raise  # ends the whole group: the others may be waiting for this worker
            return
        trained += 1


def _grows(cluster: StudentCluster, world: World) -> bool:
    """Whether there is room for more workers by now; every worker takes part."""
    lacking = cluster.most - world.workers
    if not lacking:
        return False
    found = 0 if world.rank else available_slots(_each(cluster), lacking, _GROWTH_S)
    return bool(world.all_sum(torch.tensor([found], device=world.device)).item())
