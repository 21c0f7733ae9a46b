"""Fits of one worker each, side by side: every lane is an actor that trains one fit after the other.

Ray Train brings up a controller, a worker group and a process group, which takes longer than many a student
trains; one worker needs none of them. What is promised is the same: retries, resume, notice of a drained node.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray._private.state import state
from ray.exceptions import RayActorError, RayTaskError

from raykd.config.root import StudentCluster
from raykd.errors import PreemptedError, RaykdError, TrainingError
from raykd.tracking import events
from raykd.train.fit import Fit
from raykd.train.loop import train
from raykd.train.work import Message, Work, resources_of
from raykd.train.world import World

_FETCH_TIMEOUT_S = 600.0  # for data and fits from the object store
_NOTICE_POLL_S = 1.0


def worker_device() -> torch.device:
    """The device that Ray gave to this worker."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


class _Notice:
    """Whether the node of this process is being drained; Ray is asked once a second."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._asked < _NOTICE_POLL_S:
            return False
        self._asked = time.monotonic()
        return self._node in (state.get_draining_nodes() or {})


class Lane:
    """Trains one fit after the other, in a process of its own."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._samples, fits = ray.get([work.samples, work.fits], timeout=_FETCH_TIMEOUT_S)
        self._fits: dict[str, Fit] = {fit.fit_id: fit for fit in fits}
        self._world, self._leaving = World(device=worker_device()), _Notice()
        torch.set_num_threads(work.threads)

    def ready(self) -> None:
        """Returns once the process has started."""

    def train(self, fit_id: str) -> Message | None:
        """Train one fit to its end; why it stopped early, if it did."""
        work, fit = self._work, self._fits[fit_id]
        try:
            source = work.make_source(self._samples, fit)
            train(fit, self._samples, source, work.reports, self._world,
                  depth=work.depth, leaving=self._leaving)  # fmt: skip
        except PreemptedError as notice:
            return Message(failed=False, text=str(notice))
        except RaykdError as error:
            return Message(failed=True, text=f"{fit_id}: {error}")
        return None


def train_in_lanes(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> list[str]:
    """Train fits side by side, as many as there are lanes and room for; each lane takes the next fit.

    A lane that is lost is replaced, and its fit goes on from its last checkpoint; the others train on. After a
    fit failed none is begun any more.

    Returns:
        What failed.

    Raises:
        TrainingError: lanes were lost more often than allowed, or none started in time.
    """
    lanes = _Lanes(work, fits, cluster)
    try:
        lanes.work_off()
    finally:
        lanes.end()
    return lanes.failed


class _Lanes:
    """The driver's side: which fits wait, and what each actor is at."""

    def __init__(self, work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> None:
        self.failed: list[str] = []
        self._work, self._cluster = work, cluster
        self._waiting = deque(fit.fit_id for fit in fits)
        self._size, self._losses = min(work.lanes, len(fits)), 0
        self._calls: dict[Any, tuple[Any, str | None]] = {}  # reference -> actor, the fit it trains

    def work_off(self) -> None:
        """Until no fit waits and none is trained."""
        for _ in range(self._size):
            self._start()
        while any(fit for _, fit in self._calls.values()) or self._waiting:
            done = self._wait()
            lane, fit = self._calls.pop(done)
            try:
                message: Message | None = ray.get(done)
            except (RayActorError, RayTaskError) as error:
                self._lost(lane, fit, error)
                continue
            if message is not None:
                self._stopped(lane, fit, message)
            elif self._waiting:
                following = self._waiting.popleft()
                self._calls[lane.train.remote(following)] = lane, following
            else:
                ray.kill(lane)

    def end(self) -> None:
        """End every lane that is there."""
        for lane, _ in self._calls.values():
            ray.kill(lane)

    def _start(self) -> None:
        each = resources_of(self._cluster)
        options = {"num_cpus": each["CPU"], "num_gpus": each.get("GPU", 0)}
        lane = ray.remote(Lane).options(**options).remote(self._work)
        self._calls[lane.ready.remote()] = lane, None

    def _wait(self) -> Any:
        """The next call that ends."""
        trains = any(fit for _, fit in self._calls.values())
        patience = None if trains else self._cluster.start_timeout_s
        done, _ = ray.wait(list(self._calls), timeout=patience)
        if done:
            return done[0]
        raise TrainingError(
            f"no student worker started within {patience:g} s (cluster.student.start_timeout_s): one asks for "
            f"{resources_of(self._cluster)}; free that much on a node, and resume the run"
        )

    def _lost(self, lane: Any, fit: str | None, error: Exception) -> None:
        ray.kill(lane)
        if self.failed:  # the others end what they are at, and nothing is begun any more
            return
        if fit is not None:
            self._waiting.appendleft(fit)
        if isinstance(error, RayActorError) and error.preempted:
            self._moved(str(error))
            return
        self._losses += 1
        if self._losses > self._cluster.max_failures:
            raise TrainingError(f"student training failed: {error}") from error
        text = f"a student worker failed: {str(error).strip().splitlines()[-1]}; {fit or 'it'} starts again from "
        text += f"the last checkpoint ({self._losses} of {self._cluster.max_failures})"
        self._work.emit(events.failure("student", text, decision="resume"))
        self._start()

    def _stopped(self, lane: Any, fit: str | None, message: Message) -> None:
        ray.kill(lane)
        if message.failed:
            self.failed.append(message.text)
            self._waiting.clear()
        elif not self.failed:
            assert fit is not None, "a lane that trains nothing saves nothing"
            self._waiting.appendleft(fit)
            self._moved(message.text)

    def _moved(self, where: str) -> None:
        text = f"the node of a student worker is being taken away: {where}"
        self._work.emit(events.failure("student", text, decision="move"))
        self._start()
