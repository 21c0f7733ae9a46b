"""Where a fit gets its targets, made in the process that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config.data import BadSamples
from raykd.config.root import TeacherCluster
from raykd.config.schedules import values_of
from raykd.data import Samples
from raykd.pipeline.recipe_store import Keys, open_store
from raykd.targets import NoTargets, StoredTargets, TargetSource, TargetStore
from raykd.targets.remote import Remote
from raykd.targets.source import Asking
from raykd.teachers import InProcess, LiveTargets, WriteThrough
from raykd.teachers.actor import held_here
from raykd.teachers.client import Client
from raykd.teachers.on_policy import AskedBeside
from raykd.teachers.quarantine import Tolerance
from raykd.tracking import Event
from raykd.train import Fit


@dataclass(frozen=True)
class FitTargets:
    """Gives a fit its targets; called in the student's worker.

    Attributes:
        root: the store's folder.
        keys: teacher -> its entries there.
        bucket: of which it is a mirror, or None.
        actors: teacher -> handles of its replicas; None = there are none any more.
        live: whether they answer for the samples of the data, too, which are read from the store otherwise.
        settings: timeouts and the failure policy.
        bad: what is done about samples that break a teacher.
        emit: where failures are reported.
        writes_through: whether the actors' answers are stored.
        hosted: reference to what is hosted in the student's own process, teacher -> spec; None = actors or the store answer.
    """

    root: Path
    keys: Keys
    bucket: Remote | None
    actors: Mapping[str, Any] | None
    live: bool
    settings: TeacherCluster
    bad: BadSamples
    emit: Callable[[Event], None]
    writes_through: bool = False
    hosted: Any = None

    def __call__(self, samples: Samples, fit: Fit) -> TargetSource | Asking:
        """The targets of one fit, with the teachers beside them where its student writes itself."""
        if not fit.teacher_infos:
            return NoTargets()
        source = self._of_samples(samples, fit)
        if fit.objective.on_policy is None:
            return source
        assert self.actors is not None, "the placement has kept the teachers"
        handles = {teacher.name: self.actors[teacher.name] for teacher in fit.teacher_infos}
        return AskedBeside(
            source,
            Client(handles, self.settings, self.emit),
            {name: self.keys[name].views for name in handles},
            reading_temperatures(fit),
        )

    def _of_samples(self, samples: Samples, fit: Fit) -> TargetSource:
        if self.hosted is not None:
            return self._in_process(samples, fit)
        if self.actors is None or not self.live:
            return StoredTargets(self._open(samples, fit))
        client = self._client(self.actors, samples, fit)
        if self.writes_through:
            return WriteThrough(client, self._open(samples, fit), fit.plan.rows)
        return LiveTargets(client, list(client.pools))

    def _open(self, samples: Samples, fit: Fit) -> TargetStore:
        keys = {teacher.name: self.keys[teacher.name] for teacher in fit.teacher_infos}
        if self.bucket is not None:  # the first worker on a node fetches what its mirror lacks
            self.bucket.pull(key for one in keys.values() for key in one.augmented)
        store = open_store(self.root, keys, samples, reading_temperatures(fit))
        store.remote = self.bucket
        return store

    def _in_process(self, samples: Samples, fit: Fit) -> InProcess:
        specs, devices = held_here(self.hosted, [teacher.name for teacher in fit.teacher_infos])
        folders = {name: self.root / self.keys[name].views.folder for name in specs}
        tolerance = tolerance_of(samples, self.bad, folders)
        return InProcess(specs, devices, samples, self.emit, tolerance, reading_temperatures(fit))

    def _client(self, actors: Mapping[str, Any], samples: Samples, fit: Fit) -> Client:
        handles = {teacher.name: actors[teacher.name] for teacher in fit.teacher_infos}
        folders = {name: self.root / one.views.folder for name, one in self.keys.items()}
        tolerance = tolerance_of(samples, self.bad, folders)
        client = Client(handles, self.settings, self.emit, tolerance)
        client.temperatures = reading_temperatures(fit)
        return client


def reading_temperatures(fit: Fit) -> dict[str, float]:
    """Teacher -> temperature at which a fit's student reads its answers; to begin with, where that changes."""
    soft = fit.objective.soft_targets
    temperature = 1.0 if soft is None else values_of(soft.course)[0]
    return {teacher.name: temperature * teacher.temperature for teacher in fit.teacher_infos}


def tolerance_of(
    samples: Samples, bad: BadSamples, folders: Mapping[str, Path] | None = None
) -> Tolerance | None:
    """How many samples may break a teacher; None = none.

    Args:
        samples: the data.
        bad: what is done about them.
        folders: teacher -> where they are written down, so that no other fit finds them anew.
    """
    return Tolerance(samples, bad.max_fraction, folders or {}) if bad.policy == "skip" else None
