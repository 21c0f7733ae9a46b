"""The stages that every kind of job is made of; each leaves out what is there already."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from raykd.evaluate import best_teacher, numbers_on
from raykd.evaluate.outputs import Split
from raykd.folders import RunFolder, home, read_json, write_json
from raykd.models.weights import load_weights
from raykd.pipeline import serving
from raykd.pipeline.deciding import FillEstimate, choose_mode
from raykd.pipeline.evaluation import split_outputs
from raykd.pipeline.event_bus import EventBus
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.judged import TeacherValidation
from raykd.pipeline.placement import Mode, Placement
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.require_check import no_time
from raykd.pipeline.serving import TeacherTargets
from raykd.pipeline.sources import (
    Asking,
    live_source,
    stored_source,
    tolerance_of,
    write_through_source,
)
from raykd.runtime import Mailbox, put
from raykd.targets import TargetStore
from raykd.tasks import find_task
from raykd.teachers import ActorFleet
from raykd.teachers.filling import Part
from raykd.teachers.fit import TaskPlace, fit_teachers
from raykd.teachers.utilization import advise_replicas, utilization_of
from raykd.tracking import Console, JsonLines, Listener, RunMirror, WandbSink, events
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder
from raykd.train.launch import MakeSource, Work, run_fits
from raykd.types import ORIGINAL_VIEW

Weights = dict[str, Mapping[str, Tensor]]
_VALIDATION: Split = "validation"


@dataclass
class Job:
    """One job in progress: what its stages share.

    Attributes:
        prepared: the checked recipe with its data.
        placement: what runs where.
        folder: the run folder.
        console: who tells a person.
        kind: W&B's type of job; None = one of the others keeps the runs there itself.
        others: who else hears of everything.
        timing: seconds by stage.
        summary: what `summary.json` holds, once it is there.
        weights_at: teacher -> where its weights or outputs lie.
        scored: teacher samples scored so far.
        hit_rate: part of the teachers' answers that were stored before.
        advice: what would shorten the wait for live teachers, where it is long.
        mode: how students get the teachers' answers.
        reason: why.
        rates: samples/s of each teacher, once one was started.
        notes: whether the folder's `targets.json` tells of this job's targets.
    """

    prepared: Prepared
    placement: Placement
    folder: RunFolder
    console: Console
    kind: str | None = "run"
    others: Sequence[Listener] = ()
    timing: dict[str, float] = field(default_factory=no_time)
    summary: dict[str, Any] = field(default_factory=dict)
    weights_at: dict[str, str | None] = field(default_factory=dict)
    scored: int = 0
    hit_rate: float | None = None
    advice: str | None = None
    mode: Mode = "stored"
    reason: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    notes: bool = True

    def __post_init__(self) -> None:
        self.config = self.prepared.config
        self.mode, self.reason = self.placement.mode, self.placement.reason
        before = self.folder.path / METRICS
        past = read_lines(before) if before.is_file() else []
        listeners: list[Listener] = [JsonLines(self.folder.path), self.console]
        if self.kind and self.config.tracking.wandb.mode != "disabled":
            sink = WandbSink(
                self.config.tracking.wandb,
                run_dir=self.folder.path,
                run_name=self.folder.path.name,
                config=self.config.model_dump(mode="json"),
                job_type=self.kind,
                notifier=self.console,
            )
            listeners.append(RunMirror(sink, self.folder))
        listeners += self.others
        self.emit = EventBus(listeners, self.console)
        for line in past:
            self.emit.recall(line)
        self.mailbox = Mailbox(self.emit)
        self.samples = put(self.prepared.samples)
        self.emit(events.message("data", self.prepared.in_words))
        if left_out := self.prepared.samples.left_out:
            text = f"{len(left_out)} samples cannot be decoded: {', '.join(left_out)}"
            self.emit(events.failure("data", text, decision="skip"))

    def close(self) -> None:
        """Deliver the last events and end the trackers."""
        try:
            self.mailbox.close()
        finally:
            self.emit.close(self.summary or None)

    @contextmanager
    def stage(self, name: events.Stage, **values: Any) -> Iterator[None]:
        """Tells when a stage starts and ends, and notes its seconds."""
        begun = time.monotonic()
        self.emit(events.stage(name, state="started", **values))
        yield
        self.mailbox.flush()
        seconds = time.monotonic() - begun
        self.timing[f"{name}_s"] = self.timing.get(f"{name}_s", 0.0) + seconds
        self.emit(events.stage(name, state="finished", seconds=seconds))

    def with_views(self, prepared: Prepared) -> Job:
        """This job with other views of the same samples: what it scores is counted anew, all else is shared."""
        other = copy(self)
        other.prepared, other.config = prepared, prepared.config
        other.samples = put(prepared.samples)
        other.scored, other.notes = 0, False
        return other

    def teachers(self) -> serving.Specs:
        """Every teacher with its weights; those to be fitted are, unless they were before."""
        fits = {
            name: teacher_fit(self.prepared, candidate.settings)
            for name, candidate in self.prepared.teachers.items()
            if candidate.settings.fit is not None
        }
        kept = {name: home() / "teachers" / fit.identity for name, fit in fits.items()}
        missing = {n: fit for n, fit in fits.items() if not (kept[n] / "card.json").is_file()}
        for name in fits.keys() - missing.keys():
            metrics = read_json(kept[name] / "card.json")["best"]
            self.emit(events.fit("teachers", f"teacher/{name}", state="reused", metrics=metrics))
        if missing:
            with self.stage("teachers", fits=[fit.fit_id for fit in missing.values()]):
                places = {
                    n: TaskPlace(max(1.0, p.cpus), p.gpus)  # of its actor a part of a core may do
                    for n, p in self.placement.teachers.items()
                }
                results = fit_teachers(
                    missing, places, self.samples, self.folder, self.mailbox.sender
                )
                for name, result in results.items():
                    self._keep_teacher(name, missing[name], result)
        weights: Weights = {}
        for name, candidate in self.prepared.teachers.items():
            self.weights_at[name] = candidate.settings.weights or candidate.settings.outputs
            if name in kept:
                file = kept[name] / "weights.safetensors"
                self.weights_at[name] = str(file)
                weights[name] = load_weights(file, key=f"teachers.{name}")
            elif candidate.weights is not None:
                weights[name] = candidate.weights
        return serving.make_specs(self.prepared, weights)

    def _keep_teacher(self, name: str, fit: Fit, result: Mapping[str, Any]) -> None:
        folder = home() / "teachers" / fit.identity
        folder.mkdir(parents=True, exist_ok=True)
        best = FitFolder(self.folder.checkpoints(fit.fit_id)).weights("best")
        temporary = folder / f".weights.{os.getpid()}"
        shutil.copyfile(best, temporary)  # another run may read what it replaces
        temporary.replace(folder / "weights.safetensors")
        model = fit.model.model_dump(mode="json")
        write_json(folder / "card.json", {"name": name, "model": model, **result})

    def validate_teachers(self, specs: serving.Specs) -> TeacherValidation:
        """What the teachers say of validation and test, and how wrong they are on validation."""
        keys = serving.store_keys(specs, self.prepared.samples)
        serving.sync_store(self.config, keys, 0)
        originals, _ = serving.missing_work(self.prepared, keys, ())
        with self.stage("targets", fits=serving.required_answers(self.prepared, len(specs), 0)):
            if originals:
                with self._fleet(specs) as fleet:
                    self.scored += serving.fill_store(self.prepared, originals, fleet, self.emit)
            judged = self._hold_against_expectations(specs, self._store(keys)).judged
            self._note_targets(self._store(keys))
            return judged

    @contextmanager
    def targets(
        self, specs: serving.Specs, views: int | None, *, ahead: bool = False
    ) -> Iterator[TeacherTargets]:
        """What students are to learn from; its fleet lives as long as they are to ask it.

        Args:
            specs: the teachers.
            views: how many of each training sample are wanted; None = a new one in each epoch.
            ahead: nothing is left to be stored while the first student trains.
        """
        live = self.placement.mode == "live"
        keys = serving.store_keys(specs, self.prepared.samples)
        stored = 0 if live else views or 0
        serving.sync_store(self.config, keys, stored)
        originals, augmented = serving.missing_work(self.prepared, keys, range(stored))
        needed = serving.required_answers(self.prepared, len(specs), stored)
        with ExitStack() as stack:
            fleet = None
            with self.stage("targets", fits=needed):
                if originals or augmented or live:
                    fleet = stack.enter_context(self._fleet(specs))
                    self.scored += serving.fill_store(self.prepared, originals, fleet, self.emit)
                served = self._hold_against_expectations(specs, self._store(keys))
                self._choose(augmented, ahead=ahead)
                if fleet is not None and self.mode != "write_through":
                    self._fill(augmented, fleet)
                serving.report_quarantined(self.prepared, keys, views, self.emit)
                self._note_targets(self._store(keys))
                lacking = sum(len(part.rows) for part in (*originals, *augmented))
                self.hit_rate = 1 - lacking / needed
                text = (
                    f"{self.mode} targets: {self.reason}; {self.scored:,} teacher samples scored, "
                )
                text += f"{needed - lacking:,} of {needed:,} were stored before"
                self.emit(events.message("targets", text))
            if self.mode == "stored":
                stack.close()
                fleet = None
            yield replace(
                served, store=self._store(keys), fleet=fleet, mode=self.mode, views=stored
            )

    def _choose(self, parts: Sequence[Part], *, ahead: bool) -> None:
        """How students get what the store lacks, now that the teachers' speed is known."""
        lacking = Counter[str]()
        for part in parts:
            lacking[part.teacher] += len(part.rows)
        self.mode, self.reason = choose_mode(self.placement, FillEstimate(lacking, self.rates))
        if self.mode == "write_through" and (ahead or not lacking):
            why = "all trials read one store" if lacking else "the store lacks nothing"
            self.mode, self.reason = "stored", why

    def _fill(self, parts: list[Part], fleet: ActorFleet) -> None:
        """Score what the store lacks of the training views."""
        tolerance = tolerance_of(self.prepared.samples, self.config.data.bad_samples)
        self.scored += serving.fill_store(self.prepared, parts, fleet, self.emit, tolerance)

    @contextmanager
    def _fleet(self, specs: serving.Specs) -> Iterator[ActorFleet]:
        cluster = self.config.cluster.teachers
        with ActorFleet(specs, self.placement.teachers, self.samples, cluster, self.emit) as fleet:
            self.rates = serving.self_test(self.prepared, fleet)
            yield fleet

    def _store(self, keys: serving.Keys) -> TargetStore:
        return serving.open_store(serving.store_root(self.config), keys, self.prepared.samples)

    def _note_targets(self, store: TargetStore) -> None:
        """Write down which entries of the store are this job's."""
        if self.notes:
            write_json(self.folder.targets, {**store.note(), "mode": self.mode})

    def _hold_against_expectations(
        self, specs: serving.Specs, store: TargetStore
    ) -> TeacherTargets:
        """Refuse a teacher that is not what its card says; write every teacher's card."""
        samples = self.prepared.samples
        serving.check_drift(self.prepared, specs, store)
        outputs = store.gather(samples.splits["validation"], ORIGINAL_VIEW)
        found = serving.judge_teachers(self.prepared, outputs)
        temperatures = serving.temperatures(self.prepared, outputs, self.emit)
        task = find_task(samples.task).metrics
        said = split_outputs(samples, _VALIDATION, outputs, {}, {})
        for name, spec in specs.items():
            settings = self.prepared.teachers[name].settings
            card = {
                "name": name,
                "fingerprint": spec.fingerprint,
                "spec": settings.model_dump(mode="json"),
                "labels": settings.labels,
                "weights": self.weights_at.get(name),
                "temperature": temperatures[name],
                "validation": numbers_on(task, said.teachers[name], said.labels_N),
            }
            write_json(self.folder.card(name), card)
        speech = find_task(samples.task).text
        named = ", ".join(f"{name} {speech.value(value)}" for name, value in found.items())
        if all(map(math.isfinite, found.values())):
            self.emit(events.message("teachers", f"validation {speech.metric.name}: {named}"))
        judged = TeacherValidation(task, said, samples.scale)
        return TeacherTargets(
            specs, store, None, temperatures, judged, best_teacher(said, samples.task)
        )

    def train(self, fits: Sequence[Fit], served: TeacherTargets) -> dict[str, dict[str, Any]]:
        """Train students; the result of every fit."""
        with self.stage("student", fits=[fit.fit_id for fit in fits]):
            if self.placement.note is not None:
                self.emit(events.message("student", self.placement.note))
            results = {}
            if served.mode == "write_through":
                results = self._run(fits[:1], served)
                served = self._complete(served)
            results |= self._run(fits[len(results) :], served)
            self._advise()
        return results

    def _run(self, fits: Sequence[Fit], served: TeacherTargets) -> dict[str, dict[str, Any]]:
        work = Work(
            samples=self.samples,
            fits=put(fits),
            make_source=self.sources(served),
            run=self.folder,
            emit=self.mailbox.sender,
            depth=self.config.targets.depth,
            threads=max(1, int(self.config.cluster.student.cpus)),
            lanes=max(1, min(self.placement.lanes, len(fits))),
        )
        before = _scored(served.fleet)
        results = run_fits(work, fits, self.placement.student)
        self.scored += _scored(served.fleet) - before
        return results

    def _complete(self, served: TeacherTargets) -> TeacherTargets:
        """Score what the first student was not shown, and release the teachers: the others read."""
        assert served.fleet is not None, "answers are written through while teachers are there"
        keys = served.store.keys
        serving.sync_store(self.config, keys, served.views)
        _, lacking = serving.missing_work(self.prepared, keys, range(served.views))
        self._fill(lacking, served.fleet)
        served.fleet.close()
        store = self._store(keys)
        self._note_targets(store)
        return replace(served, store=store, fleet=None, mode="stored")

    def _advise(self) -> None:
        """Say what would shorten a long wait for live teachers; their records have arrived by then."""
        self.mailbox.flush()
        pace = utilization_of(self.emit.live)
        replicas = {name: place.replicas for name, place in self.placement.teachers.items()}
        self.advice = None if pace is None else advise_replicas(pace, replicas)
        if self.advice is not None:
            self.emit(events.message("student", self.advice))

    def sources(self, served: TeacherTargets) -> MakeSource:
        """What gives a fit its targets, in whichever process it is trained."""
        place = (served.store.root, served.store.keys, serving.remote_store(self.config))
        if served.fleet is None:
            return partial(stored_source, *place)
        asking = Asking(
            served.fleet.actors,
            self.config.cluster.teachers,
            self.config.data.bad_samples,
            self.mailbox.sender,
            {name: place[0] / one.views.folder for name, one in served.store.keys.items()},
        )
        if served.mode == "write_through":
            return partial(write_through_source, *place, asking)
        return partial(live_source, asking)

    def numbers_of_targets(self, store: TargetStore) -> dict[str, Any]:
        """What `summary.json` says of the targets."""
        return {
            "mode": self.mode,
            "teacher_samples_scored": self.scored,
            "retries": self.emit.retries,
            "store_bytes": self._store(store.keys).size_bytes(),
            "hit_rate": self.hit_rate,
            "teacher_wait_fraction": self.emit.wait_fraction("student"),
            **({} if self.advice is None else {"advice": self.advice}),
        }


def times_tested(folder: RunFolder) -> int:
    """How often test was scored in this folder so far."""
    if not folder.summary.is_file():
        return 0
    return int(read_json(folder.summary).get("test_scored_times", 0))


def _scored(fleet: ActorFleet | None) -> int:
    if fleet is None:
        return 0
    return int(sum(teacher["samples_scored"] for teacher in fleet.statistics().values()))
