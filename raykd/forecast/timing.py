"""How fast teachers and students are on this machine: a few batches of each, on one worker.

On a CPU what counts is the time in which this process had a processor, so that other work on the machine
does not show. A batch is cut to a few samples first. Where a whole one would take too long, the few stand for it.

Shape suffixes: B batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import torch

from raykd.config.on_policy import OnPolicy
from raykd.config.peers import Codistillation
from raykd.data import Samples
from raykd.errors import TeacherError
from raykd.folders import RunFolder
from raykd.objective import training_role
from raykd.pipeline.fit_targets import reading_temperatures
from raykd.pipeline.fits import roles, student_fit, teacher_fit
from raykd.pipeline.fitted import share_fits
from raykd.pipeline.kept_answers import split_outputs
from raykd.pipeline.placement import Placement
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.pipeline.teachers import Specs
from raykd.targets import NoTargets, TargetSource, Ticket, codec
from raykd.tasks import find_task
from raykd.teachers import EngineSpec, Spec
from raykd.teachers.engines.teacher import EngineTeacher
from raykd.teachers.model import TeacherModel
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, World, train
from raykd.train.fit import build_network
from raykd.train.writing import written_texts
from raykd.types import TeacherOutputs

_BUDGET_S = 0.4
"""For each teacher and each kind of fit; a batch that takes longer alone is measured once."""
_LONGEST_S = 1.5
"""Of a batch: where it seems to take longer, a few samples of it are measured instead."""
_MEASURED_S = 6.0
"""For all together; what is not measured by then is skipped."""
_FEW = 8
_TEXTS = 32
_EPOCHS = 3
_FORWARD = 1 / 3
"""Of a step's time; the way back is twice as long."""
_VALIDATED = 500
_START_TIMEOUT_S = 120.0
_WORKER = "import raykd.teachers.actor, raykd.train.lanes"


@dataclass(frozen=True)
class Pace:
    """Seconds of one worker on this machine.

    Attributes:
        start_s: until a process has loaded what it needs.
        score_s: teacher -> for one sample; recorded outputs take no time.
        teacher_fit_s: teacher -> for its whole fit; those that are to be fitted.
        student_fit_s: role -> for one fit of the student.
        skipped: teachers and roles for which there was no time, and which count as the slowest that was measured.
    """

    start_s: float
    score_s: Mapping[str, float]
    teacher_fit_s: Mapping[str, float]
    student_fit_s: Mapping[str, float]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeUp:
    """Answers of the right shapes, and no meaning."""

    answers: Mapping[str, codec.Arrays]
    temperatures: Mapping[str, float]
    at_once = True

    def submit(self, batch: object) -> Ticket:
        """Nothing to ask."""
        return Ticket(batch)  # type: ignore[arg-type]

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """The answers there are, over and over, one for each unit: several steps may be asked for at once."""
        rows = np.arange(len(ticket.batch.labels))
        return {
            name: codec.decode(
                {n: a[rows % len(a)] for n, a in arrays.items()}, self.temperatures[name]
            )
            for name, arrays in self.answers.items()
        }


def measure(prepared: Prepared, placement: Placement, unfitted: tuple[str, ...]) -> Pace:
    """Time a few batches of every teacher, of every fit that is to come, and the start of a process.

    Args:
        prepared: the recipe.
        placement: what runs where; a model that is given GPUs is timed on one, where there is one here.
        unfitted: teachers to be fitted.
    """
    with _starting() as start_s:
        return _measure(prepared, placement, unfitted, start_s)


def _measure(
    prepared: Prepared,
    placement: Placement,
    unfitted: tuple[str, ...],
    start_s: Callable[[], float],
) -> Pace:
    student = prepared.config.cluster.student
    fits_to_come = {n: teacher_fit(prepared, prepared.teachers[n].settings) for n in unfitted}
    trained, _ = share_fits(fits_to_come)  # the others are snapshots of these
    specs = prepared.specs({n: _any_weights(prepared, n) for n in prepared.teachers})
    score_s: dict[str, float] = {}
    teacher_fit_s: dict[str, float] = {}
    student_fit_s: dict[str, float] = {}
    fits = _student_fits(prepared, specs)
    late, skipped = _limit(), []
    for name, resources in placement.teachers.items():
        device = device_of(resources.gpus)
        if score_s and late():
            skipped.append(name)
            continue
        with _threads(max(1, int(resources.cpus))):
            score_s[name] = sample_s(specs[name], prepared.samples, device)
            if name in trained:
                teacher_fit_s[name] = fit_s(trained[name], prepared.samples, NoTargets(), device)
    with _threads(student.threads):
        for role, fit in fits.items():
            if student_fit_s and late():
                skipped.append(role)
                continue
            source = _source(prepared, fit)
            student_fit_s[role] = fit_s(fit, prepared.samples, source, device_of(student.gpus))
    return Pace(
        start_s(),
        _as_slowest(score_s, placement.teachers),
        _as_slowest(teacher_fit_s, trained),
        _as_slowest(student_fit_s, fits),
        tuple(skipped),
    )


