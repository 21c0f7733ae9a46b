"""The fleet: a pool of actors for each teacher, all asked in parallel, each wait bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray import cloudpickle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from raykd.config.root import TeacherCluster
from raykd.errors import TeacherError
from raykd.targets import codec
from raykd.teachers.actor import TeacherActor
from raykd.teachers.model import Recorded, Spec
from raykd.teachers.policy import Cause, Decision, FailurePolicy
from raykd.tracking import Event, events
from raykd.types import TeacherOutputs

_STATISTICS_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Place:
    """Resources of one teacher's actors.

    Attributes:
        replicas: actors.
        cpus, gpus: per actor; fractions share.
        runtime_env: Ray runtime environment, or None.
    """

    replicas: int
    cpus: float
    gpus: float
    runtime_env: Mapping[str, Any] | None = None


@dataclass
class Pool:
    """The actors of one teacher, with the requests each has outstanding.

    Attributes:
        name: the teacher's name.
        actors: handles of its replicas.
        outstanding: requests under way at each.
        dead: replicas that come back no more.
        restarting: replicas that were restarted -> reference to their first sign of life.
        lost: whether the teacher is left out.
    """

    name: str
    actors: list[Any]
    outstanding: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    restarting: dict[int, Any] = field(default_factory=dict)
    lost: bool = False

    def __post_init__(self) -> None:
        self.outstanding = [0] * len(self.actors)

    def pick(self, avoid: int | None = None) -> int:
        """The least busy replica; a dead one, `avoid`, or one that is being restarted only if need be."""

        def rank(replica: int) -> tuple[bool, bool, bool, int]:
            loading = replica in self.restarting
            return (replica in self.dead, replica == avoid, loading, self.outstanding[replica])

        return min(range(len(self.actors)), key=rank)


@dataclass(frozen=True)
class Request:
    """One teacher asked about one batch."""

    replica: int
    reference: Any
    rows: np.ndarray
    view: np.ndarray


class Client:
    """Asks the actors; each worker of the student has one of its own. Picklable before its first use.

    Args:
        actors: teacher name -> handles of its replicas.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
    """

    def __init__(
        self,
        actors: Mapping[str, Sequence[Any]],
        settings: TeacherCluster,
        emit: Callable[[Event], None],
    ) -> None:
        self.pools = {name: Pool(name, list(handles)) for name, handles in actors.items()}
        self.settings = settings
        self.emit = emit
        self.retries = 0

    def submit(
        self, names: Sequence[str], rows: np.ndarray, view: np.ndarray
    ) -> dict[str, Request]:
        """Ask several teachers at once; returns without waiting."""
        return {n: self._ask(self.pools[n], rows, view) for n in names if not self.pools[n].lost}

    def collect(self, names: Sequence[str], requests: Mapping[str, Request]) -> TeacherOutputs:
        """The answers, in the order of `names`; a teacher left out answers nothing, validly for no row.

        Raises:
            TeacherError: a teacher is lost and the policy is to stop, or all are.
        """
        found = {name: self._answer(self.pools[name], requests.get(name)) for name in names}
        answers = {
            name: codec.decode(arrays) for name, arrays in found.items() if arrays is not None
        }
        if not answers:
            raise TeacherError(f"no teacher is left of {', '.join(names)}")
        like = next(iter(answers.values()))
        return {n: answers[n] if n in answers else codec.absent(like) for n in names}

    def _ask(
        self, pool: Pool, rows: np.ndarray, view: np.ndarray, avoid: int | None = None
    ) -> Request:
        for back in [i for i, alive in pool.restarting.items() if ray.wait([alive], timeout=0)[0]]:
            del pool.restarting[back]
        replica = pool.pick(avoid)
        pool.outstanding[replica] += 1
        return Request(replica, pool.actors[replica].score.remote(rows, view), rows, view)

    def _answer(self, pool: Pool, request: Request | None) -> codec.Arrays | None:
        attempts = 0
        while request is not None and not pool.lost:
            attempts += 1
            try:
                arrays: codec.Arrays = ray.get(
                    request.reference, timeout=self._patience_s(pool, request)
                )
            except (GetTimeoutError, RayActorError, RayTaskError) as error:
                pool.outstanding[request.replica] -= 1
                if isinstance(error, ActorDiedError):
                    pool.dead.add(request.replica)
                request = self._recover(pool, request, _cause(pool.name, error), attempts)
                continue
            pool.outstanding[request.replica] -= 1
            pool.restarting.pop(request.replica, None)
            return arrays
        return None

    def _patience_s(self, pool: Pool, request: Request) -> float:
        """How long to wait for an answer; one that is being restarted has to load its model first."""
        loading = request.replica in pool.restarting
        return self.settings.request_timeout_s + loading * self.settings.start_timeout_s

    def _recover(self, pool: Pool, request: Request, cause: Cause, attempts: int) -> Request | None:
        limit = 1 + self.settings.max_restarts + len(pool.actors) - 1
        decision = FailurePolicy(self.settings.on_failure, limit).decide(pool.name, cause, attempts)
        self._log(pool.name, cause, decision)
        if decision.action == "stop":
            raise TeacherError(decision.reason)
        if decision.action == "leave_out":
            pool.lost = True
            return None
        if decision.action == "restart":
            ray.kill(pool.actors[request.replica], no_restart=False)
            pool.restarting[request.replica] = pool.actors[request.replica].ready.remote()
        self.retries += 1
        return self._ask(pool, request.rows, request.view, avoid=request.replica)

    def _log(self, teacher: str, cause: Cause, decision: Decision) -> None:
        self.emit(
            events.failure(
                "fleet", decision.reason, decision=decision.action, teacher=teacher, cause=cause
            )
        )


def _cause(teacher: str, error: Exception) -> Cause:
    if isinstance(error, GetTimeoutError):
        return "timeout"
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, TeacherError):
            return "non_finite"
        raise TeacherError(f"teacher {teacher!r} failed on a batch: {error.cause!r}") from error
    return "dead"


class Fleet:
    """Starts the actors, waits until their models are loaded, and ends them.

    Use as a context manager. `score` is the simple way to ask; training goes through `live`.

    Args:
        specs: teacher name -> what to host.
        places: teacher name -> resources.
        samples: object reference of the data.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec | Recorded],
        places: Mapping[str, Place],
        samples: Any,
        settings: TeacherCluster,
        emit: Callable[[Event], None],
    ) -> None:
        self.specs = dict(specs)
        self.settings = settings
        self._references = {name: [ray.put(spec), samples] for name, spec in specs.items()}
        self.actors = {
            name: [_start(references, places[name], settings) for _ in range(places[name].replicas)]
            for name, references in self._references.items()
        }
        self.client = Client(self.actors, settings, emit)

    def __enter__(self) -> Fleet:
        try:
            self._await()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _await(self) -> None:
        deadline = time.monotonic() + self.settings.start_timeout_s
        for name, actors in self.actors.items():
            for actor in actors:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    ray.get(actor.ready.remote(), timeout=left)
                except GetTimeoutError:
                    raise TeacherError(
                        f"teacher {name!r} did not start within {self.settings.start_timeout_s:g} s: the "
                        "cluster lacks its CPUs or GPUs, or its model loads slowly; lower "
                        "cluster.teachers.cpus or raise cluster.teachers.start_timeout_s"
                    ) from None
                except (ActorDiedError, RayTaskError) as error:
                    cause = str(error).strip().splitlines()[-1]  # before it stands its traceback
                    raise TeacherError(
                        f"teacher {name!r} could not load its model: {cause}"
                    ) from error

    def score(self, rows: np.ndarray, view: int | np.ndarray) -> TeacherOutputs:
        """What every teacher says of rows [B] in one view, or in one view per row."""
        names = list(self.specs)
        views = np.broadcast_to(np.asarray(view, np.int64), rows.shape)
        return self.client.collect(names, self.client.submit(names, rows, views))

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per teacher: samples scored and seconds busy, over its replicas that live (since their start)."""
        asked = {
            name: [a.statistics.remote() for a in handles] for name, handles in self.actors.items()
        }
        totals = {name: {"samples_scored": 0, "busy_s": 0.0} for name in asked}
        for name, references in asked.items():
            for reference in references:
                with suppress(RayActorError, GetTimeoutError):
                    for key, value in ray.get(reference, timeout=_STATISTICS_TIMEOUT_S).items():
                        totals[name][key] += value
        return totals

    def close(self) -> None:
        """End the actors and give their resources back."""
        for actors in self.actors.values():
            for actor in actors:
                ray.kill(actor)


def _start(references: Sequence[Any], place: Place, settings: TeacherCluster) -> Any:
    actor = ray.remote(TeacherActor).options(
        num_cpus=place.cpus,
        num_gpus=place.gpus,
        runtime_env=dict(place.runtime_env) if place.runtime_env else None,
        max_restarts=settings.max_restarts,
        max_task_retries=settings.max_restarts,
    )
    return actor.remote(cloudpickle.dumps(references), max(1, int(place.cpus)))
