"""Fill the target store ahead of the students: each missing answer is computed once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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

from raykd.data import Samples
from raykd.errors import NonFiniteError, RaykdError, TeacherError
from raykd.targets.quarantine_log import add_quarantined, quarantined_rows, read_quarantined
from raykd.targets.remote import Remote
from raykd.targets.shards import Shard
from raykd.targets.store import Entry, EntryKey, append
from raykd.teachers.policy import BREAKS, Cause, FailurePolicy
from raykd.teachers.pool import ActorFleet
from raykd.teachers.quarantine import Tolerance, check_room, quarantined
from raykd.tracking import Event, events

SHARD_ROWS = 16_384
"""Rows of a shard, at most."""
_SIGN_OF_LIFE_S = 2.0
_FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Part:
    """Rows of one view that one teacher has yet to score.

    Attributes:
        teacher, view, rows: whose, and of what.
        lacking: the entries that lack them.
        outputs: the entry of the teacher's outputs, in whose folder its quarantine lies.
        attempts: how often it went wrong.
        breaks: how often in a way that a sample can cause.
    """

    teacher: str
    view: int
    rows: np.ndarray
    lacking: tuple[EntryKey, ...]
    outputs: EntryKey
    attempts: int = 0
    breaks: int = 0


def missing_parts(
    root: Path,
    keys: Mapping[str, tuple[EntryKey, ...]],
    samples: Samples,
    rows: np.ndarray,
    views: list[int],
) -> Iterator[Part]:
    """What the store lacks of these rows in these views, quarantine apart, in parts of one shard each.

    Args:
        root: the store's folder.
        keys: teacher -> the entries that are wanted, that of its outputs first.
        samples: the data.
        rows: int64.
        views: numbers of views.
    """
    ids, hashes = samples.ids[rows], samples.content_hash(rows)
    for teacher, wanted in keys.items():
        entries = [Entry(root, key) for key in wanted]
        gaps = read_quarantined(entries[0].folder)
        for view in views:
            lacks_NE = np.zeros((len(rows), len(entries)), bool)
            for place, entry in enumerate(entries):
                lacks_NE[entry.missing(ids, hashes, view), place] = True
            if gaps:
                pairs = zip(ids.tolist(), hashes.tolist(), strict=True)
                lacks_NE[[(*pair, view) in gaps for pair in pairs]] = False
            for lacking, alike in _alike(lacks_NE):
                for start in range(0, len(alike), SHARD_ROWS):
                    yield Part(
                        teacher,
                        view,
                        rows[alike[start : start + SHARD_ROWS]],
                        tuple(wanted[place] for place in lacking),
                        wanted[0],
                    )


def _alike(lacks_NE: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which entries are lacking -> the rows [n] that lack just these; what lacks none is left out."""
    for pattern_E in np.unique(lacks_NE, axis=0):
        if pattern_E.any():
            yield np.flatnonzero(pattern_E), np.flatnonzero((lacks_NE == pattern_E).all(axis=1))


def fill(
    root: Path,
    parts: Sequence[Part],
    fleet: ActorFleet,
    emit: Callable[[Event], None],
    tolerance: Tolerance | None = None,
    remote: Remote | None = None,
) -> dict[str, int]:
    """Score `parts` on the fleet's actors, which write the shards themselves.

    Each finished shard is entered in its manifest at once, so that a kill loses no finished one. A part that
    breaks its teacher twice is halved until the samples that do it are found; these go into the entry's
    quarantine. Of a store in a bucket the actors upload them; what was written on other nodes is left there
    until somebody pulls it.

    Returns:
        teacher -> samples scored.

    Raises:
        TeacherError: a teacher answers NaN, fails, hangs or died more often than allowed, or breaks on more
            samples than allowed.
        OSError: the store cannot be written.
    """
    return Filling(root, parts, fleet, emit, tolerance, remote).run()


