"""Who asks the actors: each wait bounded, each failure told apart, decided on by the policy, and logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)

from raykd.config.root import TeacherCluster
from raykd.errors import NonFiniteError, TeacherError
from raykd.targets import codec
from raykd.targets.quarantine_log import assemble
from raykd.targets.source import Deadline
from raykd.teachers.model import Inputs, count
from raykd.teachers.policy import BREAKS, Cause, Decision, FailurePolicy
from raykd.teachers.quarantine import Isolated, Quarantine, Tolerance, isolate, quarantined
from raykd.teachers.utilization import TeacherLoad
from raykd.tracking import Event, events
from raykd.types import ORIGINAL_VIEW, Dense, TeacherOutputs

_SIGN_OF_LIFE_S = 2.0
Parts = list[tuple[np.ndarray, codec.Arrays]]


@dataclass
class Pool:
    """The actors of one teacher, with the requests each has outstanding.

    Attributes:
        name: the teacher's name.
        actors: handles of its replicas.
        outstanding: requests under way at each.
        dead: replicas that come back no more.
        restarting: replicas that are starting again -> reference to their first sign of life.
        ended: replicas that were ended for a restart, and not asked since.
        turns: how often each replica was ended for a restart.
        lost: whether the teacher is left out.
        load: how busy it was.
        quarantine: what it is not asked any more.
    """

    name: str
    actors: list[Any]
    outstanding: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    restarting: dict[int, Any] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    turns: list[int] = field(default_factory=list)
    lost: bool = False
    load: TeacherLoad = field(default_factory=TeacherLoad)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def __post_init__(self) -> None:
        self.outstanding = [0] * len(self.actors)
        self.turns = [0] * len(self.actors)

    def pick(self, avoid: int | None = None) -> int:
        """The least busy replica; a dead one, `avoid`, or one that is being restarted only if need be."""

        def rank(replica: int) -> tuple[bool, bool, bool, int]:
            loading = replica in self.restarting
            return (replica in self.dead, replica == avoid, loading, self.outstanding[replica])

        return min(range(len(self.actors)), key=rank)


@dataclass(frozen=True)
class Request:
    """Some samples that one replica was asked for.

    Attributes:
        replica: its number.
        reference: of the answer to come.
        rows, view: int64 [B].
        turn: how often the replica had been ended for a restart.
        early: whether the replica was being ended for a restart, and may have taken this request with it.
        inputs: the samples themselves, where they are of no data set.
    """

    replica: int
    reference: Any
    rows: np.ndarray
    view: np.ndarray
    turn: int = 0
    early: bool = False
    inputs: Inputs | None = None

    @property
    def answered(self) -> bool:
        """Whether there is an answer to take, or an error, without waiting."""
        return bool(ray.wait([self.reference], timeout=0)[0])


@dataclass(frozen=True)
class Asked:
    """One teacher asked about one batch.

    Attributes:
        rows, view: int64 [B], of the whole batch.
        places: what of it was asked together; the rest is in quarantine, or in `alone`.
        alone: samples that broke the teacher in another view.
        request: for `places`; None where there are none.
    """

    rows: np.ndarray
    view: np.ndarray
    places: np.ndarray
    alone: np.ndarray
    request: Request | None


class _LeftOutError(Exception):
    """The teacher is left out from now on."""


class Client:
    """Asks the actors; each worker of the student has one of its own. Picklable before its first use.

    A request is waited for until `request_timeout_s` is over (then the policy decides what is tried next) or the
    deadline of whoever collects, whichever comes first; at the deadline nothing more is tried.

    Args:
        actors: teacher name -> handles of its replicas.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
        tolerance: how many samples may break a teacher; None = no batch is searched for them.
    """

    def __init__(
        self,
        actors: Mapping[str, Sequence[Any]],
        settings: TeacherCluster,
        emit: Callable[[Event], None],
        tolerance: Tolerance | None = None,
    ) -> None:
        self.pools = {name: Pool(name, list(handles)) for name, handles in actors.items()}
        if tolerance is not None:
            for pool in self.pools.values():
                pool.quarantine.known |= tolerance.recall(pool.name)
        self.settings = settings
        self.emit = emit
        self.tolerance = tolerance
        self.retries = 0
        self.temperatures: Mapping[str, float] = {}
        """Teacher -> at which its logits are going to be used, 1 where none is given."""

    def submit(self, names: Sequence[str], rows: np.ndarray, view: np.ndarray) -> dict[str, Asked]:
        """Ask several teachers at once; returns without waiting."""
        asked = {}
        for pool in [self.pools[name] for name in names if not self.pools[name].lost]:
            places, alone = pool.quarantine.sort(rows, view)
            request = self._ask(pool, rows[places], view[places]) if len(places) else None
            asked[pool.name] = Asked(rows, view, places, alone, request)
        return asked

    def submit_inputs(self, names: Sequence[str], inputs: Inputs) -> dict[str, Asked]:
        """Ask several teachers at once about samples of no data set: name -> [B, ...]."""
        places = np.arange(count(inputs))
        rows, view, none = np.full_like(places, -1), np.full_like(places, ORIGINAL_VIEW), places[:0]
        pools = [self.pools[name] for name in names if not self.pools[name].lost]
        requests = {pool.name: self._ask(pool, rows, view, inputs=inputs) for pool in pools}
        return {n: Asked(rows, view, places, none, request) for n, request in requests.items()}

    def collect(
        self, names: Sequence[str], asked: Mapping[str, Asked], deadline: Deadline | None = None
    ) -> TeacherOutputs:
        """The answers, in the order of `names`; a teacher left out answers nothing, validly for no row.

        Args:
            names: of the teachers.
            asked: what `submit` returned.
            deadline: of all the answers; None = each request has its own alone.

        Raises:
            TargetTimeoutError: an answer was not there in time.
            TeacherError: a teacher is lost and the policy is to stop, or all are, or one breaks on more
                samples than allowed.
        """
        due = deadline or Deadline(math.inf)
        return self.whole(
            {n: self._answer(n, asked[n], due) if n in asked else None for n in names}
        )

    def whole(self, found: Mapping[str, Dense | None]) -> TeacherOutputs:
        """The answers of all teachers to one batch; those that gave none answer validly for no row.

        Raises:
            TeacherError: none gave any.
        """
        answers = {name: answer for name, answer in found.items() if answer is not None}
        if not answers:
            raise TeacherError(f"no teacher is left of {', '.join(found)}")
        like = next(iter(answers.values()))
        return {n: answers[n] if n in answers else codec.absent(like) for n in found}

    def _ask(
        self,
        pool: Pool,
        rows: np.ndarray,
        view: np.ndarray,
        *,
        inputs: Inputs | None = None,
        avoid: int | None = None,
    ) -> Request:
        for back in [i for i, alive in pool.restarting.items() if ray.wait([alive], timeout=0)[0]]:
            del pool.restarting[back]
        replica = pool.pick(avoid)
        pool.load.asked += 1
        pool.load.queued += sum(pool.outstanding)
        pool.outstanding[replica] += 1
        early = replica in pool.ended
        pool.ended.discard(replica)
        actor, turn = pool.actors[replica], pool.turns[replica]
        if inputs is None:
            return Request(replica, actor.score.remote(rows, view), rows, view, turn, early)
        return Request(replica, actor.score_inputs.remote(inputs), rows, view, turn, early, inputs)

    def _again(self, pool: Pool, request: Request, avoid: int | None = None) -> Request:
        return self._ask(pool, request.rows, request.view, inputs=request.inputs, avoid=avoid)

    def parts(self, name: str, asked: Asked, deadline: Deadline) -> Parts | None:
        """One teacher's answer as places in what was asked, and the encoded answers for them.

        Samples in quarantine are in no part; None comes from a teacher that is left out.

        Raises:
            TargetTimeoutError: it was not there in time.
        """
        pool = self.pools[name]
        try:
            parts = self._together(pool, asked, deadline)
            for place in asked.alone:
                parts += self._isolated(pool, asked, np.array([place]), deadline)
        except _LeftOutError:
            return None
        return parts

    def in_quarantine(self, name: str, rows: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Bool [B]: which views [B] of rows [B] a teacher is not asked any more."""
        known = self.pools[name].quarantine.known
        pairs = zip(rows.tolist(), view.tolist(), strict=True)
        return np.array([pair in known for pair in pairs], bool)

    def _answer(self, name: str, asked: Asked, deadline: Deadline) -> Dense | None:
        """One teacher's answer; None from one that is left out, or where all of it is in quarantine."""
        parts = self.parts(name, asked, deadline)
        if parts is None:
            return None
        return assemble(parts, len(asked.rows), self.temperatures.get(name, 1.0))

    def _together(self, pool: Pool, asked: Asked, deadline: Deadline) -> Parts:
        if asked.request is None:
            return []
        arrays = self._settle(pool, asked.request, deadline)
        if arrays is None:
            return self._isolated(pool, asked, asked.places, deadline)
        return [(asked.places, arrays)]

    def _settle(
        self, pool: Pool, request: Request, deadline: Deadline, *, searching: bool = False
    ) -> codec.Arrays | None:
        """The answer to a request, made again as the policy says; None when samples in it break the teacher.

        Args:
            pool: the teacher.
            request: what was asked.
            deadline: when it is due.
            searching: whether a single break is an answer already.
        """
        if pool.lost:
            raise _LeftOutError
        attempts = breaks = 0
        while True:
            if request.turn < pool.turns[request.replica] and not request.answered:
                # asked before it was ended: Ray takes 5 s to kill what hangs, and only then says so
                self._release(pool, request, restart=False)
                request = self._again(pool, request)
            found = self._wait(pool, request, deadline)
            if isinstance(found, dict):
                return found
            cause, detail = found
            if cause == "dead" and request.early:
                self._release(pool, request, restart=False)
                request = self._again(pool, request)
                continue
            attempts, breaks = attempts + 1, breaks + (cause in BREAKS)
            if searching and cause in BREAKS:
                text = f"{cause} on {len(request.rows)} samples of a batch that is searched"
                self._log(pool, cause, Decision("isolate", f"teacher {pool.name!r}: {text}"))
                self._release(pool, request, restart=False)
                return None
            decision = self._policy(pool).decide(
                pool.name, cause, attempts, breaks=breaks, detail=detail
            )
            self._log(pool, cause, decision)
            if decision.action == "wait":
                continue
            self._release(pool, request, restart=decision.action == "restart")
            if decision.action == "isolate":
                return None
            self._end(pool, decision)
            self.retries += 1
            request = self._again(pool, request, avoid=request.replica)

    def _policy(self, pool: Pool) -> FailurePolicy:
        replicas = len(pool.actors)
        limit = self.settings.max_restarts + replicas
        return FailurePolicy(
            self.settings.on_failure, limit, replicas, isolates=self.tolerance is not None
        )

    def _wait(
        self, pool: Pool, request: Request, deadline: Deadline
    ) -> codec.Arrays | tuple[Cause, str]:
        """The answer, or why there is none."""
        replica, left_s = request.replica, deadline.left_s
        patience_s = self._patience_s(pool, replica)
        try:
            arrays: codec.Arrays
            arrays, seconds = ray.get(request.reference, timeout=min(patience_s, left_s))
        except GetTimeoutError:
            if left_s <= patience_s:
                raise deadline.exceeded(f"teacher {pool.name!r}") from None
            return ("slow" if self._lives(pool, replica) else "hung"), ""
        except (RayActorError, ObjectLostError) as error:
            if isinstance(error, ActorDiedError):
                pool.dead.add(replica)
            else:
                pool.restarting[replica] = pool.actors[replica].alive.remote()
            return "dead", ""
        except RayTaskError as error:
            if isinstance(error.cause, NonFiniteError):
                return "non_finite", ""
            return "failed", repr(error.cause)
        pool.outstanding[replica] -= 1
        pool.restarting.pop(replica, None)
        pool.load.requests += 1
        pool.load.samples += len(request.rows)
        pool.load.size_bytes += sum(array.nbytes for array in arrays.values())
        pool.load.busy_s += seconds
        return arrays

    def _patience_s(self, pool: Pool, replica: int) -> float:
        """How long to wait for an answer; one that is being restarted has to load its model first."""
        loading = replica in pool.restarting
        return self.settings.request_timeout_s + loading * self.settings.start_timeout_s

    def _lives(self, pool: Pool, replica: int) -> bool:
        """Whether an actor that is at work gives a sign of life."""
        try:
            ray.get(pool.actors[replica].alive.remote(), timeout=_SIGN_OF_LIFE_S)
        except (GetTimeoutError, RayActorError):
            return False
        return True

    def _release(self, pool: Pool, request: Request, *, restart: bool) -> None:
        """The request is over without an answer."""
        pool.outstanding[request.replica] -= 1
        if restart:
            actor = pool.actors[request.replica]
            ray.kill(actor, no_restart=False)
            pool.ended.add(request.replica)
            pool.turns[request.replica] += 1
            pool.restarting[request.replica] = actor.alive.remote()

    def _end(self, pool: Pool, decision: Decision) -> None:
        """Carry out the end of a teacher, where that was decided."""
        if decision.action == "stop":
            raise TeacherError(decision.reason)
        if decision.action == "leave_out":
            pool.lost = True
            raise _LeftOutError

    def _isolated(self, pool: Pool, asked: Asked, places: np.ndarray, deadline: Deadline) -> Parts:
        """Answers for what of a batch does not break the teacher; the rest goes into quarantine."""
        assert self.tolerance is not None, "a batch is searched only where that is asked for"
        tolerance, known = self.tolerance, pool.quarantine.rows

        def attempt(part: np.ndarray) -> codec.Arrays | None:
            request = self._ask(pool, asked.rows[part], asked.view[part])
            return self._settle(pool, request, deadline, searching=True)

        elsewhere = known.difference(
            asked.rows.tolist()
        )  # others may turn out to be bad here again
        found = isolate(places, attempt, tolerance.most - len(elsewhere))
        rows = [int(asked.rows[place]) for place in found.bad]
        if len(known.union(rows)) > tolerance.most:
            self._refuse(pool, found, [*known, *rows])
        for place, row in zip(found.bad, rows, strict=True):
            view = int(asked.view[place])
            pool.quarantine.add(row, view)
            tolerance.keep(pool.name, row, view)
            self.emit(quarantined("fleet", tolerance, pool.name, row, view))
        return found.answered

    def _refuse(self, pool: Pool, found: Isolated[codec.Arrays], rows: list[int]) -> None:
        """Too many bad samples: a sick teacher where nothing was answered, else the data are at fault."""
        assert self.tolerance is not None, "only a search can find too many"
        why = self.tolerance.exceeded(pool.name, rows)
        decision = Decision("stop", why) if found.answered else self._policy(pool).end(why)
        self._log(pool, "failed", decision)
        self._end(pool, decision)

    def _log(self, pool: Pool, cause: Cause, decision: Decision) -> None:
        self.emit(
            events.failure(
                "fleet", decision.reason, decision=decision.action, teacher=pool.name, cause=cause
            )
        )
