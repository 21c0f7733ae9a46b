"""The replicas of one teacher at work: each failure told apart, decided on by the policy, carried out, and reported.

Whoever has something for a teacher to do writes it as steps: a generator that yields what it waits for and returns
what came of it. `finish` runs one line of steps, or many side by side, so that a client that waits for one answer
and a fill that keeps every actor busy share all that is here: the tries, the restarts, the search for bad samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import ray
import torch.distributed as dist
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)

from raykd.config.root import TeacherCluster
from raykd.errors import NonFiniteError, TeacherError
from raykd.targets.source import Deadline
from raykd.teachers.policy import BREAKS, Cause, Decision, FailurePolicy
from raykd.teachers.published import publish
from raykd.teachers.quarantine import Isolated, Quarantine, Tolerance, isolate, quarantined
from raykd.teachers.seats import end_process
from raykd.teachers.utilization import TeacherLoad
from raykd.tracking import Event, events

_SIGN_OF_LIFE_S = 2.0
_FETCH_TIMEOUT_S = 60.0
Result = TypeVar("Result")


class Wait(NamedTuple):
    """What a line of steps waits for.

    Attributes:
        reference: of an answer to come.
        seconds: after which the steps go on without it.
    """

    reference: Any
    seconds: float


Steps = Generator[Wait, None, Result]


def finish(
    lines: Sequence[Steps[Result]], deadline: Deadline | None = None, what: str = ""
) -> list[Result]:
    """Run lines of steps side by side; what each returns. What one raises ends all.

    Args:
        lines: the steps.
        deadline: until which they may wait; None = each wait has its own bound alone.
        what: is waited for, in words.

    Raises:
        TargetTimeoutError: the deadline passed.
    """
    due = deadline or Deadline(math.inf)
    results: dict[int, Result] = {}
    waiting: dict[Any, tuple[int, float]] = {}

    def advance(number: int) -> None:
        try:
            wait = next(lines[number])
        except StopIteration as end:
            results[number] = end.value
        else:
            waiting[wait.reference] = (number, time.monotonic() + wait.seconds)

    for number in range(len(lines)):
        advance(number)
    while waiting:
        patience_s = min(until_s for _, until_s in waiting.values()) - time.monotonic()
        left_s = due.left_s
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, min(patience_s, left_s)))
        if not ready and left_s <= patience_s:
            raise due.exceeded(what)
        now = time.monotonic()
        late = [reference for reference, (_, until_s) in waiting.items() if until_s <= now]
        for reference in dict.fromkeys([*ready, *late]):
            advance(waiting.pop(reference)[0])
    return [results[number] for number in range(len(lines))]


@dataclass(frozen=True)
class Call:
    """What a replica is asked to do.

    Attributes:
        start: has an actor begin; gives the reference of its answer.
        samples: that it is about.
        long: it may take longer than a request, as long as it makes progress.
        fatal: errors of the actor that no other try would mend; they are raised as they are.
    """

    start: Callable[[Any], Any]
    samples: int
    long: bool = False
    fatal: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Request:
    """A call that one replica was given.

    Attributes:
        call: what it was asked.
        replica: its number.
        reference: of the answer to come.
        turn: how often the replica had been ended for a restart.
        early: whether the replica was being ended for a restart, and may have taken this request with it.
    """

    call: Call
    replica: int
    reference: Any
    turn: int
    early: bool


@dataclass(frozen=True)
class _Failure:
    """Why there is no answer; what the model raised, where it did."""

    cause: Cause
    detail: str = ""


class Replicas:
    """What is known of the processes that answer for a teacher, or for several.

    Attributes:
        outstanding: requests under way at each.
        dead: those that come back no more.
        restarting: those that are starting again -> reference to their first sign of life.
        ended: those that were ended for a restart, and not asked since.
        turns: how often each was ended for a restart.
        asked: requests so far, of this process; None before its first one.
    """

    def __init__(self, count: int) -> None:
        self.outstanding, self.turns = [0] * count, [0] * count
        self.asked: int | None = None
        self.dead: set[int] = set()
        self.restarting: dict[int, Any] = {}
        self.ended: set[int] = set()

    def pick(self, avoid: int | None = None) -> int:
        """The least busy one; a dead one, `avoid`, or one that is being restarted only if need be.

        Of equally busy ones the next in turn. Each process knows of its own requests alone: the turns of several
        student workers begin at their ranks, so that together they keep all replicas busy.
        """
        count, first = len(self.outstanding), _own_rank() if self.asked is None else self.asked
        self.asked = first + 1

        def rank(replica: int) -> tuple[bool, bool, bool, int, int]:
            loading, turn = replica in self.restarting, (replica - first) % count
            return replica in self.dead, replica == avoid, loading, self.outstanding[replica], turn

        return min(range(count), key=rank)


def _own_rank() -> int:
    """This process's rank among the student's workers, 0 outside of them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class LeftOutError(Exception):
    """The teacher is left out from now on."""


