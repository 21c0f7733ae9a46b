"""The stages that every kind of job is made of; each leaves out what is there already."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from raykd.config.data import BadSamples
from raykd.config.root import TeacherCluster
from raykd.data import Samples
from raykd.evaluate import TASKS, best_teacher
from raykd.evaluate.outputs import Split
from raykd.folders import RunFolder, home, read_json, write_json
from raykd.models.weights import load_weights
from raykd.pipeline import serving
from raykd.pipeline.evaluation import split_outputs
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.hub import Hub
from raykd.pipeline.judged import Judged
from raykd.pipeline.packing import reading_temperatures
from raykd.pipeline.placement import Placement
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.rehearsal import no_time
from raykd.pipeline.serving import Served
from raykd.report.speech import SPEECH
from raykd.runtime import Mailbox, put
from raykd.targets import NoTargets, StoredTargets, TargetSource, TargetStore
from raykd.teachers import Fleet, LiveTargets
from raykd.teachers.client import Client
from raykd.teachers.fit import TaskPlace, fit_teachers
from raykd.teachers.load import advise, pace_of
from raykd.teachers.quarantine import Tolerance
from raykd.tracking import Console, Event, JsonLines, Listener, RunMirror, events
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.tracking.wandb_sink import make_wandb
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

    def __post_init__(self) -> None:
        self.config = self.prepared.config
        before = self.folder.path / METRICS
        past = read_lines(before) if before.is_file() else []
        listeners: list[Listener] = [JsonLines(self.folder.path), self.console]
        sink = self.kind and make_wandb(
            self.config.tracking.wandb,
            run_dir=self.folder.path,
            run_name=self.folder.path.name,
            config=self.config.model_dump(mode="json"),
            job_type=self.kind,
            voice=self.console,
        )
        if sink:
            listeners.append(RunMirror(sink, self.folder))
        listeners += self.others
        self.emit = Hub(listeners, self.console)
        for line in past:
            self.emit.recall(line)
        self.mailbox = Mailbox(self.emit)
        self.samples = put(self.prepared.samples)
        self.emit(events.message("data", _data_line(self.prepared)))

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
        self.timing[f"{name}_s"] = seconds
        self.emit(events.stage(name, state="finished", seconds=seconds))

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
                    n: TaskPlace(_task_cpus(p.cpus), p.gpus)
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

    def judge(self, specs: serving.Specs) -> Judged:
        """What the teachers say of validation and test, and how wrong they are on validation."""
        keys = serving.store_keys(specs, self.prepared.samples)
        originals, _ = serving.parts_of(self.prepared, keys, ())
        with self.stage("targets", fits=serving.wanted(self.prepared, len(specs), 0)):
            if originals:
                with self._fleet(specs) as fleet:
                    self.scored += serving.fill_store(self.prepared, originals, fleet, self.emit)
            judged = self._hold_against_expectations(specs, self._store(keys)).judged
            self._note_targets(self._store(keys))
            return judged

    @contextmanager
    def targets(self, specs: serving.Specs, views: int | None) -> Iterator[Served]:
        """What students are to learn from; its fleet lives as long as they are to ask it live.

        Args:
            specs: the teachers.
            views: how many of each training sample are wanted; None = a new one in each epoch.
        """
        live = self.placement.mode == "live"
        keys = serving.store_keys(specs, self.prepared.samples)
        stored = 0 if live else views or 0
        originals, augmented = serving.parts_of(self.prepared, keys, range(stored))
        needed = serving.wanted(self.prepared, len(specs), stored)
        with ExitStack() as stack:
            fleet = None
            with self.stage("targets", fits=needed):
                if originals or augmented or live:
                    fleet = stack.enter_context(self._fleet(specs))
                    self.scored += serving.fill_store(self.prepared, originals, fleet, self.emit)
                served = self._hold_against_expectations(specs, self._store(keys))
                if fleet is not None:
                    tolerance = _tolerance(self.prepared.samples, self.config.data.bad_samples)
                    self.scored += serving.fill_store(
                        self.prepared, augmented, fleet, self.emit, tolerance
                    )
                serving.tell_gaps(self.prepared, keys, stored, self.emit)
                self._note_targets(self._store(keys))
                self.hit_rate = 1 - self.scored / needed
                text = f"{self.placement.mode} targets: {self.placement.reason}; {self.scored:,} teacher samples scored, "
                text += f"{needed - self.scored:,} of {needed:,} were stored before"
                self.emit(events.message("targets", text))
            if not live:
                stack.close()
                fleet = None
            yield replace(served, store=self._store(keys), fleet=fleet)

    @contextmanager
    def _fleet(self, specs: serving.Specs) -> Iterator[Fleet]:
        cluster = self.config.cluster.teachers
        with Fleet(specs, self.placement.teachers, self.samples, cluster, self.emit) as fleet:
            serving.self_test(self.prepared, fleet)
            yield fleet

    def _store(self, keys: serving.Keys) -> TargetStore:
        return serving.open_store(serving.store_root(self.config), keys, self.prepared.samples)

    def _note_targets(self, store: TargetStore) -> None:
        """Write down which entries of the store are this job's."""
        entries = [
            {"folder": entry.folder.name, **entry.key.to_json()}
            for entry in store.every
            if entry.shards
        ]
        noted = {"store": str(store.root), "mode": self.placement.mode, "entries": entries}
        write_json(self.folder.targets, noted)

    def _hold_against_expectations(self, specs: serving.Specs, store: TargetStore) -> Served:
        """Refuse a teacher that is not what its card says; write every teacher's card."""
        samples = self.prepared.samples
        serving.check_drift(self.prepared, specs, store)
        outputs = store.gather(samples.splits["validation"], ORIGINAL_VIEW)
        found = serving.judge_teachers(self.prepared, outputs)
        temperatures = serving.temperatures(self.prepared, outputs)
        task = TASKS[samples.task]
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
                "validation": task.numbers(said.teachers[name], said.labels_N),
            }
            write_json(self.folder.card(name), card)
        speech = SPEECH[task.name]
        named = ", ".join(f"{name} {speech.value(value)}" for name, value in found.items())
        self.emit(events.message("teachers", f"validation {speech.metric.name}: {named}"))
        judged = Judged(task, said, samples.scale)
        return Served(specs, store, None, temperatures, judged, best_teacher(said, task.name))

    def train(self, fits: Sequence[Fit], served: Served) -> dict[str, dict[str, Any]]:
        """Train students; the result of every fit."""
        fleet = served.fleet
        work = Work(
            samples=self.samples,
            fits=put(fits),
            make_source=self.sources(served),
            run=self.folder,
            emit=self.mailbox.sender,
            depth=self.config.targets.depth,
            threads=max(1, int(self.config.cluster.student.cpus)),
            lanes=min(self.placement.lanes, len(fits)),
        )
        with self.stage("student", fits=[fit.fit_id for fit in fits]):
            before = _scored(fleet)
            results = run_fits(work, fits, self.config.cluster.student)
            self.scored += _scored(fleet) - before
            self._advise()
        return results

    def _advise(self) -> None:
        """Say what would shorten a long wait for live teachers; their records have arrived by then."""
        self.mailbox.flush()
        pace = pace_of(self.emit.live)
        replicas = {name: place.replicas for name, place in self.placement.teachers.items()}
        self.advice = None if pace is None else advise(pace, replicas)
        if self.advice is not None:
            self.emit(events.message("student", self.advice))

    def sources(self, served: Served) -> MakeSource:
        """What gives a fit its targets, in whichever process it is trained."""
        store, fleet = served.store, served.fleet
        if fleet is None:
            return partial(_stored_source, store.root, store.keys)
        settings = self.config.cluster.teachers
        bad = self.config.data.bad_samples
        return partial(_live_source, fleet.actors, settings, bad, self.mailbox.sender)

    def numbers_of_targets(self, store: TargetStore) -> dict[str, Any]:
        """What `summary.json` says of the targets."""
        return {
            "mode": self.placement.mode,
            "teacher_samples_scored": self.scored,
            "retries": self.emit.retries,
            "store_bytes": store.size_bytes(),
            "hit_rate": self.hit_rate,
            "teacher_wait_fraction": self.emit.wait_fraction("student"),
            **({} if self.advice is None else {"advice": self.advice}),
        }


