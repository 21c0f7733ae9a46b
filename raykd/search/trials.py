"""A trial: the one training loop in the trial's own process, or in several workers that Ray Train starts from it.

The process of a trial of several workers trains nothing and asks for no CPU; its workers form one placement
group, which Ray grants as a whole or not at all, so that trials never hold parts of what each other waits for.
Rank 0 sends its epochs through a relay and waits until the driver has seen them, so that no epoch is trained
after the one at which a trial is stopped. To stop it Tune ends the trial's process, and with it controller and
workers. Ray Train leaves the placement group of a killed controller behind: `remove_orphaned_groups`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import ray
import ray.tune
import torch
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raykd.config.root import StudentCluster
from raykd.errors import DiskError, RaykdError
from raykd.folders import RunFolder
from raykd.search.space import CHECKPOINT, TRIALS
from raykd.tracking import Event, JsonLines
from raykd.train import Fit, World, train
from raykd.train.checkpoint import FitFolder
from raykd.train.lanes import worker_device
from raykd.train.launch import run_fits
from raykd.train.work import Work

Message = dict[str, Any]
"""What a trial reports to Tune: `state` "epoch", "finished", "failed" or "no_room", and what belongs to it."""
_FETCH_TIMEOUT_S = 600.0  # for data and fit from the object store
_POLL_S = 0.2
_ACKNOWLEDGE_TIMEOUT_S = 3600.0
_RELAY_TIMEOUT_S = 60.0
_CONCURRENT_CALLS = 1000
_CONTROLLER = "TrainController"
_CLEANUP_TIMEOUT_S = 30.0
_CLEANUP_POLL_S = 0.1


@dataclass(frozen=True)
class TrialReporter:
    """Checkpoints and metrics in the trial's own folder, events to the driver, epochs to Tune.

    Attributes:
        name: of the trial.
        path: its folder.
        emit: passes an event to the driver.
        send: passes a message to Tune and returns when the driver has seen it; Tune ends a trial that is to
            stop before that.
    """

    name: str
    path: Path
    emit: Callable[[Event], None]
    send: Callable[[Message], None]

    def report(self, event: Event) -> None:
        """Write and pass on the event; at the end of an epoch wait for the decision to go on."""
        lines = JsonLines(self.path)
        try:
            lines.on(event)
        finally:
            lines.close(None)
        self.emit(event)
        if event.kind == "epoch":
            validation = dict(event.values["validation"])
            message = {"state": "epoch", "trial": self.name, "epoch": event.epoch}
            self.send({**message, "validation": validation})

    def flush(self) -> None:
        """Nothing waits."""

    def folder(self, fit_id: str) -> FitFolder:  # noqa: ARG002 (a trial has one fit)
        """`trials/<name>/checkpoint`."""
        return FitFolder(self.path / CHECKPOINT)


def single_worker_trial(config: dict[str, Any], work: Work) -> None:
    """A trial of one worker, in a process which may run other trials before and after.

    Args:
        config: name and fit of the trial.
        work: of the sweep, the same for every trial.
    """
    samples, fit = ray.get([work.samples, config["fit"]], timeout=_FETCH_TIMEOUT_S)
    name = config["trial"]
    torch.set_num_threads(work.threads)
    reporter = TrialReporter(name, work.run.path / TRIALS / name, work.emit, ray.tune.report)

    def train_fit() -> dict[str, Any]:
        source = work.make_source(samples, fit)
        return train(
            fit, samples, source, reporter, World(device=worker_device()), depth=work.depth
        )

    ray.tune.report({"trial": name, **_outcome(train_fit)})


def _outcome(train_fit: Callable[[], dict[str, Any]]) -> Message:
    """Train, and describe the result or the failure."""
    try:
        return {"state": "finished", "result": train_fit()}
    except RaykdError as error:
        full = isinstance(error, DiskError) or isinstance(error.__cause__, DiskError)
        return {"state": "no_room" if full else "failed", "why": str(error)}


class _Relay:
    """Hands messages from rank 0 of a trial to the trial's own process, one at a time."""

    def __init__(self) -> None:
        self._sent: defaultdict[str, asyncio.Queue[tuple[Message, asyncio.Event]]]
        self._sent = defaultdict(asyncio.Queue)
        self._received: dict[str, asyncio.Event] = {}

    async def send(self, channel: str, message: Message) -> None:
        """Pass a message on; returns when it was acknowledged."""
        acknowledged = asyncio.Event()
        await self._sent[channel].put((message, acknowledged))
        await acknowledged.wait()

    async def receive(self, channel: str) -> Message:
        """The next message of a channel; acknowledges the one before."""
        if (before := self._received.pop(channel, None)) is not None:
            before.set()
        message, self._received[channel] = await self._sent[channel].get()
        return message