def _limit() -> Callable[[], bool]:
    """Tells whether measuring has taken as long as it may."""
    until = time.perf_counter() + _MEASURED_S
    return lambda: time.perf_counter() > until


def _as_slowest(measured: Mapping[str, float], wanted: Iterable[str]) -> dict[str, float]:
    """What was not measured takes as long as the slowest that was."""
    slowest = max(measured.values(), default=0.0)
    return {name: measured.get(name, slowest) for name in wanted}


def device_of(gpus: float) -> torch.device:
    """Where a worker with so many GPUs is timed."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def fit_s(fit: Fit, samples: Samples, source: TargetSource, device: torch.device) -> float:
    """Seconds of a whole fit without early stopping, from a few of its steps and one validation.

    Of a student that writes itself also those; its teachers' share is that of their passes.
    """
    if fit.objective.on_policy is not None:
        plain = fit.objective.model_copy(update={"on_policy": None})
        written_s = _writing_s(fit, fit.objective.on_policy, samples, device)
        return fit_s(replace(fit, objective=plain), samples, source, device) + written_s
    if isinstance(fit.peers, Codistillation):
        return _apart_s(fit, fit.peers, samples, source, device)
    validation = samples.splits["validation"]
    few = replace(samples, splits={**samples.splits, "validation": validation[:_VALIDATED]})
    plan, epochs = fit.plan, fit.epochs
    size = min(plan.batch_size, plan.epoch_rows)
    first = min(size, _FEW)
    sample_s, other_s = _short_s(fit, few, source, device, (first, first))
    batch_s = sample_s * size
    if batch_s < _LONGEST_S and size > first:
        steps = min(plan.epoch_rows // size, max(1, int(_BUDGET_S / _EPOCHS / batch_s)))
        sample_s, other_s = _short_s(fit, few, source, device, (steps * size, size))
    other_s *= max(1.0, len(validation) / _VALIDATED)
    return epochs * (plan.epoch_rows * sample_s + other_s)


def _apart_s(
    fit: Fit, peers: Codistillation, samples: Samples, source: TargetSource, device: torch.device
) -> float:
    """Seconds of peers that are trained apart, one after the other: each asks its copies of the others, too."""
    copies = (peers.count - 1) * _FORWARD if fit.exchanges else 0.0
    return peers.count * (1 + copies) * fit_s(replace(fit, peers=None), samples, source, device)


def _writing_s(fit: Fit, settings: OnPolicy, samples: Samples, device: torch.device) -> float:
    """Seconds in which a student writes all its texts, from a few of them."""
    of_epoch = settings.of_epoch(fit.plan.epoch_rows, fit.plan.batch_size)
    count, clock = settings.sequences or of_epoch, _clock_of(device)
    few, model = min(count, _TEXTS), build_network(fit, samples).model.to(device)
    begun = clock()
    written_texts(model, samples, fit.plan.rows, settings, seed=0, count=few, device=device)
    return (clock() - begun) / few * count * settings.rounds(fit.training.epochs)


def _short_s(
    fit: Fit, samples: Samples, source: TargetSource, device: torch.device, rows: tuple[int, int]
) -> tuple[float, float]:
    """Seconds for one training sample, and of all else in an epoch: means over all epochs but the first.

    Args:
        fit: what is trained.
        samples: the data.
        source: of the targets.
        device: where.
        rows: of an epoch, and of a batch.
    """
    epoch_rows, size = rows
    settings = {"epochs": _EPOCHS, "early_stopping": None, "compile": False}
    short = replace(
        fit,
        training=fit.training.model_copy(update=settings),
        plan=replace(fit.plan, epoch_rows=epoch_rows, batch_size=size),
    )
    noted: list[tuple[float, float, Event]] = []
    clock = _clock_of(device)
    with TemporaryDirectory() as folder:
        listen = partial(_note, noted, clock)
        reporter = FolderReporter(RunFolder(Path(folder)), listen)
        train(short, samples, source, reporter, World(device=device))
    epochs = [one for one in noted if one[2].kind == "epoch"]
    (begun_s, began, _), (ended_s, ended, _) = epochs[0], epochs[-1]
    part = min(1.0, (ended_s - begun_s) / (ended - began))
    rates = [float(event.values["samples_per_s"]) for _, _, event in epochs[1:]]
    trained_s = part * mean(epoch_rows / rate for rate in rates)
    return trained_s / epoch_rows, max(0.0, part * (ended - began) / len(rates) - trained_s)


def _note(
    noted: list[tuple[float, float, Event]], clock: Callable[[], float], event: Event
) -> None:
    """Keep an event with the time of two clocks: the one that counts, and that on the wall."""
    noted.append((clock(), time.perf_counter(), event))


def _clock_of(device: torch.device) -> Callable[[], float]:
    """Processor seconds; on a GPU, which is waited for, and of several threads, which wait for each other, those on the wall."""
    waits = device.type == "cuda" or torch.get_num_threads() > 1
    return time.perf_counter if waits else time.process_time


def sample_s(spec: object, samples: Samples, device: torch.device) -> float:
    """Seconds for one sample of a teacher, in batches of its own size."""
    if isinstance(spec, EngineSpec):
        return _engine_s(spec, samples)
    if not isinstance(spec, Spec):
        return 0.0
    few = replace(spec, batch_size=min(_FEW, spec.batch_size))
    each_s = _batch_s(TeacherModel(few, device), samples) / few.batch_size
    if each_s * spec.batch_size < _LONGEST_S and few.batch_size < spec.batch_size:
        each_s = _batch_s(TeacherModel(spec, device), samples) / spec.batch_size
    return each_s


def _engine_s(spec: EngineSpec, samples: Samples) -> float:
    """Seconds on the wall for one sample of an engine; none of one that cannot be asked now."""
    rows = samples.splits["train"][:_FEW]
    try:
        teacher = EngineTeacher(spec)
        begun = time.perf_counter()
        teacher.score(samples, rows, np.zeros(len(rows), np.int64))
    except TeacherError:
        return 0.0
    return (time.perf_counter() - begun) / len(rows)


def _batch_s(teacher: TeacherModel, samples: Samples) -> float:
    """Seconds of a warm batch, the mean of as many as there is time for."""
    rows = np.resize(samples.splits["train"], teacher.spec.batch_size)
    ask = partial(teacher.score, samples, rows, np.zeros(len(rows), np.int64))
    ask()
    clock, count = _clock_of(teacher.device), 0
    begun_s, began = clock(), time.perf_counter()
    while not count or time.perf_counter() - began < _BUDGET_S / 2:
        ask()
        count += 1
    return min(clock() - begun_s, time.perf_counter() - began) / count


def _any_weights(prepared: Prepared, name: str) -> Mapping[str, torch.Tensor]:
    """Those of a teacher, or fresh ones: how fast it is does not depend on them."""
    teacher = prepared.teachers[name]
    if teacher.weights is not None or teacher.recorded_NC is not None:
        return teacher.weights or {}
    return teacher.network(prepared.samples).model.state_dict()


def _student_fits(prepared: Prepared, specs: Specs) -> dict[str, Fit]:
    """Role, or name of another student -> its first fit, the first teacher standing for the best one."""
    samples, names = prepared.samples, list(prepared.teachers)
    few = samples.splits["validation"][:_VALIDATED]
    samples = replace(samples, splits={**samples.splits, "validation": few})
    units = len(samples.unit_labels(few))
    outputs = {
        name: codec.decode(one.empty_answer(samples, units, held_out=True))
        for name, one in prepared.teachers.items()
    }
    given = {name: one.settings.temperature for name, one in prepared.teachers.items()}
    teachers = TeacherValidation(
        task=find_task(samples.task).metrics,
        validation=split_outputs(samples, "validation", outputs, {}, {}),
        scale=samples.scale,
        fingerprints={name: spec.fingerprint for name, spec in specs.items()},
        temperatures={
            name: 1.0 if isinstance(value, str) else value for name, value in given.items()
        },
        best_teacher=names[0],
    )
    objective = prepared.config.objective
    found: dict[str, Fit] = {
        role: student_fit(prepared, teachers, training_role(role, objective, names, names[0]), 0)
        for role in roles(prepared.config)
    }
    own = training_role("student", objective, names, names[0])
    for name, other in prepared.students.items():
        found[name] = student_fit(other, teachers, own, 0, name=name)
    return found


def _source(prepared: Prepared, fit: Fit) -> TargetSource:
    if not fit.teacher_infos:
        return NoTargets()
    size, samples = fit.plan.batch_size, prepared.samples
    answers = {
        teacher.name: prepared.teachers[teacher.name].empty_answer(samples, size)
        for teacher in fit.teacher_infos
    }
    return MadeUp(answers, reading_temperatures(fit))


@contextmanager
def _starting() -> Iterator[Callable[[], float]]:
    """Starts a process that loads what a worker needs; what it yields waits for it and tells its processor seconds."""
    with subprocess.Popen(  # noqa: S603 (a constant command)
        [sys.executable, "-c", _WORKER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:

        def seconds() -> float:
            before = os.times()
            process.wait(_START_TIMEOUT_S)
            after = os.times()  # those of children count once they have been waited for
            return sum(after[2:4]) - sum(before[2:4])

        yield seconds


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch on so many CPU threads, and back to as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
