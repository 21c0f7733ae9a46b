"""All cores at work: the fill beside bare inference loops, and many fits of a small student beside one loop after the other.

Shape suffixes: T teachers, B batch, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.fleets import fill_s, fresh, silent
from jobs.bench.measuring import Row, Sizes, paired, row_of
from jobs.bench.ratios import COUNT, TEACHERS
from jobs.bench.synthetic import AtHand, Bench, logits, recipe
from raykd.config import Config, load_config
from raykd.data import Dataset, Samples
from raykd.folders import RunFolder
from raykd.models.network import placed
from raykd.objective import TeacherInfo
from raykd.runtime import Crew, connect, machine, put
from raykd.teachers import ActorFleet
from raykd.teachers.model import Spec, TeacherModel
from raykd.teachers.pool import TeacherResources
from raykd.train import Fit
from raykd.train.fit import build_network
from raykd.train.lanes import with_samples
from raykd.train.launch import run_fits
from raykd.train.work import Work

_ONE = {"CPU": 1.0}
_PATIENCE_S = 120.0
_CLASSES, _BATCH = 10, 64
_FEATURES, _FITS, _EPOCHS = 30, 20, 10
_TABLE_STUDENT = {"type": "mlp", "width": 0.5625, "depth": 1}
_TEMPERATURE, _HARD = 4.0, 0.1
_TAUGHT = tuple(f"t{k}" for k in range(COUNT))


def whole(sizes: Sizes) -> list[Row]:
    """The fill of a store, and twenty fits of a student on a table, each with all cores of this machine."""
    cores = int(machine().cpus)
    with connect(None):
        crew = Crew()
        crew.start(_ONE, cores)
        return [*_filled(crew, cores, sizes), *_fitted(crew, cores, sizes)]


def _filled(crew: Crew, cores: int, sizes: Sizes) -> list[Row]:
    """Samples per second of both sides, in turns; both load their models, neither starts a process."""
    teachers = [
        {"name": name, "model": dict(TEACHERS["20:1"]), "fit": {"epochs": 1}} for name in _TAUGHT
    ]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        config = recipe(sizes.samples, _CLASSES, teachers, {"type": "mlp", "width": 0.1}, _BATCH)
        bench = Bench.of(config, RunFolder(root / "run"))
        specs = bench.prepared.specs({name: fresh(bench, name) for name in bench.prepared.teachers})
        samples, rows = put(bench.samples), bench.samples.splits["train"]
        places = dict.fromkeys(specs, TeacherResources(1, 1.0, 0.0))
        settings = config.cluster.teachers
        ours, bare = [], []
        for repeat in range(1 + sizes.repeats):  # the first one warms up
            with ActorFleet(specs, places, samples, settings, silent, crew, cores) as fleet:
                ours.append(
                    len(specs) * len(rows) / fill_s(root / f"store{repeat}", bench, fleet, rows)
                )
            begun = time.perf_counter()
            parts = [(_bare, [samples], specs, part) for part in np.array_split(rows, cores)]
            crew.each(with_samples, parts, _ONE, cores, patience_s=_PATIENCE_S)
            bare.append(len(specs) * len(rows) / (time.perf_counter() - begun))
    return [
        paired(f"fill / {cores} bare loops of one thread", ours[1:], bare[1:], bar=">= 0.95"),
        row_of("fill", "samples/s", ours[1:]),
        row_of("bare loops", "samples/s", bare[1:]),
    ]  # fmt: skip


@torch.inference_mode()
def _bare(samples: Samples, specs: Mapping[str, Spec], rows: np.ndarray) -> int:
    """What one would write: every teacher looks at one batch after the other, and nothing is kept."""
    models = [
        placed(TeacherModel(spec).network, torch.device("cpu"), tf32=False)
        for spec in specs.values()
    ]
    seen = 0
    for model in models:
        for start in range(0, len(rows), _BATCH):
            seen += len(model(samples.batch(rows[start : start + _BATCH], 0).inputs))
    return seen  # fmt: skip


def table(samples: int) -> Dataset:
    """Noise in thirty columns, with labels."""
    draw = np.random.default_rng(0)
    columns = draw.standard_normal((samples, _FEATURES)).astype(np.float32)
    part, rows = max(2, samples // 16), np.arange(samples)
    splits = {
        "train": rows[: -2 * part],
        "test": rows[-2 * part : -part],
        "validation": rows[-part:],
    }
    return Dataset(inputs=columns, labels=rows % _CLASSES, splits=splits)  # fmt: skip


def _said(logits_TNC: Tensor, _samples: Samples, _fit: Fit) -> AtHand:
    return AtHand(dict(zip(_TAUGHT, logits_TNC, strict=True)))


def _fitted(crew: Crew, cores: int, sizes: Sizes) -> list[Row]:
    """Seconds a fit: twenty side by side, validated and checkpointed each epoch, against loops one after the other."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        bench = Bench.of(_table_recipe(sizes), RunFolder(root / "run"))
        objective = load_config(bench.prepared.config.model_dump(mode="json")).objective
        plain = replace(
            bench.fit("", _TAUGHT),
            objective=objective,
            teacher_infos=tuple(map(TeacherInfo, _TAUGHT)),
        )
        logits_TNC = torch.stack([logits(len(bench.samples), _CLASSES, k) for k in range(COUNT)])
        ours, by_hand = [], []
        for repeat in range(1 + sizes.repeats):
            fits = [
                replace(plain, fit_id=f"student/replica{index}", seed=index)
                for index in range(_FITS)
            ]
            work = Work(
                samples=put(bench.samples), fits=put(fits), make_source=partial(_said, logits_TNC),
                run=RunFolder(root / f"fits{repeat}"), emit=silent, depth=2, lanes=cores, crew=crew,
            )  # fmt: skip
            begun = time.perf_counter()
            run_fits(work, fits, bench.prepared.config.cluster.student)
            ours.append((time.perf_counter() - begun) / _FITS)
            by_hand.append(_by_hand_s(bench, plain, logits_TNC))
    parameters = sum(p.numel() for p in build_network(plain, bench.samples).parameters())
    said = f"{parameters:,} parameters, {len(plain.plan.rows):,} rows of {_FEATURES} numbers, {_FITS} fits"
    return [
        paired(f"a fit / a loop by hand ({said})", ours[1:], by_hand[1:], bar="<= 1.5"),
        row_of("a fit", "s", ours[1:]),
        row_of("a loop by hand", "s", by_hand[1:]),
    ]


