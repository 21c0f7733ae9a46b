"""The stage between teachers and students: what the teachers say, scored ahead or served while students train."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from raykd.config.base import label_needs
from raykd.evaluate import numbers_on
from raykd.folders import RunFolder, write_json
from raykd.pipeline.fit_targets import FitTargets, tolerance_of
from raykd.pipeline.fits import weights_file
from raykd.pipeline.placement import Mode, Placement, choose_mode
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.recipe_store import RecipeStore
from raykd.pipeline.teacher_validation import (
    PROBES,
    TeacherValidation,
    score_probes,
    validate,
)
from raykd.pipeline.teachers import Specs
from raykd.pipeline.token_scales import note_scales, token_scales
from raykd.runtime import Crew, put
from raykd.targets import StoredTargets, TargetStore
from raykd.targets.marks import Mark
from raykd.teachers import ActorFleet, EngineSpec, Recorded, Spec
from raykd.teachers.filling import LEAST_ROWS, Part
from raykd.teachers.selftest import check_classes, check_repeatable
from raykd.teachers.utilization import advise_replicas, utilization_of
from raykd.tracking import Event, events
from raykd.train.lanes import with_samples
from raykd.train.work import MakeSource
from raykd.types import ORIGINAL_VIEW, LearntOutputs


@dataclass(eq=False)
class TargetStage:
    """The targets of one set of views, and the teachers that make them.

    Attributes:
        prepared: the recipe with its data, in these views.
        specs: what hosts each teacher.
        placement: what runs where.
        folder: the run folder, for the teachers' cards.
        emit: where progress and failures are reported.
        send: the same from other processes.
        noted: whether the folder's `targets.json` tells of these targets.
        samples: object reference of the data.
        crew: processes that may answer for the teachers; those that stand idle make room for actors.
        held: gets the mark of the entries that are used; None = they are marked as long as the teachers live.
        mode: how students get the teachers' answers.
        reason: why.
        views: how many of each training sample the store holds, or will.
        fleet: the teachers' actors, while they are needed.
        store: what the teachers have answered, as far as it is stored.
        teachers: what is known of them.
        scored: teacher samples scored so far.
        hit_rate: part of the answers that were stored before.
        advice: what would shorten the wait for live teachers, where it is long.
    """

    prepared: Prepared
    specs: Specs
    placement: Placement
    folder: RunFolder
    emit: Callable[[Event], None]
    send: Callable[[Event], None]
    noted: bool = True
    samples: Any = None
    crew: Crew = field(default_factory=Crew)
    held: ExitStack | None = None
    mode: Mode = field(init=False)
    reason: str = field(init=False)
    views: int = field(default=0, init=False)
    fleet: ActorFleet | None = field(default=None, init=False)
    store: TargetStore = field(init=False)
    teachers: TeacherValidation = field(init=False)
    scored: int = field(default=0, init=False)
    hit_rate: float | None = field(default=None, init=False)
    advice: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.mode, self.reason = self.placement.mode, self.placement.reason
        self.stored = RecipeStore(self.prepared, self.specs)
        if self.samples is None:
            self.samples = put(self.prepared.samples)
        self._running = ExitStack()
        self._rates: dict[str, float] = {}
        self._specs: Any = None

    def required(self, views: int | None) -> int:
        """Answers of all teachers that a run of so many views needs to be stored."""
        stored = 0 if self.placement.mode == "live" else views or 0
        return len(self.specs) * self.stored.required(stored)

    def validate(self) -> None:
        """Score what the store lacks of validation and test, and hold the teachers against it; no student is to come."""
        self._score_held_out(live=False)
        self._open()

    def start(self, views: int | None, *, ahead: bool = False) -> None:
        """Make everything ready for the first student.

        Args:
            views: how many of each training sample are required; None = a new one in each epoch.
            ahead: nothing is left to be stored while the first student trains.
        """
        live = self.placement.mode == "live"
        self.views = 0 if live else views or 0
        asked = live and (not self.placement.with_student or bool(self.prepared.scaled))
        lacking, augmented = self._score_held_out(live=asked)
        self._choose(augmented, ahead=ahead)
        if self.fleet is not None and self.mode != "write_through":
            self._fill(augmented)
        self.stored.report_quarantined(views, self.emit)
        self._open()
        if self.prepared.scaled:
            self._fit_scales()
        required = self.required(views)
        self.hit_rate = 1 - lacking / required
        text = f"{self.mode} targets: {self.reason}; {self.scored:,} teacher samples scored, "
        text += f"{required - lacking:,} of {required:,} were stored before"
        self.emit(events.message("targets", text))
        stays = self.placement.beside or not self.placement.with_student
        if (self.mode == "stored" and not self.placement.beside) or not stays:
            self.close()

    def _score_held_out(self, *, live: bool) -> tuple[int, list[Part]]:
        """Answers for validation and test, checked; how many answers were lacking, and what training views lack."""
        self._mark()
        self.stored.sync(self.views)
        originals, augmented = self.stored.missing(self.views)
        if originals or augmented or live or self.placement.beside:
            cluster = self.prepared.config.cluster.teachers
            places = self.placement.teachers
            rows = sum(len(part.rows) for part in (*originals, *augmented))
            seats = min(self.placement.seats, math.ceil(rows / LEAST_ROWS))
            if not seats:
                self.crew.dismiss()
            hosted = {n: spec for n, spec in self.specs.items() if n not in self._silent}
            fleet = ActorFleet(hosted, places, self.samples, cluster, self.emit, self.crew, seats)
            self.fleet = self._running.enter_context(fleet)
            self._rates = self_test(self.prepared, fleet)
            self.scored += self.stored.fill(originals, fleet, self.emit)
        self.teachers = validate(
            self.prepared, self._probes(), self.specs, self.stored.open(), self.emit
        )
        self._write_cards()
        return sum(len(part.rows) for part in (*originals, *augmented)), augmented

    @property
    def _silent(self) -> set[str]:
        """Engines that cannot be asked now; the store has all that is needed of them (`refuse_unreachable`)."""
        teachers = self.prepared.teachers
        return {n for n, one in teachers.items() if one.engine and one.engine.unreachable}

    def _mark(self) -> None:
        """Before the store is looked into: its entries are in use, and those that went since the last time are named."""

        def waiting(by: Mark) -> None:
            text = (
                f"the target store is being pruned by {by.who}; this job waits until that has ended"
            )
            self.emit(events.message("targets", text))

        held = self._running if self.held is None else self.held
        held.enter_context(self.stored.in_use(str(self.folder.path), waiting))
        if self.noted and (gone := self.stored.gone(self.folder.targets)):
            text = f"{len(gone)} entries of the target store that this run had used are gone from {self.stored.root}, deleted "
            text += f"by `raykd targets prune` or by hand: {', '.join(gone)}; what is needed of them is scored anew"
            self.emit(events.message("targets", text))

    def _probes(self) -> dict[str, Tensor]:
        """What each teacher with a model says of a few samples now, where it is hosted, or would be."""
        models = {
            name: spec
            for name, spec in self.specs.items()
            if not isinstance(spec, Recorded) and name not in self._silent
        }
        if self.fleet is not None:
            rows = self.prepared.samples.splits["validation"][:PROBES]
            answers = self.fleet.score(rows, ORIGINAL_VIEW)
            return {name: answers[name].values_NC for name in models}
        found: dict[str, Tensor] = {}
        for (resources, env), names in self._hosts(models).items():
            given = [(score_probes, [self.samples], models[name]) for name in names]
            answered = self.crew.each(
                with_samples,
                given,
                dict(resources),
                max(1, self.placement.lanes),
                patience_s=self.prepared.config.cluster.teachers.start_timeout_s,
                runtime_env=json.loads(env),
            )
            found |= zip(names, answered, strict=True)
        return found

    def _hosts(
        self, names: Iterable[str]
    ) -> dict[tuple[tuple[tuple[str, float], ...], str], list[str]]:
        """Resources and runtime environment of a process that can host them -> teachers.

        Where neither a GPU nor an environment of its own is needed it is any process that trains students.
        """
        groups: defaultdict[Any, list[str]] = defaultdict(list)
        for name in names:
            own, resources = self.placement.teachers[name], self.placement.student.resources
            if own.gpus or own.runtime_env or own.node_labels:
                resources = {"CPU": own.cpus, **({"GPU": own.gpus} if own.gpus else {})}
                resources |= label_needs(own.node_labels)
            groups[tuple(resources.items()), json.dumps(own.runtime_env)].append(name)
        return dict(groups)

    def _write_cards(self) -> None:
        """Every teacher's card."""
        validation, task = self.teachers.validation, self.teachers.task
        for name, fingerprint in self.teachers.fingerprints.items():
            settings = self.prepared.teachers[name].settings
            card = {
                "name": name,
                "fingerprint": fingerprint,
                "spec": settings.model_dump(mode="json"),
                "labels": settings.labels,
                "weights": weights_file(self.prepared, name),
                "temperature": self.teachers.temperatures[name],
                "validation": numbers_on(task, validation.teachers[name], validation.labels_N),
            }
            write_json(self.folder.card(name), card)

    def _choose(self, parts: Sequence[Part], *, ahead: bool) -> None:
        """How students get what the store lacks, now that the teachers' speed is known."""
        lacking = Counter[str]()
        for part in parts:
            lacking[part.teacher] += len(part.rows)
        self.mode, self.reason = choose_mode(self.placement, lacking, self._rates)
        if self.mode == "write_through" and (ahead or not lacking):
            why = "all trials read one store" if lacking else "the store lacks nothing"
            self.mode, self.reason = "stored", why

    def _fill(self, parts: list[Part]) -> None:
        """Score what the store lacks of the training views."""
        assert self.fleet is not None, "teachers are there while something is lacking"
        tolerance = tolerance_of(self.prepared.samples, self.prepared.config.data.bad_samples)
        self.scored += self.stored.fill(parts, self.fleet, self.emit, tolerance)

    def _open(self) -> None:
        """See what the store holds by now, and write down which of its entries are this job's."""
        self.store = self.stored.open()
        if self.noted:
            write_json(self.folder.targets, {**self.store.note(), "mode": self.mode})

    def _fit_scales(self) -> None:
        """What teachers' tokens are compared at, from training samples."""
        with self.counting():
            scales = token_scales(self.prepared, self.stored.keys, self._first_views)
        self.teachers = replace(self.teachers, scales=scales)
        note_scales(self.folder.card, scales)

    def _first_views(self, rows: np.ndarray) -> LearntOutputs:
        """What the teachers say of training samples in view 0: stored, or asked now."""
        if self.fleet is not None and self.mode != "stored":
            return self.fleet.score(rows, 0)
        source = StoredTargets(self.store)
        return source.collect(source.submit(self.prepared.samples.batch(rows, 0)), math.inf)

    @property
    def writes_through(self) -> bool:
        """Whether answers are stored while the next student trains."""
        return self.mode == "write_through" and self.fleet is not None

    def complete(self) -> None:
        """Score what the first student was not shown, and release the teachers: the others read."""
        self.stored.sync(self.views)
        self._fill(self.stored.missing(self.views)[1])
        self.close()
        self._open()

    def close(self) -> None:
        """End the teachers' actors."""
        self._running.close()
        self.fleet = None
        if self.placement.shared:
            self.crew.dismiss()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what teachers score for students meanwhile."""
        fleet, before = self.fleet, _scored(self.fleet)
        yield
        self.scored += _scored(fleet) - before

    def source(self) -> MakeSource:
        """What gives a fit its targets, in whichever process it is trained."""
        config = self.prepared.config
        return FitTargets(
            self.stored.root,
            self.stored.keys,
            self.stored.bucket,
            None if self.fleet is None else self.fleet.actors,
            self.mode != "stored",
            config.cluster.teachers,
            config.data.bad_samples,
            self.send,
            writes_through=self.writes_through,
            hosted=self._hosted() if self.placement.with_student else None,
        )

    def _hosted(self) -> Any:
        """Reference to the teachers' specs, for the students' processes; made once."""
        if self._specs is None:
            self._specs = put(dict(self.specs))
        return self._specs

    def advise(self, live: Sequence[Mapping[str, Any]]) -> None:
        """Say what would shorten a long wait for live teachers.

        Args:
            live: records of the epochs in which they were asked.
        """
        if self.placement.with_student:  # there are no actors of which there might be more
            return
        utilization = utilization_of(live)
        replicas = {name: resources.replicas for name, resources in self.placement.teachers.items()}
        self.advice = None if utilization is None else advise_replicas(utilization, replicas)
        if self.advice is not None:
            self.emit(events.message("student", self.advice))


def self_test(prepared: Prepared, fleet: ActorFleet) -> dict[str, float]:
    """Class count and repeatability of every teacher, on a few samples, which each of its replicas is asked twice.

    Returns:
        teacher -> samples/s of all its replicas, from one batch (a short one is as much work as a full one).

    Raises:
        TeacherError: names the teacher and what is wrong with it.
    """
    rows = prepared.samples.splits["validation"][:PROBES]
    replicas = 1  # a process of the crew answers for all teachers, as any other of it
    if fleet.shared is None:
        replicas = max(len(pool.actors) for pool in fleet.client.pools.values())
    first, *others = fleet.score_at_once(rows, ORIGINAL_VIEW, replicas)
    check_classes(first, prepared.samples.class_count)
    for pool in fleet.client.pools.values():
        pool.load.take()
    engines = {name for name, spec in fleet.specs.items() if isinstance(spec, EngineSpec)}
    for again in (*others, *fleet.score_at_once(rows, ORIGINAL_VIEW, replicas)):
        check_repeatable(first, again, rough=engines)
    rates = {}
    for name, pool in fleet.client.pools.items():
        spec = fleet.specs[name]
        batch = spec.batch_size if isinstance(spec, Spec) else len(rows)
        rates[name] = batch * replicas * len(pool.actors) / max(pool.load.busy_s, 1e-9)
    return rates


def _scored(fleet: ActorFleet | None) -> int:
    if fleet is None:
        return 0
    return int(sum(teacher["samples_scored"] for teacher in fleet.statistics().values()))
