"""The fleet: a pool of actors for each teacher, all asked in parallel, each wait bounded."""

from __future__ import annotations

import time
from collections import defaultdict
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
from raykd.runtime import Crew
from raykd.teachers.actor import CONTROL, SCORE, TeacherActor
from raykd.teachers.client import Client, Question
from raykd.teachers.executor import Replicas
from raykd.teachers.joining import WAITING
from raykd.teachers.model import AnySpec, Inputs
from raykd.teachers.seats import Seat, forget
from raykd.top_k import dense_answers
from raykd.tracking import Event
from raykd.types import TeacherOutputs

_STATISTICS_TIMEOUT_S = 60.0
_SEAT = {"CPU": 1.0}
"""Of a process of the crew: that of a student's worker, so that it goes on to train."""


@dataclass(frozen=True)
class TeacherResources:
    """Resources of one teacher's actors.

    Attributes:
        replicas: actors.
        cpus, gpus: per actor; fractions share.
        runtime_env: Ray runtime environment, or None.
        node_labels: of the nodes that they may run on.
    """

    replicas: int
    cpus: float
    gpus: float
    runtime_env: Mapping[str, Any] | None = None
    node_labels: Mapping[str, str] = field(default_factory=dict)


class ActorFleet:
    """Starts the actors, waits until their models are loaded, and ends them.

    Use as a context manager. `score` is the simple way to ask; training goes through `live`.

    Args:
        specs: teacher name -> what to host.
        resources_of: teacher name -> resources.
        samples: object reference of the data.
        settings: timeouts and the failure policy.
        emit: where failures are reported.
        crew: whose processes answer for all teachers, in place of actors of their own; None = actors.
        seats: how many of these processes.

    Attributes:
        shared: what is known of the crew's processes; None of actors.
    """

    def __init__(
        self,
        specs: Mapping[str, AnySpec],
        resources_of: Mapping[str, TeacherResources],
        samples: Any,
        settings: TeacherCluster,
        emit: Callable[[Event], None],
        crew: Crew | None = None,
        seats: int = 0,
    ) -> None:
        self.specs = dict(specs)
        self._crew = crew
        self._members = [crew.take(_SEAT) for _ in range(seats)] if crew is not None else []
        self.shared = Replicas(len(self._members)) if self._members else None
        self.settings = settings
        self._held: list[Any] = []
        self.actors: dict[str, list[Any]] = {}
        for name, spec in specs.items():
            pickled, held = _pickled([ray.put(spec), samples])
            self._held += held
            resources = resources_of[name]
            self.actors[name] = [Seat(member, pickled) for member in self._members] or [
                _start(pickled, resources, settings) for _ in range(resources.replicas)
            ]
        self.client = Client(self.actors, settings, emit, shared=self.shared)

    def __enter__(self) -> ActorFleet:
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
        loading = {name: [a.ready.remote() for a in actors] for name, actors in self.actors.items()}
        for name, references in loading.items():
            for reference in references:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    ray.get(reference, timeout=left)
                except GetTimeoutError:
                    raise TeacherError(
                        f"teacher {name!r} did not start within {self.settings.start_timeout_s:g} s: the "
                        "cluster lacks its CPUs, its GPUs or a node with its labels, or its model loads slowly; lower "
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
        return dense_answers(self.client.collect(names, self.client.submit(names, rows, views)))

    def score_at_once(
        self, rows: np.ndarray, view: int | np.ndarray, times: int
    ) -> list[TeacherOutputs]:
        """As `score`, so many times at once: the least busy replica is asked first, so that each of as many answers once."""
        names = list(self.specs)
        views = np.broadcast_to(np.asarray(view, np.int64), rows.shape)
        asked = [self.client.submit(names, rows, views) for _ in range(times)]
        return [dense_answers(self.client.collect(names, one)) for one in asked]

    def score_inputs(self, inputs: Inputs) -> TeacherOutputs:
        """What every teacher says of samples of no data set: name -> [B, ...] in source space."""
        names = list(self.specs)
        return dense_answers(
            self.client.collect(names, self.client.ask(names, Question.of_inputs(inputs)))
        )

    def processes(self, name: str) -> list[int]:
        """The ids of the processes of a teacher's replicas, once these are loaded."""
        ready = [actor.ready.remote() for actor in self.actors[name]]
        found: list[int] = ray.get(ready, timeout=self.settings.start_timeout_s)
        return found

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per teacher, over its replicas that live (since their start), what the actor's own gives."""
        asked = {
            name: [a.statistics.remote() for a in handles] for name, handles in self.actors.items()
        }
        totals: dict[str, dict[str, float]] = {name: defaultdict(float) for name in asked}
        for name, references in asked.items():
            for reference in references:
                with suppress(RayActorError, GetTimeoutError):
                    for key, value in ray.get(reference, timeout=_STATISTICS_TIMEOUT_S).items():
                        totals[name][key] += value
        return totals

    def close(self) -> None:
        """End the actors and give their resources back."""
        for actors in self.actors.values():
            while actors:
                actor = actors.pop()
                if self.shared is None:
                    ray.kill(actor)
        while self._members:
            member = self._members.pop()
            assert self._crew is not None, "they are the crew's"
            member.do.remote(1, forget)
            self._crew.give_back(member, _SEAT)
        self._held.clear()


def _pickled(references: Sequence[Any]) -> tuple[bytes, list[Any]]:
    """References as bytes, and what holds them.

    Ray warns of an actor whose constructor takes references themselves: started again, it might find them gone. Those
    that are pickled by hand it keeps for the life of this process; here they go with what holds them.
    """
    pickled = cloudpickle.dumps(references)
    return pickled, [ray.ObjectRef(one.binary(), skip_adding_local_ref=True) for one in references]


def _start(references: bytes, resources: TeacherResources, settings: TeacherCluster) -> Any:
    """An actor that Ray starts again whenever it dies; how often one batch may be tried is the client's."""
    groups = {CONTROL: 1, SCORE: WAITING}
    actor = ray.remote(concurrency_groups=groups)(TeacherActor).options(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        runtime_env=dict(resources.runtime_env) if resources.runtime_env else None,
        label_selector=dict(resources.node_labels) or None,
        max_restarts=-1 if settings.max_restarts else 0,
        max_task_retries=-1,
    )
    return actor.remote(references, max(1, int(resources.cpus)))
