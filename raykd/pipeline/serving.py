"""The stage between teachers and students: start the fleet, test it, fill the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raykd.config import Config
from raykd.config.tasks import TaskName
from raykd.data import Samples
from raykd.ensemble import TEMPERATURE_BOUNDS, labels_of_known
from raykd.errors import TargetError
from raykd.evaluate import TASKS
from raykd.folders import home
from raykd.pipeline.judged import TeacherValidation
from raykd.pipeline.placement import Mode
from raykd.pipeline.preparation import Prepared
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.codec import decode, feature_version, version
from raykd.targets.quarantine_log import QUARANTINE, read_quarantined
from raykd.targets.remote import Remote, is_uri, remote_of
from raykd.targets.store import ORIGINAL
from raykd.teachers import ActorFleet, Recorded, Spec
from raykd.teachers.filling import Part, fill, missing_parts
from raykd.teachers.model import TeacherModel
from raykd.teachers.quarantine import Tolerance
from raykd.teachers.selftest import CHECKS, check_classes, check_repeatable
from raykd.tracking import Event, events
from raykd.types import ORIGINAL_VIEW, TeacherOutputs, is_labelled

_PROBES = 8
_LEAST_LABELS = 2
_DRIFT = 0.02  # other machines, GPUs and the codec make less than a tenth of it
Specs = Mapping[str, Spec | Recorded]
Keys = dict[str, TeacherKeys]


@dataclass(frozen=True, eq=False)
class TeacherTargets:
    """What the teachers say, ready for students.

    Attributes:
        specs: what hosts each teacher.
        store: their answers; of all views unless they are served live.
        fleet: their actors, where students are to ask them.
        temperatures: teacher -> factor on the objective's temperature.
        judged: their answers on validation, and how wrong they are.
        best_teacher: the single teacher that is best there.
        mode: how students are to get the answers.
        views: how many of each training sample the store holds, or will.
    """

    specs: Specs
    store: TargetStore
    fleet: ActorFleet | None
    temperatures: Mapping[str, float]
    judged: TeacherValidation
    best_teacher: str
    mode: Mode = "stored"
    views: int = 0

    @property
    def fingerprints(self) -> dict[str, str]:
        """Teacher -> what its answers are kept under."""
        return {name: spec.fingerprint for name, spec in self.specs.items()}


def make_specs(prepared: Prepared, weights: Mapping[str, Mapping[str, Tensor]]) -> Specs:
    """What each actor hosts, once the weights of fitted teachers are known."""
    specs: dict[str, Spec | Recorded] = {}
    samples, cluster = prepared.samples, prepared.config.cluster.teachers
    answers = TASKS[samples.task].kind
    for name, candidate in prepared.teachers.items():
        settings = candidate.settings
        if candidate.recorded_NC is not None:
            specs[name] = Recorded(
                name=name,
                logits_NC=candidate.recorded_NC,
                answers=answers,
                packing=candidate.packing,
            )
            continue
        assert settings.model is not None, "a teacher without outputs has a model"
        gpus = cluster.gpus if settings.resources.gpus is None else settings.resources.gpus
        specs[name] = Spec(
            name=name,
            key=f"teachers.{name}.model",
            model=settings.model,
            weights=weights[name],
            preprocessing=candidate.preprocessing,
            input_shape=samples.input_shape,
            outputs=candidate.outputs,
            classes=samples.class_count,
            label_map=candidate.label_map,
            kind=settings.kind,
            dtype=settings.dtype,
            batch_size=settings.resources.batch_size or cluster.batch_size,
            taps=candidate.taps,
            answers=answers,
            scale=samples.scale if settings.learns else None,
            packing=candidate.packing,
            behaviour=candidate.behaviour,
            vector=settings.embedding,
            device="cuda" if gpus else "cpu",
        )
    return specs


def remote_store(config: Config) -> Remote | None:
    """The bucket that the target store is in; None = a folder."""
    store = config.targets.store
    return remote_of(store) if store is not None and is_uri(store) else None


def store_root(config: Config) -> Path:
    """Folder of the target store; of one in a bucket, that of this node's mirror."""
    if (remote := remote_store(config)) is not None:
        return remote.root
    return Path(config.targets.store).absolute() if config.targets.store else home() / "targets"