@dataclass
class _Running:
    """A part under way.

    Attributes:
        actor: who scores it.
        part: what.
        seen_s: when it began or last made progress, monotonic seconds.
        done: samples that the actor had scored, and bytes uploaded, then; None before the first look.
        early: whether the actor was being ended for a restart, and may have taken this part with it.
    """

    actor: Any
    part: Part
    seen_s: float
    done: tuple[int, int] | None = None
    early: bool = False


class Filling:
    """One pass over the parts: each teacher's idle actors take the next one.

    Args:
        root: the store's folder.
        parts: what is missing.
        fleet: who scores.
        emit: where progress and failures are reported.
        samples: the data, when samples that break a teacher may be left out.
        tolerance: how many; None = none.
        remote: the bucket that the store is in.
    """

    def __init__(
        self,
        root: Path,
        parts: Sequence[Part],
        fleet: ActorFleet,
        emit: Callable[[Event], None],
        tolerance: Tolerance | None,
        remote: Remote | None = None,
    ) -> None:
        self.remote = remote
        self.root, self.fleet, self.emit, self.tolerance = root, fleet, emit, tolerance
        names = list(fleet.actors)
        self.waiting = {n: deque(part for part in parts if part.teacher == n) for n in names}
        self.idle = {name: list(actors) for name, actors in fleet.actors.items()}
        self.running: dict[Any, _Running] = {}
        self.loading: set[Any] = set()
        self.ending: set[Any] = set()
        self.bad: dict[str, set[int]] = {name: set() for name in names}
        self.scored = dict.fromkeys(names, 0)
        self.total, self.done = sum(len(part.rows) for part in parts), 0
        self.begun = time.monotonic()

    def run(self) -> dict[str, int]:
        """Until nothing is missing; teacher -> samples scored."""
        patience_s = self.fleet.settings.request_timeout_s
        while any(self.waiting.values()) or self.running:
            self._dispatch()
            ready, _ = ray.wait(list(self.running), timeout=patience_s)
            if ready:
                self._take(ready[0])
            self._check_progress(patience_s)
        return self.scored

    def _dispatch(self) -> None:
        for name, actors in self.idle.items():
            while actors and self.waiting[name]:
                actor, part = actors.pop(), self.waiting[name].popleft()
                reference = actor.fill.remote(
                    self.root, part.rows, part.view, part.lacking, self.remote
                )
                start_s = self.fleet.settings.start_timeout_s if actor in self.loading else 0.0
                early, seen_s = actor in self.ending, time.monotonic() + start_s
                self.running[reference] = _Running(actor, part, seen_s, early=early)
                self.loading.discard(actor)
                self.ending.discard(actor)

    def _take(self, reference: Any) -> None:
        """A part is finished, or went wrong."""
        run = self.running.pop(reference)
        try:
            shards: list[Shard] = ray.get(reference, timeout=_FETCH_TIMEOUT_S)
        except ActorDiedError as error:
            self._lose(run, error)
        except (RayActorError, ObjectLostError):
            self._died(run)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, NonFiniteError):
                self._again(run, "non_finite", "")
            elif isinstance(cause, RaykdError | OSError):
                raise cause from error
            else:
                self._again(run, "failed", repr(cause))
        else:
            for key, shard in zip(run.part.lacking, shards, strict=True):
                if self.remote is None or (self.root / key.folder / shard.file).is_file():
                    append(self.root, key, [shard])
            self.idle[run.part.teacher].append(run.actor)
            self._count(run.part)

    def _died(self, run: _Running) -> None:
        """Its actor is starting again."""
        self.loading.add(run.actor)
        if run.early:
            self._put_back(run.actor, run.part)
        else:
            self._again(run, "dead", "")

    def _count(self, part: Part) -> None:
        self.scored[part.teacher] += len(part.rows)
        self.done += len(part.rows)
        rate = self.done / max(1e-9, time.monotonic() - self.begun)
        self.emit(
            events.progress(
                "targets", done=self.done, total=self.total, unit="samples", rate_per_s=rate
            )
        )

    def _lose(self, run: _Running, error: Exception) -> None:
        """An actor that comes back no more; another replica takes its part."""
        name = run.part.teacher
        if not self.idle[name] and all(r.part.teacher != name for r in self.running.values()):
            raise TeacherError(
                f"teacher {name!r} died more often than cluster.teachers.max_restarts allows"
            ) from error
        message = f"teacher {name!r}: a replica is dead; another one takes its part"
        self.emit(events.failure("targets", message, decision="retry", teacher=name, cause="dead"))
        self.waiting[name].appendleft(run.part)

    def _again(self, run: _Running, cause: Cause, detail: str) -> None:
        """What the policy says of a part that went wrong."""
        part, replicas = run.part, len(self.fleet.actors[run.part.teacher])
        part = replace(part, attempts=part.attempts + 1, breaks=part.breaks + (cause in BREAKS))
        limit = self.fleet.settings.max_restarts + replicas
        policy = FailurePolicy("stop", limit, replicas, isolates=self.tolerance is not None)
        decision = policy.decide(
            part.teacher, cause, part.attempts, breaks=part.breaks, detail=detail
        )
        self.emit(
            events.failure(
                "targets",
                decision.reason,
                decision=decision.action,
                teacher=part.teacher,
                cause=cause,
            )
        )
        if decision.action == "stop":
            raise TeacherError(decision.reason)
        if decision.action == "restart":
            ray.kill(run.actor, no_restart=False)
            self.loading.add(run.actor)
            self.ending.add(run.actor)
        if decision.action == "isolate":
            self.idle[part.teacher].insert(0, run.actor)
            self._bisect(part)
        else:
            self._put_back(run.actor, part)

    def _put_back(self, actor: Any, part: Part) -> None:
        """A part is to be done again, by another actor where there is one."""
        self.idle[part.teacher].insert(0, actor)
        self.waiting[part.teacher].appendleft(part)

    def _bisect(self, part: Part) -> None:
        """Halve a part that broke its teacher twice; a single sample goes into quarantine."""
        assert self.tolerance is not None, "a part is searched only where that is asked for"
        if len(part.rows) > 1:
            for half in reversed(np.array_split(part.rows, 2)):
                known = 1 if len(half) > 1 else 0  # a single sample has to break it twice
                smaller = replace(part, rows=half, attempts=known, breaks=known)
                self.waiting[part.teacher].appendleft(smaller)
            return
        row, bad = int(part.rows[0]), self.bad[part.teacher]
        bad.add(row)
        folder = self.root / part.outputs.folder
        known_rows = {
            r for r, _ in quarantined_rows(folder, self.tolerance.ids, self.tolerance.hashes)
        }
        check_room(self.tolerance, part.teacher, bad | known_rows)
        sample, content = int(self.tolerance.ids[row]), int(self.tolerance.hashes[row])
        add_quarantined(folder, [(sample, content, part.view)])
        self.emit(quarantined("targets", self.tolerance, part.teacher, row, part.view))
        self.done += 1

    def _check_progress(self, patience_s: float) -> None:
        """An actor that makes no progress is hung, be its process alive or not; long parts alone are not."""
        now = time.monotonic()
        for reference, run in list(self.running.items()):
            if now - run.seen_s < patience_s or ray.wait([reference], timeout=0)[0]:
                continue
            done = _progress(run.actor)
            if done is not None and done != run.done:
                run.done, run.seen_s = done, time.monotonic()
                continue
            del self.running[reference]
            self._again(run, "hung", "")


def _progress(actor: Any) -> tuple[int, int] | None:
    """Samples that an actor has scored and bytes that it uploaded; None when it gives no sign of life."""
    try:
        told = ray.get(actor.statistics.remote(), timeout=_SIGN_OF_LIFE_S)
    except (GetTimeoutError, RayActorError):
        return None
    return told["samples_scored"], told["uploaded_bytes"]