class Pool:
    """The actors of one teacher.

    Args:
        name: the teacher's name.
        actors: handles of its replicas.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
        stage: of these reports.
        on_failure: what to do once the teacher is lost; None = as the settings say.
        tolerance: how many samples may break it; None = no batch is searched for them.
        replicas: what is known of the actors' processes, where other teachers are hosted there, too.

    Attributes:
        lost: whether the teacher is left out.
        load: how busy it was.
        quarantine: what it is not asked any more.
    """

    def __init__(
        self,
        name: str,
        actors: Sequence[Any],
        settings: TeacherCluster,
        emit: Callable[[Event], None],
        stage: events.Stage = "fleet",
        on_failure: Literal["stop", "renormalise"] | None = None,
        tolerance: Tolerance | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        self.name, self.actors, self.settings = name, list(actors), settings
        self.emit, self.stage, self.tolerance = emit, stage, tolerance
        count = len(self.actors)
        self.replicas = replicas or Replicas(count)
        self.policy = FailurePolicy(
            on_failure or settings.on_failure,
            settings.max_restarts + count,
            count,
            isolates=tolerance is not None,
        )
        self.lost = False
        self.load = TeacherLoad()
        self.quarantine = Quarantine(set() if tolerance is None else tolerance.recall(name))

    def send(self, call: Call, avoid: int | None = None) -> Request:
        """Give a call to a replica; returns without waiting."""
        for back in [i for i, alive in self.replicas.restarting.items() if _is_there(alive)]:
            del self.replicas.restarting[back]
        replica = self.replicas.pick(avoid)
        queued = sum(self.replicas.outstanding)
        self.load.asked += 1
        self.load.queued += queued
        publish(self.name, requests=1, queued=queued)
        self.replicas.outstanding[replica] += 1
        early = replica in self.replicas.ended
        self.replicas.ended.discard(replica)
        reference = call.start(self.actors[replica])
        return Request(call, replica, reference, self.replicas.turns[replica], early)

    def settle(self, request: Request, *, searching: bool = False) -> Steps[Any]:
        """The answer to a request, made again as the policy says; None when samples in it break the teacher.

        Args:
            request: what was asked.
            searching: whether a single break is an answer already.

        Raises:
            LeftOutError: the teacher is lost, and left out.
            TeacherError: it is lost, and the policy is to stop.
        """
        if self.lost:
            raise LeftOutError
        attempts = breaks = 0
        while True:
            outdated = request.turn < self.replicas.turns[request.replica]
            if outdated and not _is_there(request.reference):
                # asked before it was ended: Ray takes 5 s to kill what hangs, and only then says so
                self._release(request)
                request = self.send(request.call)
            found = yield from self._answer(request)
            if not isinstance(found, _Failure):
                return found
            if found.cause == "dead" and request.early:
                self._release(request)
                request = self.send(request.call)
                continue
            attempts, breaks = attempts + 1, breaks + (found.cause in BREAKS)
            decision = self.policy.decide(
                self.name,
                found.cause,
                attempts,
                breaks=breaks,
                detail=found.detail,
                searched=request.call.samples if searching else None,
                living=len(self.actors) - len(self.replicas.dead),
            )
            self._report(found.cause, decision)
            if decision.action == "wait":
                continue
            self._release(request, restart=decision.action == "restart")
            if decision.action == "isolate":
                return None
            self._end(decision)
            request = self.send(request.call, avoid=request.replica)

    def _answer(self, request: Request) -> Steps[Any]:
        """The answer, or why there is none."""
        seen = None
        while True:
            loading = request.replica in self.replicas.restarting  # it has to load its model first
            start_s = self.settings.start_timeout_s if loading else 0.0
            yield Wait(request.reference, self.settings.request_timeout_s + start_s)
            if _is_there(request.reference):
                return self._fetch(request)
            progress = self._progress(request.replica)
            if not request.call.long:
                return _Failure("hung" if progress is None else "slow")
            if progress in (None, seen):
                return _Failure("hung")
            seen = progress

    def _fetch(self, request: Request) -> Any:
        replica = request.replica
        try:
            answer = ray.get(request.reference, timeout=_FETCH_TIMEOUT_S)
        except GetTimeoutError:
            return _Failure("slow")
        except (RayActorError, ObjectLostError) as error:
            if isinstance(error, ActorDiedError):
                self.replicas.dead.add(replica)
            else:
                self.replicas.restarting[replica] = self.actors[replica].alive.remote()
            return _Failure("dead")
        except RayTaskError as error:
            if isinstance(error.cause, NonFiniteError):
                return _Failure("non_finite")
            if isinstance(error.cause, request.call.fatal):
                raise error.cause from error
            return _Failure("failed", repr(error.cause))
        self.replicas.outstanding[replica] -= 1
        self.replicas.restarting.pop(replica, None)
        return answer

    def _progress(self, replica: int) -> tuple[int, int] | None:
        """Samples that an actor has scored and bytes that it uploaded; None when it gives no sign of life."""
        try:
            found = ray.get(self.actors[replica].statistics.remote(), timeout=_SIGN_OF_LIFE_S)
        except (GetTimeoutError, RayActorError):
            return None
        return found["samples_scored"], found["uploaded_bytes"]

    def _release(self, request: Request, *, restart: bool = False) -> None:
        """The request is over without an answer."""
        replica = request.replica
        self.replicas.outstanding[replica] -= 1
        if restart:
            end_process(self.actors[replica])
            self.replicas.ended.add(replica)
            self.replicas.turns[replica] += 1
            self.replicas.restarting[replica] = self.actors[replica].alive.remote()

    def search(
        self,
        indices: np.ndarray,
        rows: np.ndarray,
        view: np.ndarray,
        attempt: Callable[[np.ndarray], Steps[Result | None]],
    ) -> Steps[Isolated[Result]]:
        """Answers for what of a batch does not break the teacher; the rest goes into quarantine.

        Args:
            indices: which of the batch to try.
            rows: int64 [B], of the batch.
            view: int64 [B], of the batch.
            attempt: the answer for some indices, or None when it broke the teacher.

        Raises:
            LeftOutError: it breaks on too many samples, and is left out.
            TeacherError: it breaks on too many samples; names them.
        """
        assert self.tolerance is not None, "a batch is searched only where that is asked for"
        tolerance, known = self.tolerance, self.quarantine.rows
        elsewhere = known.difference(rows.tolist())  # others may turn out to be bad here again
        found = yield from isolate(indices, attempt, tolerance.most - len(elsewhere))
        bad = [(int(rows[index]), int(view[index])) for index in found.bad]
        if len(every := known.union(row for row, _ in bad)) > tolerance.most:
            why = tolerance.exceeded(self.name, sorted(every))
            decision = self.policy.refuse(why, sick=not found.answered)
            self._report("failed", decision)
            self._end(decision)
        for row, number in bad:
            self.quarantine.known.add((row, number))
            tolerance.keep(self.name, row, number)
            self.emit(quarantined(self.stage, tolerance, self.name, row, number))
        return found

    def _end(self, decision: Decision) -> None:
        """Carry out the end of a teacher, where that was decided."""
        if decision.action == "stop":
            raise TeacherError(decision.reason)
        if decision.action == "leave_out":
            self.lost = True
            raise LeftOutError

    def _report(self, cause: Cause, decision: Decision) -> None:
        text, action = decision.reason, decision.action
        self.load.failures += 1
        publish(self.name, cause, failures=1)
        self.emit(events.failure(self.stage, text, decision=action, teacher=self.name, cause=cause))


def _is_there(reference: Any) -> bool:
    """Whether there is an answer to take, or an error, without waiting."""
    return bool(ray.wait([reference], timeout=0)[0])
