"""Fill the target store ahead of the students: each missing answer is computed once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from raykd.data import Samples
from raykd.errors import RaykdError, TeacherError
from raykd.targets.shards import Shard
from raykd.targets.store import Entry, EntryKey, append
from raykd.teachers.pool import Fleet
from raykd.tracking import Event, events

_SHARD_ROWS = 16_384
_WAIT_S = 3600.0
_FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Part:
    """Rows of one view that one teacher has yet to score."""

    teacher: str
    key: EntryKey
    view: int
    rows: np.ndarray


def missing_parts(
    root: Path, keys: Mapping[str, EntryKey], samples: Samples, rows: np.ndarray, views: list[int]
) -> Iterator[Part]:
    """What the store lacks of these rows in these views, in parts of one shard each."""
    ids, hashes = samples.ids[rows], samples.content_hash(rows)
    for teacher, key in keys.items():
        entry = Entry(root, key)
        for view in views:
            lacking = rows[entry.missing(ids, hashes, view)]
            for start in range(0, len(lacking), _SHARD_ROWS):
                yield Part(teacher, key, view, lacking[start : start + _SHARD_ROWS])


def fill(
    root: Path, parts: list[Part], fleet: Fleet, emit: Callable[[Event], None]
) -> dict[str, int]:
    """Score `parts` on the fleet's actors, which write the shards themselves.

    Each finished shard is entered in its manifest at once, so that a kill loses no finished one.

    Returns:
        teacher -> samples scored.

    Raises:
        TeacherError: a teacher answers NaN, fails, or died more often than allowed.
    """
    waiting = {name: deque(part for part in parts if part.teacher == name) for name in fleet.actors}
    idle = {name: list(actors) for name, actors in fleet.actors.items()}
    running: dict[Any, tuple[Any, Part]] = {}
    scored = dict.fromkeys(fleet.actors, 0)
    total, done, begun = sum(len(part.rows) for part in parts), 0, time.monotonic()
    while any(waiting.values()) or running:
        for name, actors in idle.items():
            while actors and waiting[name]:
                actor, part = actors.pop(), waiting[name].popleft()
                where, origin = root / part.key.folder, part.key.to_json()
                reference = actor.fill.remote(where, part.rows, part.view, origin)
                running[reference] = (actor, part)
        ready, _ = ray.wait(list(running), timeout=_WAIT_S)
        if not ready:
            raise TeacherError(f"no shard was finished within {_WAIT_S:g} s")
        actor, part = running.pop(ready[0])
        try:
            append(root, part.key, [_shard(ready[0], part.teacher)])
        except RayActorError as error:  # it comes back no more; another replica takes its part
            if not idle[part.teacher] and all(
                p.teacher != part.teacher for _, p in running.values()
            ):
                raise TeacherError(
                    f"teacher {part.teacher!r} died more often than cluster.teachers.max_restarts allows"
                ) from error
            message = f"teacher {part.teacher!r}: a replica is dead; another one takes its part"
            emit(events.failure("targets", message, decision="retry", teacher=part.teacher))
            waiting[part.teacher].appendleft(part)
            continue
        idle[part.teacher].append(actor)
        scored[part.teacher] += len(part.rows)
        done += len(part.rows)
        rate = done / max(1e-9, time.monotonic() - begun)
        emit(events.progress("targets", done=done, total=total, unit="samples", rate_per_s=rate))
    return scored


def _shard(reference: Any, teacher: str) -> Shard:
    try:
        shard: Shard = ray.get(reference, timeout=_FETCH_TIMEOUT_S)
    except RayTaskError as error:
        if isinstance(error.cause, RaykdError | OSError):
            raise error.cause from error
        raise TeacherError(f"teacher {teacher!r} failed on a batch: {error.cause!r}") from error
    return shard
