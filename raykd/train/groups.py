"""Ray Train shell: a group of data-parallel workers works off the list of student fits, all ranks together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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
from raykd.disks import disk_error, is_full
from raykd.errors import PreemptedError, RaykdError, TrainingError
from raykd.runtime import available_slots
from raykd.runtime.labels import amounts, selector
from raykd.tracking import events
from raykd.train.fit import Fit
from raykd.train.together import train_together
from raykd.train.work import Message, Work
from raykd.train.world import World

_ROOM_S = 5.0  # for what a group that ended gives back
_GROWTH_S = 1.0
_NOTICE_POLL_S = 1.0  # how often Ray's watcher asks which nodes are being drained; 5 by default


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without Ray's detached helper that removes the placement group of a controller that was killed.

    It asks the state API, which does not answer without a dashboard: then it stays for ever itself. A run's
    group goes with its job; that of a killed trial is removed by `raykd.search.trials`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [one for one in made if not isinstance(one, PlacementGroupCleanerCallback)]


def train_in_groups(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> list[str]:
    """Train every fit, one after the other.

    A lost worker restarts the group, which continues from the last checkpoints. A group whose number of
    workers may vary is restarted with as many as there is room for by then. A group of which a node is being
    drained saves after the step that it is at and is started anew elsewhere, which counts as no failure.

    Returns:
        What failed.

    Raises:
        TrainingError: the workers failed more often than allowed, or there is no room for them.
        KeyboardInterrupt: Ctrl-C, once the workers are ended.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        return _work_off(work, fits, cluster, messages)
    finally:
        messages.shutdown(force=True)


def _work_off(
    work: Work, fits: Sequence[Fit], cluster: StudentCluster, messages: Queue
) -> list[str]:
    """One group of workers after the other, until all is done or one ends it."""
    results = work.results(fits)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", str(_NOTICE_POLL_S))
    losses = 0
    while len(results) < len(fits):
        error = _group(work, cluster, _size(work, cluster), messages)
        before, results = results, work.results(fits)
        received: list[Message] = messages.get_nowait_batch(messages.qsize())
        if failures := [message.text for message in received if message.failed]:
            return failures
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
    return []


def _varies(cluster: StudentCluster) -> bool:
    return cluster.fewest < cluster.most


def _size(work: Work, cluster: StudentCluster) -> int:
    """Workers of the next group.

    Raises:
        TrainingError: there is no room for the fewest.
    """
    if not _varies(cluster):
        return cluster.most
    until = time.monotonic() + cluster.start_timeout_s
    while True:
        size = available_slots(cluster.resources, cluster.most, _ROOM_S)
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
    failures = 0 if _varies(cluster) else cluster.max_failures
    trainer = _Trainer(
        _worker,
        train_loop_config={"work": work, "cluster": cluster, "messages": messages},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus and cluster.most > 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=size,
            use_gpu=cluster.gpus > 0,
            resources_per_worker=amounts(cluster.resources),
            label_selector=selector(cluster.resources),
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
    """Work off the list, all ranks together."""
    work: Work = config["work"]
    cluster: StudentCluster = config["cluster"]
    messages: Queue = config["messages"]
    samples, fits = ray.get([work.samples, work.fits], timeout=600)
    torch.set_num_threads(work.threads)
    world = _world(cluster)
    reporter, trained = work.reports, 0
    for fit in fits:
        if not messages.empty():  # the group that this one replaces stopped early
            return
        together = work.companions(fit, fits)
        if len(work.results(together)) == len(together):
            continue
        if trained and _varies(cluster) and _grows(cluster, world):
            return
        try:
            train_together(together, samples, work.make_source, reporter, world,
                           depth=work.depth, leaving=_leaving)  # fmt: skip
        except PreemptedError as notice:
            messages.put(Message(failed=False, text=str(notice)))
            return
        except (RaykdError, OSError) as error:
            if isinstance(error, OSError) and not is_full(error):
                raise
            why = disk_error(work.run.path, error) if isinstance(error, OSError) else error
            messages.put(Message(failed=True, text=f"{fit.fit_id}: {why}"))
            if world.workers > 1:
                raise  # ends the whole group: the others may be waiting for this worker
            return
        trained += 1


def _world(cluster: StudentCluster) -> World:
    """This worker and the others of its group; all of them ask at once."""
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    if world.device.type == "cuda":  # whatever a worker makes by itself is to be on its own device
        torch.cuda.set_device(world.device)
    if cluster.strategy == "ddp":
        return world
    from raykd.train.sharding import Sharing  # FSDP takes long to import

    return replace(world, sharing=Sharing(world.device))


def _grows(cluster: StudentCluster, world: World) -> bool:
    """Whether there is room for more workers by now; every worker takes part."""
    lacking = cluster.most - world.workers
    if not lacking:
        return False
    found = 0 if world.rank else available_slots(cluster.resources, lacking, _GROWTH_S)
    return bool(world.all_sum(torch.tensor([found], device=world.device)).item())
