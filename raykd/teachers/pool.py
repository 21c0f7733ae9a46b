"""The fleet: a pool of actors for each teacher, all asked in parallel, each wait bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from raykd.config.root import TeacherCluster
from raykd.errors import TeacherError
from raykd.targets import codec
from raykd.teachers.actor import TeacherActor
from raykd.teachers.model import Recorded, Spec
from raykd.teachers.policy import Cause, Decision, FailurePolicy
from raykd.tracking import Event, events
from raykd.types import Dense, TeacherOutputs


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
    """The actors of one teacher, with the requests each has outstanding."""

    name: str
    actors: list[Any]
    outstanding: list[int] = field(default_factory=list)
    lost: bool = False

    def __post_init__(self) -> None:
        self.outstanding = [0] * len(self.actors)

    def pick(self, avoid: int | None = None) -> int:
        """The replica with the fewest requests outstanding, another one than `avoid` if there is one."""
        free = [i for i in range(len(self.actors)) if i != avoid] or [0]
        return min(free, key=lambda i: self.outstanding[i])


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
        return {name: answers[name] if name in answers else _silent(like) for name in names}

    def _ask(
        self, pool: Pool, rows: np.ndarray, view: np.ndarray, avoid: int | None = None
    ) -> Request:
        replica = pool.pick(avoid)
        pool.outstanding[replica] += 1
        return Request(replica, pool.actors[replica].score.remote(rows, view), rows, view)

    def _answer(self, pool: Pool, request: Request | None) -> codec.Arrays | None:
        attempts = 0
        while request is not None and not pool.lost:
            attempts += 1
            try:
                arrays: codec.Arrays = ray.get(
                    request.reference, timeout=self.settings.request_timeout_s
                )
            except (GetTimeoutError, RayActorError, RayTaskError) as error:
                pool.outstanding[request.replica] -= 1
                request = self._recover(pool, request, _cause(error), attempts)
                continue
            pool.outstanding[request.replica] -= 1
            return arrays
        return None

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
        self.retries += 1
        return self._ask(pool, request.rows, request.view, avoid=request.replica)

    def _log(self, teacher: str, cause: Cause, decision: Decision) -> None:
        self.emit(
            events.failure(
                "fleet", decision.reason, decision=decision.action, teacher=teacher, cause=cause
            )
        )


def _cause(error: Exception) -> Cause:
    if isinstance(error, GetTimeoutError):
        return "timeout"
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, TeacherError):
            return "non_finite"
        raise error
    return "dead"


def _silent(like: Dense) -> Dense:
    return Dense(
        kind=like.kind,
        values_NC=torch.zeros_like(like.values_NC),
        valid_N=torch.zeros_like(like.valid_N),
    )


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
                    raise TeacherError(
                        f"teacher {name!r} could not load its model: {error}"
                    ) from error

    def score(self, rows: np.ndarray, view: int | np.ndarray) -> TeacherOutputs:
        """What every teacher says of rows [B] in one view, or in one view per row."""
        names = list(self.specs)
        views = np.broadcast_to(np.asarray(view, np.int64), rows.shape)
        return self.client.collect(names, self.client.submit(names, rows, views))

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per teacher: samples scored and seconds busy, over its replicas."""
        totals = {}
        for name, actors in self.actors.items():
            parts = ray.get([actor.statistics.remote() for actor in actors], timeout=60)
            totals[name] = {key: sum(part[key] for part in parts) for key in parts[0]}
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
