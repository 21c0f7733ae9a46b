"""A trial of several workers: Ray Train inside the trial, the same training loop in each worker.

The trial's own process trains nothing and asks for no CPU; its workers form one placement group, which Ray
grants as a whole or not at all, so that trials never hold parts of what each other waits for. What rank 0
has to say it tells a relay and waits until the driver has heard it, so that no epoch is trained after the
one at which a trial is stopped. To stop it Tune ends the trial's process, and with it controller and workers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import ray
import ray.tune

from raykd.config.root import StudentCluster
from raykd.errors import RaykdError
from raykd.folders import RunFolder
from raykd.search.single_worker import (
    CHECKPOINT,
    FETCH_TIMEOUT_S,
    Message,
    TrialWork,
    epoch_message,
)
from raykd.tracking import Event, JsonLines
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder
from raykd.train.launch import Work, run_fits

_POLL_S = 0.2
_HEARD_TIMEOUT_S = 3600.0
_RELAY_TIMEOUT_S = 60.0
_CALLS = 1000


class _Relay:
    """Hands messages from the rank 0 of a trial to the trial's own process, one at a time."""

    def __init__(self) -> None:
        self._said: defaultdict[str, asyncio.Queue[tuple[Message, asyncio.Event]]]
        self._said = defaultdict(asyncio.Queue)
        self._heard: dict[str, asyncio.Event] = {}

    async def say(self, line: str, message: Message) -> None:
        """Pass a message on; returns when it was heard."""
        heard = asyncio.Event()
        await self._said[line].put((message, heard))
        await heard.wait()

    async def listen(self, line: str) -> Message:
        """The next message of a line; the one before counts as heard."""
        if (before := self._heard.pop(line, None)) is not None:
            before.set()
        message, self._heard[line] = await self._said[line].get()
        return message


def new_relay() -> Any:
    """One for all trials of a search; takes no CPU."""
    return ray.remote(_Relay).options(num_cpus=0, max_concurrency=_CALLS).remote()


@dataclass(frozen=True)
class Line:
    """One trial's way through the relay; a restarted trial takes a new one."""

    relay: Any
    key: str

    def say(self, message: Message) -> None:
        """Called by rank 0; waits until the driver has heard it."""
        ray.get(self.relay.say.remote(self.key, message), timeout=_HEARD_TIMEOUT_S)

    def pass_on(self, until: Callable[[], bool]) -> None:
        """Called by the trial's process: tell Tune whatever is said, until nobody speaks any more."""
        asked = self.relay.listen.remote(self.key)
        while not until():
            ready, _ = ray.wait([asked], timeout=_POLL_S)
            if ready:
                ray.tune.report(ray.get(asked, timeout=_RELAY_TIMEOUT_S))
                asked = self.relay.listen.remote(self.key)


@dataclass(frozen=True)
class MultiWorkerReporter:
    """Checkpoints and metrics in the trial's own folder, events to the driver, epochs through the line."""

    name: str
    path: Path
    line: Line
    emit: Callable[[Event], None]

    def report(self, event: Event) -> None:
        """Write, tell, and at the end of an epoch wait to be told to go on; called by rank 0 alone."""
        lines = JsonLines(self.path)
        try:
            lines.on(event)
        finally:
            lines.close(None)
        self.emit(event)
        if event.kind == "epoch":
            self.line.say(epoch_message(self.name, event))

    def folder(self, fit_id: str) -> FitFolder:  # noqa: ARG002 (a trial has one fit)
        """`trials/<name>/checkpoint`."""
        return FitFolder(self.path / CHECKPOINT)


def multi_worker_trial(
    config: dict[str, Any], work: TrialWork, student: StudentCluster, relay: Any
) -> None:
    """A trial of several workers, in a process that passes on what they say.

    Args:
        config: name and fit of the trial.
        work: what every trial gets.
        student: the workers.
        relay: of all trials.
    """
    name, line = config["trial"], Line(relay, secrets.token_hex(8))
    fit: Fit = ray.get(config["fit"], timeout=FETCH_TIMEOUT_S)
    path = work.folder / name
    task = Work(
        samples=work.samples,
        fits=ray.put([fit]),
        make_source=work.make_source,
        run=RunFolder(path),
        emit=work.emit,
        depth=work.depth,
        threads=work.threads,
        reporter=MultiWorkerReporter(name, path, line, work.emit),
    )
    outcome: Future[Message] = Future()
    # A daemon, since a thread that waits for its workers must not keep the process that is to end.
    Thread(target=_train, args=(outcome, task, fit, student), daemon=True).start()
    line.pass_on(until=outcome.done)
    ray.tune.report({"trial": name, **outcome.result()})


def _train(outcome: Future[Message], task: Work, fit: Fit, student: StudentCluster) -> None:
    """Run the workers, and say what came of it."""
    try:
        result = run_fits(task, [fit], student)[fit.fit_id]
    except RaykdError as error:
        outcome.set_result({"told": "failed", "why": str(error)})
    except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
        outcome.set_exception(error)
    else:
        outcome.set_result({"told": "finished", "result": result})
