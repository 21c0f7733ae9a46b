"""Fits of one worker each, side by side: every lane is a process that trains one fit after the other.

Ray Train brings up a controller, a worker group and a process group, which takes longer than many a student
trains; one worker needs none of them. What is promised is the same: retries, resume, notice of a drained node.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import ray
import torch
from ray._private.state import state
from ray.exceptions import RayActorError, RayTaskError

from raykd.data import Samples
from raykd.disks import disk_error, is_full
from raykd.errors import PreemptedError, RaykdError, TrainingError, WaitingError
from raykd.runtime import Crew
from raykd.tracking import events
from raykd.train.fit import Fit
from raykd.train.together import train_together
from raykd.train.work import Message, Work
from raykd.train.world import World

Result = TypeVar("Result")
_FETCH_TIMEOUT_S = 600.0  # for data and fits from the object store
_NOTICE_POLL_S = 1.0


def worker_device() -> torch.device:
    """The device that Ray gave to this worker; the CPU outside of Ray."""
    given = ray.is_initialized() and ray.get_gpu_ids()
    return torch.device("cuda" if given and torch.cuda.is_available() else "cpu")


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


@lru_cache(maxsize=1)
def fetched(samples: Any) -> Samples:
    """The data, once for all fits of this process: what it works out of them, it works out once."""
    found: Samples = ray.get(samples, timeout=_FETCH_TIMEOUT_S)
    return found


def with_samples(work: Callable[..., Result], samples: list[Any], *given: Any) -> Result:
    """What a function makes of the data and of what else it is given, in a process of the crew.

    Args:
        work: takes the data first.
        samples: their reference, in a list, so that it is fetched once in each process and not for each call.
        *given: the rest.
    """
    return work(fetched(samples[0]), *given)


def _train(work: Work, fit_id: str) -> Message | None:
    """Train one fit, and those that belong to it, to their end, in a process of the crew; why it stopped early, if it did."""
    samples = fetched(work.samples)
    fits: Sequence[Fit] = ray.get(work.fits, timeout=_FETCH_TIMEOUT_S)
    (fit,) = (piece for fit in fits for piece in fit.pieces if piece.fit_id == fit_id)
    try:
        train_together(work.companions(fit, fits), samples, work.make_source, work.reports, World(device=worker_device()),
                       depth=work.depth, leaving=_Notice(), board=work.board)  # fmt: skip
    except WaitingError as waits:
        return Message(failed=False, text=str(waits), waits=True)
    except PreemptedError as notice:
        return Message(failed=False, text=str(notice))
    except RaykdError as error:
        return Message(failed=True, text=f"{fit_id}: {error}")
    except OSError as error:
        if not is_full(error):
            raise
        return Message(failed=True, text=f"{fit_id}: {disk_error(work.run.path, error)}")
    return None


@dataclass(frozen=True)
class LaneRules:
    """What lanes are made of, and what is done about lost ones.

    Attributes:
        resources: fit id -> resources of its worker, by Ray's names.
        most: lanes at a time.
        max_losses: how many lanes may be lost.
        start_timeout_s: how long the first lane may take to start.
        stage: of the events.
        worker: what a worker is called, such as `student worker`.
        goes_on: whether other fits are still begun after one has failed.
        room: the keys that say what a worker needs.
    """

    resources: Callable[[str], Mapping[str, float]]
    most: int
    max_losses: int
    start_timeout_s: float
    stage: events.Stage
    worker: str
    goes_on: bool
    room: str


def train_in_lanes(work: Work, fits: Sequence[Fit], rules: LaneRules) -> list[str]:
    """Train fits side by side, as many as there are lanes and room for; each lane takes the next fit.

    A lane that is lost is replaced, and its fit goes on from its last checkpoint; the others train on. A fit that waits
    for one of its peers makes room for those that are behind it.

    Returns:
        What failed.

    Raises:
        TrainingError: lanes were lost more often than allowed, or none started in time.
    """
    lanes = _Lanes(work, fits, rules)
    try:
        lanes.work_off()
    finally:
        lanes.end()
    return lanes.failed


class _Lane(NamedTuple):
    """A member of the crew, its resources, and the fit that it trains."""

    member: Any
    resources: Mapping[str, float]
    fit: str | None = None


class _Lanes:
    """The driver's side: which fits wait, and what each process is at."""

    def __init__(self, work: Work, fits: Sequence[Fit], rules: LaneRules) -> None:
        self.failed: list[str] = []
        self._work, self._rules = work, rules
        self._crew = work.crew or Crew()
        pieces = [piece for fit in fits for piece in fit.pieces]
        self._waiting = deque({work.companions(one, fits)[0].fit_id: None for one in pieces})
        self._losses = 0
        self._calls: dict[Any, _Lane] = {}

    def work_off(self) -> None:
        """Until no fit waits and none is trained."""
        for fit in list(self._waiting)[: self._rules.most]:
            self._start(self._rules.resources(fit))
        while any(lane.fit for lane in self._calls.values()) or self._waiting:
            done = self._wait()
            lane = self._calls.pop(done)
            try:
                found = ray.get(done)
            except (RayActorError, RayTaskError) as error:
                self._lost(lane, error)
                continue
            if isinstance(found, Message):
                self._stopped(lane, found)
            else:
                self._next(lane)

    def end(self) -> None:
        """End what has not ended by itself; what is idle, too, where the crew is this call's own."""
        for lane in self._calls.values():
            ray.kill(lane.member)
        if self._work.crew is None:
            self._crew.dismiss()

    def _start(self, resources: Mapping[str, float]) -> None:
        member = self._crew.take(resources)
        self._calls[member.ready.remote()] = _Lane(member, resources)

    def _next(self, lane: _Lane) -> None:
        """The next fit that needs just these resources; the lane starts anew where others are needed."""
        own = [fit for fit in self._waiting if self._rules.resources(fit) == lane.resources]
        if own:
            self._waiting.remove(own[0])
            threads = max(1, int(lane.resources["CPU"]))
            call = lane.member.do.remote(threads, _train, self._work, own[0])
            self._calls[call] = lane._replace(fit=own[0])
            return
        self._crew.give_back(lane.member, lane.resources)
        starting = sum(lane.fit is None for lane in self._calls.values())
        if len(self._waiting) > starting:
            self._start(self._rules.resources(self._waiting[starting]))

    def _wait(self) -> Any:
        """The next call that ends."""
        trains = any(lane.fit for lane in self._calls.values())
        patience = None if trains else self._rules.start_timeout_s
        done, _ = ray.wait(list(self._calls), timeout=patience)
        if done:
            return done[0]
        needed = self._rules.resources(self._waiting[0])
        raise TrainingError(
            f"no {self._rules.worker} started within {patience:g} s ({self._rules.room}): one asks for {dict(needed)}; "
            "free that much on a node, and resume the run"
        )

    def _lost(self, lane: _Lane, error: Exception) -> None:
        ray.kill(lane.member)
        if self.failed and not self._rules.goes_on:  # the others end, and nothing is begun any more
            return
        if self._rules.goes_on and lane.fit is not None and isinstance(error, RayTaskError):
            self.failed.append(
                f"{lane.fit}: {error.cause}"
            )  # its own code, which another try would not mend
            self._start(lane.resources)
            return
        if isinstance(error, RayActorError) and error.preempted:
            self._again(lane)
            self._moved(str(error), lane)
            return
        self._losses += 1
        if self._losses > self._rules.max_losses:
            if not self._rules.goes_on or lane.fit is None:
                raise TrainingError(f"{self._rules.stage} training failed: {error}") from error
            self.failed.append(f"{lane.fit}: its process was lost more often than allowed: {error}")
            self._start(lane.resources)
            return
        self._again(lane)
        text = f"a {self._rules.worker} failed: {str(error).strip().splitlines()[-1]}; {lane.fit or 'it'} starts again "
        text += f"from the last checkpoint ({self._losses} of {self._rules.max_losses})"
        self._work.emit(events.failure(self._rules.stage, text, decision="resume"))
        self._start(lane.resources)

    def _again(self, lane: _Lane) -> None:
        """The fit that a lane was at is the next one."""
        if lane.fit is not None:
            self._waiting.appendleft(lane.fit)

    def _stopped(self, lane: _Lane, message: Message) -> None:
        if message.waits and lane.fit is not None:
            if not self.failed or self._rules.goes_on:  # else what it waits for may never come
                self._waiting.append(lane.fit)
            self._next(lane)
            return
        if message.failed:
            self.failed.append(message.text)
            if self._rules.goes_on:
                self._next(lane)
                return
            ray.kill(lane.member)
            self._waiting.clear()
            return
        ray.kill(lane.member)
        if not self.failed or self._rules.goes_on:
            self._again(lane)
            self._moved(message.text, lane)

    def _moved(self, where: str, lane: _Lane) -> None:
        text = f"the node of a {self._rules.worker} is being taken away: {where}"
        self._work.emit(events.failure(self._rules.stage, text, decision="move"))
        self._start(lane.resources)