def store_keys(specs: Specs, samples: Samples) -> Keys:
    """Where each teacher's answers are kept."""
    return {name: _keys(spec, samples.view_key) for name, spec in specs.items()}


def _keys(spec: Spec | Recorded, views: str) -> TeacherKeys:
    teacher, features = spec.fingerprint, feature_version(spec.packing)
    return TeacherKeys(
        views=EntryKey(teacher, views, codec=version(spec.answers, spec.packing)),
        originals=EntryKey(teacher, ORIGINAL, codec=version(spec.answers)),
        features=tuple(EntryKey(teacher, views, tap, features) for tap in spec.taps),
    )


def open_store(root: Path, keys: Keys, samples: Samples) -> TargetStore:
    """The store as this run's students and evaluation read it."""
    return TargetStore.open(root, keys, samples.ids, samples.content_hash(np.arange(len(samples))))


def sync_store(config: Config, keys: Keys, views: int) -> None:
    """Make this node's mirror and the bucket alike, before it is judged what the store lacks.

    Args:
        config: the recipe.
        keys: the teachers' entries.
        views: how many are wanted; of none only what is said of untransformed samples is brought.

    Raises:
        TargetError: an object is damaged or of other targets, or one side cannot be read or written.
    """
    if (remote := remote_store(config)) is not None:
        entries = [one.every if views else (one.originals,) for one in keys.values()]
        remote.sync(key for several in entries for key in several)


def missing_work(
    prepared: Prepared, keys: Keys, views: Iterable[int]
) -> tuple[list[Part], list[Part]]:
    """What the store lacks: validation and test untransformed, and training samples in `views`."""
    samples, root = prepared.samples, store_root(prepared.config)
    held_out = np.concatenate([samples.splits["validation"], samples.splits["test"]])
    augmented = {name: one.augmented for name, one in keys.items()}
    originals = {name: (one.originals,) for name, one in keys.items()}
    return (
        list(missing_parts(root, originals, samples, held_out, [ORIGINAL_VIEW])),
        list(missing_parts(root, augmented, samples, samples.splits["train"], list(views))),
    )


def required_answers(prepared: Prepared, teachers: int, views: int) -> int:
    """Answers that a run needs, over teachers, samples and views."""
    splits = prepared.samples.splits
    return teachers * (
        len(splits["validation"]) + len(splits["test"]) + views * len(splits["train"])
    )


def fill_store(
    prepared: Prepared,
    parts: list[Part],
    fleet: ActorFleet,
    emit: Callable[[Event], None],
    tolerance: Tolerance | None = None,
) -> int:
    """Score what the store lacks; the number of teacher samples scored.

    Without a tolerance, as for validation and test, no sample may break a teacher.

    Raises:
        TargetError: the store cannot be written.
    """
    root, remote = store_root(prepared.config), remote_store(prepared.config)
    try:
        scored = sum(fill(root, parts, fleet, emit, tolerance, remote).values())
    except OSError as error:
        raise TargetError(f"the target store {root} cannot be written: {error}") from error
    if remote is not None:
        remote.sync(dict.fromkeys(key for part in parts for key in (*part.lacking, part.outputs)))
    return scored


def report_quarantined(
    prepared: Prepared, keys: Keys, views: int | None, emit: Callable[[Event], None]
) -> None:
    """Tell of samples that broke a teacher in an earlier run: this one has no answer for them either.

    Args:
        prepared: the recipe with its data.
        keys: where each teacher's answers are kept.
        views: how many of each sample this run shows; None = without end.
        emit: who is told.
    """
    root, remote = store_root(prepared.config), remote_store(prepared.config)
    for name, one in keys.items():
        folder = root / one.views.folder
        if any(views is None or view < views for _, _, view in read_quarantined(folder)):
            text = f"teacher {name!r} has samples in quarantine, see {folder / QUARANTINE}; delete it to try again"
            if remote is not None:
                text += f", and the objects gap-* of {one.views.folder} in the bucket"
            emit(events.failure("targets", text, decision="quarantine", teacher=name))