def new_relay() -> Any:
    """One for all trials of a search; takes no CPU."""
    return ray.remote(_Relay).options(num_cpus=0, max_concurrency=_CONCURRENT_CALLS).remote()


@dataclass(frozen=True)
class _Channel:
    """One trial's channel through the relay; a restarted trial takes a new one."""

    relay: Any
    key: str

    def send(self, message: Message) -> None:
        """Called by rank 0; waits until the driver has seen the message."""
        ray.get(self.relay.send.remote(self.key, message), timeout=_ACKNOWLEDGE_TIMEOUT_S)

    def forward(self, until: Callable[[], bool]) -> None:
        """Called by the trial's process: report every message to Tune, until no more can come."""
        pending = self.relay.receive.remote(self.key)
        while not until():
            ready, _ = ray.wait([pending], timeout=_POLL_S)
            if ready:
                ray.tune.report(ray.get(pending, timeout=_RELAY_TIMEOUT_S))
                pending = self.relay.receive.remote(self.key)


def multi_worker_trial(
    config: dict[str, Any], work: Work, student: StudentCluster, relay: Any
) -> None:
    """A trial of several workers, in a process that forwards their messages.

    Args:
        config: name and fit of the trial.
        work: of the sweep, the same for every trial.
        student: the workers.
        relay: of all trials.
    """
    name, channel = config["trial"], _Channel(relay, secrets.token_hex(8))
    fit: Fit = ray.get(config["fit"], timeout=_FETCH_TIMEOUT_S)
    path = work.run.path / TRIALS / name
    reporter = TrialReporter(name, path, work.emit, channel.send)
    work = replace(work, fits=ray.put([fit]), run=RunFolder(path), reporter=reporter)
    outcome: Future[Message] = Future()
    # A daemon: a thread that waits for its workers must not keep alive the process that is to end.
    Thread(target=_train_workers, args=(outcome, work, fit, student), daemon=True).start()
    channel.forward(until=outcome.done)
    ray.tune.report({"trial": name, **outcome.result()})


def _train_workers(outcome: Future[Message], work: Work, fit: Fit, student: StudentCluster) -> None:
    """Run the workers, and hand over the outcome."""
    try:
        outcome.set_result(_outcome(lambda: run_fits(work, [fit], student)[fit.fit_id]))
    except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
        outcome.set_exception(error)


def remove_orphaned_groups() -> int:
    """Remove the placement groups of this job whose creator, an actor, is dead; how many there were.

    A controller that is killed removes nothing, and a placement group lives as long as its job unless someone
    removes it, so that the next trial would wait for its CPUs for ever (ray-project/ray#54305). Who created a
    group, and whether that actor lives, is in the tables of the cluster, which need no dashboard; only Ray's
    private modules read them.
    """
    orphans = [table for table in _groups() if table.creator_actor_dead and _by_actor(table)]
    for table in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(table.placement_group_id)))
    return len(orphans)


def wait_for_controllers() -> None:
    """Wait until no controller of this job lives and its groups are removed, for 30 s at most."""
    deadline = time.monotonic() + _CLEANUP_TIMEOUT_S
    while (remove_orphaned_groups() or _controllers()) and time.monotonic() < deadline:
        time.sleep(_CLEANUP_POLL_S)


def _by_actor(table: PlacementGroupTableData) -> bool:
    """Groups that a driver made have no creating actor, which counts as dead."""
    return any(byte != 0xFF for byte in table.creator_actor_id)


def _groups() -> Iterator[PlacementGroupTableData]:
    """The groups of this job that exist or are waited for."""
    job = _job().binary()
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        table = PlacementGroupTableData.FromString(raw)
        if table.creator_job_id == job and table.state != PlacementGroupTableData.REMOVED:
            yield table


def _controllers() -> int:
    """How many trainers of this job live."""
    raws = state._connect_and_get_accessor().get_actor_table(_job(), "ALIVE")
    return sum(ActorTableData.FromString(raw).class_name == _CONTROLLER for raw in raws)


def _job() -> ray.JobID:
    return ray._private.worker.global_worker.current_job_id
