"""What gives a fit its targets; called in the student's worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config.data import BadSamples
from raykd.config.root import TeacherCluster
from raykd.data import Samples
from raykd.pipeline.packing import reading_temperatures
from raykd.pipeline.serving import Keys
from raykd.targets import NoTargets, StoredTargets, TargetSource, TargetStore
from raykd.targets.remote import Remote
from raykd.teachers import LiveTargets, WriteThrough
from raykd.teachers.client import Client
from raykd.teachers.quarantine import Tolerance
from raykd.tracking import Event
from raykd.train import Fit


@dataclass(frozen=True)
class Asking:
    """Whom a worker asks, and how.

    Attributes:
        actors: teacher -> handles of its replicas.
        settings: timeouts and the failure policy.
        bad: what is done about samples that break a teacher.
        emit: where failures are reported.
        folders: teacher -> where it is written down what breaks it, so that no other fit finds it anew.
    """

    actors: Mapping[str, Any]
    settings: TeacherCluster
    bad: BadSamples
    emit: Callable[[Event], None]
    folders: Mapping[str, Path]


def stored_source(
    root: Path, keys: Keys, remote: Remote | None, samples: Samples, fit: Fit
) -> TargetSource:
    """Reads the store."""
    return (
        StoredTargets(_open(root, keys, remote, samples, fit)) if fit.teacher_infos else NoTargets()
    )


def live_source(asking: Asking, samples: Samples, fit: Fit) -> TargetSource:
    """Asks the actors."""
    if not fit.teacher_infos:
        return NoTargets()
    client = _client(asking, samples, fit)
    return LiveTargets(client, list(client.pools))


def write_through_source(
    root: Path, keys: Keys, remote: Remote | None, asking: Asking, samples: Samples, fit: Fit
) -> TargetSource:
    """Asks the actors what the store lacks, and writes it there."""
    if not fit.teacher_infos:
        return NoTargets()
    client = _client(asking, samples, fit)
    return WriteThrough(client, _open(root, keys, remote, samples, fit), fit.plan.rows)


def tolerance_of(
    samples: Samples, bad: BadSamples, folders: Mapping[str, Path] | None = None
) -> Tolerance | None:
    """How many samples may break a teacher; None = none.

    Args:
        samples: the data.
        bad: what is done about them.
        folders: teacher -> where they are written down.
    """
    return Tolerance(samples, bad.max_fraction, folders or {}) if bad.policy == "skip" else None


def _open(root: Path, keys: Keys, remote: Remote | None, samples: Samples, fit: Fit) -> TargetStore:
    heard = {teacher.name: keys[teacher.name] for teacher in fit.teacher_infos}
    if remote is not None:  # the first worker on a node brings what its mirror lacks
        remote.pull(key for one in heard.values() for key in one.augmented)
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(root, heard, samples.ids, hashes, reading_temperatures(fit))
    store.remote = remote
    return store


def _client(asking: Asking, samples: Samples, fit: Fit) -> Client:
    handles = {teacher.name: asking.actors[teacher.name] for teacher in fit.teacher_infos}
    tolerance = tolerance_of(samples, asking.bad, asking.folders)
    client = Client(handles, asking.settings, asking.emit, tolerance)
    client.temperatures = reading_temperatures(fit)
    return client