def self_test(prepared: Prepared, fleet: ActorFleet) -> dict[str, float]:
    """Class count and repeatability of every teacher, on a few samples.

    Returns:
        teacher -> samples/s of all its replicas, from one batch (a short one is as much work as a full one).

    Raises:
        TeacherError: names the teacher and what is wrong with it.
    """
    rows = prepared.samples.splits["validation"][:_PROBES]
    first = fleet.score(rows, ORIGINAL_VIEW)
    check_classes(first, prepared.samples.class_count)
    for pool in fleet.client.pools.values():
        pool.load.take()
    check_repeatable(first, fleet.score(rows, ORIGINAL_VIEW))
    rates = {}
    for name, pool in fleet.client.pools.items():
        spec = fleet.specs[name]
        batch = spec.batch_size if isinstance(spec, Spec) else len(rows)
        rates[name] = batch * len(pool.actors) / max(pool.load.busy_s, 1e-9)
    return rates


def check_drift(prepared: Prepared, specs: Specs, store: TargetStore) -> None:
    """Score a few stored samples again: the code of a teacher's model is part of no fingerprint.

    Raises:
        TargetError: names the teacher whose stored answers are not its own any more.
    """
    samples = prepared.samples
    comparable, unit = TASKS[samples.task].comparable, samples.scale.std if samples.scale else 1.0
    rows = samples.splits["validation"][:_PROBES]
    views = np.full(len(rows), ORIGINAL_VIEW)
    for name, spec in specs.items():
        if not isinstance(spec, Spec):
            continue
        now = decode(TeacherModel(spec).score(samples, rows, views)).values_NC
        stored = decode(store.gather_arrays(name, rows, ORIGINAL_VIEW)).values_NC
        worst = (comparable(now) - comparable(stored)).abs().max().item() / unit
        if not worst < _DRIFT:
            folders = (store.originals[name].folder, store.entries[name].folder)
            bucket = ", in the bucket too," if remote_store(prepared.config) is not None else ""
            raise TargetError(
                f"teacher {name!r} answers otherwise than what is stored of it (probabilities, or values in "
                f"standard deviations, differ by up to "
                f"{worst:.2g}): its code was changed since; delete {folders[0]} and {folders[1]}{bucket} to score it anew"
            )


def judge_teachers(prepared: Prepared, outputs: TeacherOutputs) -> dict[str, float]:
    """The task's metric of each teacher on validation, held against `expect` and chance.

    Raises:
        TeacherError: names the teacher and what is wrong with it.
    """
    samples = prepared.samples
    labels_N = torch.from_numpy(samples.labels[samples.splits["validation"]])
    known_N = is_labelled(labels_N)
    return {
        name: CHECKS[samples.task](
            name,
            answer.values_NC[known_N],
            labels_N[known_N],
            prepared.teachers[name].settings.expect,
            prepared.teachers[name].label_map,
        )
        for name, answer in outputs.items()
    }


def temperatures(
    prepared: Prepared, outputs: TeacherOutputs, emit: Callable[[Event], None]
) -> dict[str, float]:
    """Each teacher's own temperature; `fit` calibrates it on validation labels, and says so where it cannot."""
    samples = prepared.samples
    labels_N = torch.from_numpy(samples.labels[samples.splits["validation"]])
    found: dict[str, float] = {}
    for name, candidate in prepared.teachers.items():
        given = candidate.settings.temperature
        if given != "fit":
            found[name] = given
            continue
        values_NC = outputs[name].values_NC
        own_N = labels_N if candidate.known is None else labels_of_known(values_NC, labels_N)
        fitted = _calibrated(samples.task, values_NC, own_N)
        if fitted is None:
            emit(events.message("teachers", f"teachers.{name}.temperature is 1: the validation labels cannot calibrate "
                                "it (fewer than two, all answered rightly, or none better than by chance)"))  # fmt: skip
        found[name] = 1.0 if fitted is None else fitted
    return found


def _calibrated(task: TaskName, values_NC: Tensor, labels_N: Tensor) -> float | None:
    """The temperature of least loss; None where the loss has no minimum to be found."""
    calibrate = TASKS[task].calibrate
    assert calibrate is not None, "cross_check refuses it where outputs have no temperature"
    if int(is_labelled(labels_N).sum()) < _LEAST_LABELS:
        return None
    found = calibrate(values_NC, labels_N)
    return None if found in TEMPERATURE_BOUNDS else found