def _table_recipe(sizes: Sizes) -> Config:
    tree: dict[str, Any] = recipe(
        sizes.samples, _CLASSES, [{"name": "t0", "model": {"type": "mlp"}, "fit": {"epochs": 1}}],
        _TABLE_STUDENT, 128, _EPOCHS,
    ).model_dump(mode="json")  # fmt: skip
    tree["data"]["source"] = {
        "type": "factory", "path": "jobs.bench.every_core:table", "kwargs": {"samples": sizes.samples},
    }  # fmt: skip
    tree["objective"] = {
        "labels": {"weight": _HARD}, "soft_targets": {"temperature": _TEMPERATURE, "weight": 0.9},
    }  # fmt: skip
    return load_config(tree)


def _by_hand_s(bench: Bench, fit: Fit, logits_TNC: Tensor) -> float:
    """The same training as one would write it, its inputs normalised and the teachers mixed beforehand."""
    begun, samples = time.perf_counter(), bench.samples
    network = build_network(fit, samples)
    batch = samples.batch(np.arange(len(samples)), -1)
    (inputs,) = network.prepare(batch.inputs).values()
    mixed_NC = F.softmax(logits_TNC / _TEMPERATURE, dim=2).mean(dim=0)
    chosen = fit.training.optimizer
    assert chosen is not None, "the recipe says so"
    optimizer = torch.optim.SGD(network.model.parameters(), lr=chosen.lr, momentum=0.9, fused=True)
    steps = fit.training.epochs * fit.plan.steps_per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    held_out = torch.from_numpy(samples.splits["validation"].copy())
    right: Sequence[float] = []
    for epoch in range(fit.training.epochs):
        network.model.train()
        for step in range(fit.plan.steps_per_epoch):
            rows_B = torch.from_numpy(fit.plan.batch(epoch, step)[0])
            logits_BC = network.model(inputs[rows_B])
            log_q_BC = F.log_softmax(logits_BC / _TEMPERATURE, dim=1)
            soft = F.kl_div(log_q_BC, mixed_NC[rows_B], reduction="batchmean") * _TEMPERATURE**2
            loss = _HARD * F.cross_entropy(logits_BC, batch.labels[rows_B]) + 0.9 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            found_B = network.model.eval()(inputs[held_out]).argmax(1) == batch.labels[held_out]
        right = [*right, float(found_B.float().mean())]
    return time.perf_counter() - begun