def times_tested(folder: RunFolder) -> int:
    """How often test was scored in this folder so far."""
    if not folder.summary.is_file():
        return 0
    return int(read_json(folder.summary).get("test_scored_times", 0))


def _task_cpus(cpus: float) -> float:
    """A fit takes whole cores where its actor may share one."""
    return max(1.0, cpus)


def _data_line(prepared: Prepared) -> str:
    samples = prepared.samples
    sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in samples.splits.items())
    labelled = len(samples.labelled_rows("train"))
    outputs = SPEECH[samples.task].outputs(samples.classes)
    return f"{sizes} samples; {labelled:,} training labels; {outputs}"


def _scored(fleet: Fleet | None) -> int:
    if fleet is None:
        return 0
    return int(sum(teacher["samples_scored"] for teacher in fleet.statistics().values()))


def _stored_source(root: Any, keys: serving.Keys, samples: Samples, fit: Fit) -> TargetSource:
    """Runs in the student's worker."""
    if not fit.voices:
        return NoTargets()
    heard = {voice.name: keys[voice.name] for voice in fit.voices}
    hashes = samples.content_hash(np.arange(len(samples)))
    temperatures = reading_temperatures(fit)
    return StoredTargets(TargetStore.open(root, heard, samples.ids, hashes, temperatures))


def _tolerance(samples: Samples, bad: BadSamples) -> Tolerance | None:
    return Tolerance(samples, bad.max_fraction) if bad.policy == "skip" else None


def _live_source(
    actors: Mapping[str, Any],
    settings: TeacherCluster,
    bad: BadSamples,
    emit: Callable[[Event], None],
    samples: Samples,
    fit: Fit,
) -> TargetSource:
    """Runs in the student's worker."""
    if not fit.voices:
        return NoTargets()
    names = [voice.name for voice in fit.voices]
    handles = {name: actors[name] for name in names}
    client = Client(handles, settings, emit, _tolerance(samples, bad))
    client.temperatures = reading_temperatures(fit)
    return LiveTargets(client, names)
