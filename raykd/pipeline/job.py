"""One job in progress: its events, its teachers, its students; what is there already is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from raykd.config import Config
from raykd.config.base import label_needs
from raykd.config.controls import left_out_controls
from raykd.ensemble import SHARPENING_BOUNDS
from raykd.evaluate import Evaluation
from raykd.folders import RunFolder, read_json, write_json
from raykd.pipeline.evaluation import evaluate, labels_used
from raykd.pipeline.event_bus import EventBus
from raykd.pipeline.fits import known_weights, teacher_fit
from raykd.pipeline.fitted import (
    alone,
    card_of,
    keep_snapshot,
    keep_teacher,
    reuse,
    share_fits,
)
from raykd.pipeline.placement import Placement
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.target_stage import TargetStage
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.pipeline.teachers import Specs
from raykd.report import write_report
from raykd.report.pictures import DRAWING
from raykd.runtime import Crew, Mailbox, put
from raykd.tasks import find_task
from raykd.teachers.fit import fit_teachers
from raykd.tracking import (
    Console,
    Event,
    JsonLines,
    Listener,
    RunMirror,
    WandbSink,
    events,
)
from raykd.tracking.jsonl import METRICS, read_lines
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder
from raykd.train.lanes import with_samples
from raykd.train.launch import run_fits
from raykd.train.on_policy import added
from raykd.train.work import Work

_NAMED = 5
"""Samples that are named in a message."""
_LEAST_DRAWING, _MOST_DRAWING = 2, 4
"""Processes that draw a report: one alone would have to import what the driver has."""
STAGES = ("teachers", "targets", "student", "evaluate", "report")


def no_time() -> dict[str, float]:
    """Seconds by stage, before any has run; a stage that has nothing to do takes none."""
    return {f"{stage}_s": 0.0 for stage in STAGES}


Result = TypeVar("Result")


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
        sharpening: role -> fitted temperature of the mixture of its teachers.
        stacking: role -> weight of each of its teachers, where these are learnt from validation.
        choice: which target of the menu was chosen, and why, as in `choice.json`; empty where there is no menu.
        crew: processes that fit teachers and train students.
        known: identity of a fit that was trained in this folder -> its checkpoints.
        written: fit id -> what its student has written itself, and its teachers have scored of it.
        held: marks of the entries of the target store that the job uses, until it ends.
    """

    prepared: Prepared
    placement: Placement
    folder: RunFolder
    console: Console
    kind: str | None = "run"
    others: Sequence[Listener] = ()
    timing: dict[str, float] = field(default_factory=no_time)
    summary: dict[str, Any] = field(default_factory=dict)
    sharpening: dict[str, float] = field(default_factory=dict)
    stacking: dict[str, Mapping[str, float]] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    crew: Crew = field(default_factory=Crew)
    known: dict[str, Path] = field(default_factory=dict)
    written: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.config, self._begun = self.prepared.config, time.monotonic()
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
        for note in self.prepared.notes:
            self.emit(events.message("data", note))
        task = find_task(self.config.task).settings
        for name, why in left_out_controls(self.config, task).items():
            self.emit(events.message("data", f"no control {name}: {why}"))
        if left_out := self.prepared.samples.left_out:
            self.emit(not_decoded(left_out))

    def close(self) -> None:
        """Deliver the last events and end the trackers."""
        try:
            self.mailbox.close()
        finally:
            self.held.close()
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

    def teachers(self) -> Specs:
        """Every teacher with its weights; those to be fitted are, unless they were before."""
        fits = {
            name: teacher_fit(self.prepared, teacher.settings)
            for name, teacher in self.prepared.teachers.items()
            if teacher.settings.fit is not None
        }
        lacking = [fit for fit in fits.values() if not card_of(fit).is_file()]
        with alone(lacking, self._waits_for):
            self._fit(fits)
        return self.prepared.specs(known_weights(self.prepared))

    def _waits_for(self, fit_id: str) -> None:
        text = f"{fit_id} is being fitted by another job with the same home; this one waits for it, and reuses it"
        self.emit(events.message("teachers", text))

    def _fit(self, fits: Mapping[str, Fit]) -> None:
        """Fit the teachers that are not kept, and keep them."""
        missing = {}
        for name, fit in fits.items():
            if card_of(fit).is_file():
                metrics = read_json(card_of(fit))["best"]
                self.emit(events.fit("teachers", fit.fit_id, state="reused", metrics=metrics))
            else:
                missing[name] = fit
        if not missing:
            return
        with self.stage("teachers", fits=[fit.fit_id for fit in missing.values()]):
            trained, made_by = share_fits(missing)
            self._train_teachers(trained)
            left = {}
            for name, longer in made_by.items():
                fit = missing[name]
                metrics = keep_snapshot(self.folder, name, fit, trained[longer])
                if metrics is None:
                    left[name] = fit
                else:
                    self.emit(events.fit("teachers", fit.fit_id, state="reused", metrics=metrics))
            self._train_teachers(left)

    def _train_teachers(self, fits: Mapping[str, Fit]) -> None:
        """Train teachers to the end of their fits, and keep them."""
        if not fits:
            return
        resources = {  # of its actor a part of a core may do
            n: {"CPU": max(1.0, p.cpus), "GPU": p.gpus, **label_needs(p.node_labels)}
            for n, p in self.placement.teachers.items()
        }
        results = fit_teachers(
            fits,
            resources,
            self.samples,
            self.folder,
            self.mailbox.sender,
            self.crew,
            most=self.placement.teacher_lanes or len(fits),
        )
        for name, result in results.items():
            keep_teacher(self.folder, name, fits[name], result)

    def validate_teachers(self, specs: Specs) -> TeacherValidation:
        """What the teachers say of validation and test, and how wrong they are on validation."""
        stage = self._target_stage(specs)
        try:
            with self.stage("targets", fits=stage.required(0)):
                stage.validate()
        finally:
            stage.close()
        return stage.teachers

    @contextmanager
    def targets(
        self,
        specs: Specs,
        views: int | None,
        *,
        ahead: bool = False,
        prepared: Prepared | None = None,
    ) -> Iterator[TargetStage]:
        """What students are to learn from; the teachers live as long as students are to ask them.

        Args:
            specs: the teachers.
            views: how many of each training sample are required; None = a new one in each epoch.
            ahead: nothing is left to be stored while the first student trains.
            prepared: the recipe with other views of the same samples; None = the job's own.
        """
        stage = self._target_stage(specs, prepared)
        try:
            with self.stage("targets", fits=stage.required(views)):
                stage.start(views, ahead=ahead)
            yield stage
        finally:
            stage.close()

    def _target_stage(self, specs: Specs, prepared: Prepared | None = None) -> TargetStage:
        return TargetStage(
            prepared or self.prepared,
            specs,
            self.placement,
            self.folder,
            self.emit,
            self.mailbox.sender,
            noted=prepared is None,
            samples=self.samples if prepared is None else put(prepared.samples),
            crew=self.crew,
            held=self.held,
        )

    def settle(self, config: Config) -> None:
        """Go on with a recipe whose target was chosen from its menu; other students are taught alike."""
        others = {
            name: replace(one, config=one.config.model_copy(update={"objective": config.objective}))
            for name, one in self.prepared.students.items()
        }
        self.config = config
        self.prepared = replace(self.prepared, config=config, students=others)

    def know(self, fits: Sequence[Fit]) -> None:
        """Fits of which those that are finished here serve every later fit that is the same but for its name."""
        for fit in fits:
            folder = self.folder.checkpoints(fit.fit_id)
            if FitFolder(folder).result_of(fit.identities) is not None:
                self.known[fit.identity] = folder

    def train(self, fits: Sequence[Fit], targets: TargetStage) -> dict[str, dict[str, Any]]:
        """Train students, those that are the same but for their name once; the result of every fit."""
        for fit in fits:
            reuse(fit, self.folder, self.known)
        self._tell_sharpening(fits)
        self._tell_stacking(fits)
        different: dict[str, Fit] = {}
        for fit in fits:
            different.setdefault(fit.identity, fit)
        once = list(different.values())
        with self.stage("student", fits=[one.fit_id for fit in fits for one in fit.pieces]):
            if self.placement.note is not None:
                self.emit(events.message("student", self.placement.note))
            results = {}
            if targets.writes_through:
                results = self._run(once[:1], targets)
                targets.complete()
            results |= self._run(once[len(results) :], targets)
            told = {name: result.get("on_policy") for name, result in results.items()}
            self.written |= {name: one for name, one in told.items() if one is not None}
            self.know(once)
            if others := [fit for fit in fits if fit.fit_id not in results]:
                for fit in others:
                    reuse(fit, self.folder, self.known)
                results |= self._run(others, targets)
            self.mailbox.flush()  # records of live teachers have arrived by then
            targets.advise(self.emit.live)
        return results

    def _tell_sharpening(self, fits: Sequence[Fit]) -> None:
        """The temperature of each role's mixture of teachers, and whether it is an end of what is tried."""
        for fit in fits:
            role, value = fit.fit_id.split("/")[0], fit.facts.get("sharpen")
            if value is None or role in self.sharpening:
                continue
            self.sharpening[role] = value
            text = f"{role}: the mixture of the teachers is learnt at T = {value:.3g}, of least NLL on half of validation"
            if value in SHARPENING_BOUNDS:
                text += ", an end of what is tried: that half is answered rightly throughout, or not at all"
            self.emit(events.message("student", text))

    def _tell_stacking(self, fits: Sequence[Fit]) -> None:
        """The weights of each role's teachers that were learnt from half of validation."""
        for fit in fits:
            role = fit.fit_id.split("/")[0]
            known = {one.name: one.stacked for one in fit.teacher_infos if one.stacked is not None}
            if not known or role in self.stacking:
                continue
            self.stacking[role] = known
            told = ", ".join(f"{name} {weight:.2f}" for name, weight in known.items())
            text = f"{role}: weights of the teachers by half of validation, shrunk to equal ones: {told}"
            self.emit(events.message("student", text))

    def _run(self, fits: Sequence[Fit], targets: TargetStage) -> dict[str, dict[str, Any]]:
        work = Work(
            samples=targets.samples,
            fits=put(fits),
            make_source=targets.source(),
            run=self.folder,
            emit=self.mailbox.sender,
            depth=self.config.targets.depth,
            threads=self.config.cluster.student.threads,
            lanes=max(1, min(self.placement.lanes, sum(len(fit.pieces) for fit in fits))),
            crew=self.crew,
            joins=targets.mode == "live",
        )
        try:
            with targets.counting():
                return run_fits(work, fits, self.placement.student)
        finally:
            if self.placement.shared:
                self.crew.dismiss()

    def ask(self, work: Callable[..., Result], given: Sequence[tuple[Any, ...]]) -> list[Result]:
        """What `work(samples, *arguments)` gives for each, side by side where students are trained; see `Ask`."""
        student = self.placement.student
        pieces = [(work, [self.samples], *arguments) for arguments in given]
        most = max(self.placement.lanes, student.most)

        def tell(done: int) -> None:
            self.emit(events.progress("evaluate", done=done, total=len(given), unit="models"))

        patience_s = student.start_timeout_s
        return self.crew.each(
            with_samples, pieces, student.resources, most, patience_s=patience_s, tell=tell
        )

    def target_numbers(self, targets: TargetStage) -> dict[str, Any]:
        """What `summary.json` says of the targets."""
        return {
            "mode": targets.mode,
            "teacher_samples_scored": targets.scored + self.emit.scored,
            "retries": self.emit.retries,
            "store_bytes": targets.stored.open().size_bytes(),
            "hit_rate": targets.hit_rate,
            "teacher_wait_fraction": self.emit.wait_fraction("student"),
            **({"sharpen": self.sharpening} if self.sharpening else {}),
            **({"stacking": self.stacking} if self.stacking else {}),
            **({"on_policy": added(self.written.values())} if self.written else {}),
            **({} if targets.advice is None else {"advice": targets.advice}),
            **({"teachers_in": "student"} if self.placement.with_student else {}),
        }

    def evaluate(self, targets: TargetStage, students: Mapping[str, Prepared]) -> Evaluation:
        """Score validation and test; see `raykd.pipeline.evaluation.evaluate`."""
        with self.stage("evaluate"):
            evaluation = evaluate(self.prepared, targets.store, self.folder, students, self.ask)
            evaluation.save(self.folder.evaluation)
        self.prepare_report()
        return evaluation

    @property
    def status(self) -> Literal["complete", "degraded"]:
        """Of a job that ends well."""
        return "degraded" if self.emit.degraded else "complete"

    def end_timing(self) -> dict[str, float]:
        """Seconds of all stages, and in all so far."""
        self.timing["total_s"] = time.monotonic() - self._begun
        return dict(self.timing)

    def summarise(
        self, kind: str, numbers: Mapping[str, Any], targets: Mapping[str, Any], *, tested: bool
    ) -> None:
        """Write the summary of a job that trained several methods.

        Args:
            kind: of the summary.
            numbers: what it found.
            targets: as of `target_numbers`.
            tested: whether test was scored in this job.
        """
        summary = {
            "schema": 1,
            "kind": kind,
            "status": self.status,
            "task": self.config.task,
            **numbers,
            "labels_used": labels_used(self.prepared),
            "test_scored_times": times_tested(self.folder) + tested,
            "timing": self.end_timing(),
            "targets": dict(targets),
        }
        self.keep(summary)

    def keep(self, summary: dict[str, Any]) -> None:
        """Write the summary, with the choice where there was one."""
        self.summary = {**summary, **({"choice": self.choice} if self.choice else {})}
        write_json(self.folder.summary, self.summary)

    def prepare_report(self) -> None:
        """Have idle processes import what draws pictures, while the driver alone is at work."""
        self.crew.prepare(self.placement.student.resources, DRAWING)

    def report(self) -> None:
        """Write the report of what the folder holds; processes that are idle anyway draw its pictures."""
        processes = min(_MOST_DRAWING, self.crew.idle(self.placement.student.resources))
        with self.stage("report"):
            others = None if processes < _LEAST_DRAWING else Drawing(self, processes)
            write_report(self.folder.path, others)


@dataclass(frozen=True)
class Drawing:
    """The crew's processes, as those that draw a report's pictures.

    Attributes:
        job: whose they are.
        processes: how many.
    """

    job: Job
    processes: int

    def __call__(
        self, work: Callable[..., Result], given: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """What `work` gives for each of the given arguments, in their order."""
        student, crew = self.job.placement.student, self.job.crew
        return crew.each(
            work, given, student.resources, self.processes, patience_s=student.start_timeout_s
        )


def not_decoded(names: Sequence[str]) -> Event:
    """Tells of samples that cannot be decoded: how many, and the first ones; `samples` has all."""
    more = f" and {len(names) - _NAMED:,} more, see events.jsonl" if len(names) > _NAMED else ""
    text = f"{len(names):,} samples cannot be decoded: {', '.join(names[:_NAMED])}{more}"
    return events.failure("data", text, decision="skip", samples=list(names))


def times_tested(folder: RunFolder) -> int:
    """How often test was scored in this folder so far."""
    if not folder.summary.is_file():
        return 0
    return int(read_json(folder.summary).get("test_scored_times", 0))
