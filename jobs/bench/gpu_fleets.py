"""Teachers on a device: how fast an actor is, the same answers again and elsewhere, and what a killed one costs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from jobs.bench.fleets import client_of, fresh, silent
from jobs.bench.gpu_recipes import TAP, Result, Smoke
from jobs.bench.synthetic import Bench
from raykd.runtime import connect, put
from raykd.targets import TargetSource
from raykd.targets.codec import decode
from raykd.teachers import ActorFleet, InProcess, LiveTargets, Spec, TeacherModel, TeacherResources
from raykd.types import Batch, Dense, LearntOutputs, Output

_DEPTH = 4
_TIMEOUT_S = 600
_ROUNDING = 0.001
"""By how much probabilities of a GPU and of a CPU may differ."""


def teacher_rates(smoke: Smoke) -> list[Result]:
    """An actor beside the bare forward pass of batches that are there; dense features by an actor and in this process."""
    with TemporaryDirectory() as root, connect(None):
        bench = smoke.bench(Path(root))
        spec = _spec(smoke, bench)
        batches = _batches(smoke, bench)
        bare = _bare(smoke, spec, batches, channels_last=True)
        results = [Result("teacher: bare forward pass", bare, "images/s")]
        if smoke.on_gpu:
            other = _bare(smoke, spec, batches, channels_last=False)
            results.append(Result("teacher: bare, channels last / first", bare / other, "ratio"))
        with _fleet(smoke, bench, spec) as fleet:
            actor, _ = _asked(
                smoke, LiveTargets(client_of(fleet, [spec.name]), [spec.name]), batches
            )
        results.append(smoke.fast("teacher: actor / bare forward pass", actor / bare, 0.9))
        dense = replace(spec, taps=(TAP,))
        with _fleet(smoke, bench, dense) as fleet:
            live = LiveTargets(client_of(fleet, [dense.name]), [dense.name])
            apart, theirs = _asked(smoke, live, batches)
        own = InProcess({dense.name: dense}, {dense.name: smoke.device}, bench.samples, silent)
        inside, ours = _asked(smoke, own, batches)
    results.append(smoke.fast("dense features: in process / actor", inside / apart, 1.0))
    worst = max(_difference(one, other) for one, other in zip(theirs, ours, strict=True))
    bar = 1e-2 if smoke.on_gpu else 0.0  # of features of some units, which are float16
    results.append(
        Result("dense features: largest difference", worst, "", f"<= {bar:g}", worst <= bar)
    )
    return results


def repeatable(smoke: Smoke) -> list[Result]:
    """The same bits again and in another process, nearly the same on the CPU; a killed actor changes no answer."""
    with TemporaryDirectory() as root, connect(None):
        bench = smoke.bench(Path(root))
        spec, batches = _spec(smoke, bench), _batches(smoke, bench)[:_DEPTH]
        here = TeacherModel(spec, smoke.device)
        first, again = (_scored(here, bench, batches) for _ in range(2))
        on_cpu = _scored(TeacherModel(spec), bench, batches)
        with _fleet(smoke, bench, spec) as fleet:
            live = LiveTargets(client_of(fleet, [spec.name]), [spec.name])
            _, there = _asked(smoke, live, batches)
            tickets = [live.submit(batch) for batch in batches]
            (pid,) = fleet.processes(spec.name)
            os.kill(pid, signal.SIGKILL)
            killed = [live.collect(ticket, _TIMEOUT_S) for ticket in tickets]
            came_back = fleet.processes(spec.name) != [pid]
    elsewhere, after = ([_values(answer[spec.name]) for answer in some] for some in (there, killed))
    rounded = max(_probabilities(one, other) for one, other in zip(first, on_cpu, strict=True))
    return [
        _same("answers, again in this process", first, again),
        _same("answers, in another process", first, elsewhere),
        _same("answers, after an actor was killed", first, after),
        Result("a killed actor starts again", float(came_back), "", "= 1", came_back),
        Result("probabilities, GPU against CPU", rounded, "", f"<= {_ROUNDING:g}", rounded <= _ROUNDING),
    ]  # fmt: skip


def _spec(smoke: Smoke, bench: Bench) -> Spec:
    """Its one teacher, with untrained weights."""
    del smoke
    (name,) = bench.prepared.teachers
    spec = bench.prepared.specs({name: fresh(bench, name)})[name]
    assert isinstance(spec, Spec), "it has a model"
    return spec


def _batches(smoke: Smoke, bench: Bench) -> list[Batch]:
    """Whole batches of view 0."""
    rows = bench.samples.splits["train"]
    cut = range(0, len(rows) - smoke.batch + 1, smoke.batch)
    return [bench.samples.batch(rows[i : i + smoke.batch], 0) for i in cut]


@contextmanager
def _fleet(smoke: Smoke, bench: Bench, spec: Spec) -> Iterator[ActorFleet]:
    places = {spec.name: TeacherResources(1, 1.0, float(smoke.on_gpu))}
    settings = bench.prepared.config.cluster.teachers
    with ActorFleet({spec.name: spec}, places, put(bench.samples), settings, silent) as fleet:
        yield fleet


@torch.inference_mode()
def _bare(smoke: Smoke, spec: Spec, batches: Sequence[Batch], *, channels_last: bool) -> float:
    """Images a second of the network alone, on inputs that lie on the device."""
    teacher = TeacherModel(spec, smoke.device)
    if not channels_last:
        teacher.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    shape = (smoke.batch, *spec.input_shape)
    inputs = {"inputs": torch.rand(shape, device=smoke.device)}
    rates = []
    for _ in range(1 + smoke.repeats):
        begun = time.perf_counter()
        for _batch in batches:
            teacher.network(inputs)
        if smoke.on_gpu:
            torch.cuda.synchronize()
        rates.append(len(batches) * smoke.batch / (time.perf_counter() - begun))
    return median(rates[1:])


def _asked(
    smoke: Smoke, source: TargetSource, batches: Sequence[Batch]
) -> tuple[float, list[LearntOutputs]]:
    """Images a second of a source that is asked ahead, and the answers; the first pass warms up."""
    rates: list[float] = []
    answers: list[LearntOutputs] = []
    for _ in range(1 + smoke.repeats):
        begun, answers = time.perf_counter(), []
        waiting = []
        for batch in batches:
            waiting.append(source.submit(batch))
            if len(waiting) > _DEPTH:
                answers.append(source.collect(waiting.pop(0), _TIMEOUT_S))
        answers += [source.collect(ticket, _TIMEOUT_S) for ticket in waiting]
        if smoke.on_gpu:
            torch.cuda.synchronize()
        rates.append(len(batches) * smoke.batch / (time.perf_counter() - begun))
    return median(rates[1:]), answers


def _scored(teacher: TeacherModel, bench: Bench, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Logits of each batch."""
    found = []
    for batch in batches:
        arrays = teacher.score(bench.samples, batch.rows.numpy(), batch.view_B.numpy())
        found.append(decode(arrays).values_NC)
    return found


def _values(answer: Output) -> torch.Tensor:
    assert isinstance(answer, Dense), "all of few classes are kept"
    return answer.values_NC.cpu()


def _same(name: str, one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Result:
    equal = all(a.equal(b) for a, b in zip(one, other, strict=True))
    return Result(name, float(equal), "same bits", "= 1", equal)


def _probabilities(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.softmax(1) - other.softmax(1)).abs().max().item()


def _difference(one: LearntOutputs, other: LearntOutputs) -> float:
    """Of all that two answers say: outputs and features."""
    worst = 0.0
    for name, answer in one.items():
        pairs = [(_values(answer), _values(other[name]))]
        for tap, feature in answer.features.items():
            pairs.append((feature.cpu(), other[name].features[tap].cpu()))
        worst = max(worst, *((a - b).abs().max().item() for a, b in pairs))
    return worst
