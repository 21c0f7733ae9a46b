"""Networks of packaged recipes, trained with each optimizer of a grid and judged on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from raykd.config import Config
from raykd.config.roles import Teacher
from raykd.config.training import AdamW, Fit, Optimizer, Sgd
from raykd.errors import RaykdError
from raykd.folders import RunFolder
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.texts import teacher_rows
from raykd.targets import NoTargets
from raykd.train import train
from raykd.train.checkpoint import FolderReporter
from raykd.train.world import World

GRID: Sequence[Optimizer] = (
    *(Sgd(lr=lr) for lr in (0.01, 0.05, 0.2)),
    *(AdamW(lr=lr, weight_decay=d) for lr in (1e-3, 3e-3, 1e-2, 3e-2) for d in (0.01, 0.05)),
)
UPDATES = {
    "mlp": 800,
    "cnn": 250,
    "resnet": 200,
    "wrn": 200,
    "vit": 200,
    "bag": 750,
    "text_cnn": 500,
    "gru_lm": 500,
    "detector": 100,
}
"""Of each fit at most, but two epochs at least: by the kind of model, so that each takes some seconds."""
SEEDS = {"bag": 1, "text_cnn": 1}
"""Fits with each optimizer; two of the other kinds."""
Record = dict[str, Any]


def fitted(config: Config) -> list[Teacher]:
    """Teachers, the first of each kind, and the student as one, where it is a network that labels can teach."""
    teachers = [teacher for teacher in config.teachers if teacher.fit is not None]
    found = list({one.model.type: one for one in reversed(teachers) if one.model}.values())
    student, training = config.student, config.train
    if student.dimension is None:
        fit = Fit(epochs=training.epochs, batch_size=training.batch_size)
        own = {"model": student.model, "preprocess": student.preprocess, "fit": fit}
        found.append(Teacher(name="the_student", labels="all", **own))
    return found


def measured(prepared: Prepared, teacher: Teacher) -> Iterator[Record]:
    """What one network reaches with every optimizer: means over seeds, or None where a fit diverged."""
    assert teacher.fit is not None, "only networks to be fitted"
    assert teacher.model is not None, "a teacher that is fitted has a model"
    rows = teacher_rows(prepared.samples, teacher)
    most = UPDATES[teacher.model.type] // math.ceil(len(rows) / teacher.fit.batch_size)
    epochs = min(teacher.fit.epochs, max(2, most))
    seeds = SEEDS.get(teacher.model.type, 2)
    about = {"kind": teacher.model.type, "fit": teacher.name, "epochs": epochs, "seeds": seeds}
    for optimizer in GRID:
        given = {"optimizer": optimizer, "epochs": epochs, "checkpoint_every_epochs": epochs}
        found = []
        for seed in range(seeds):
            fit = teacher.fit.model_copy(update={**given, "seed": seed})
            found.append(_trained(prepared, teacher.model_copy(update={"fit": fit})))
        known = [numbers for numbers in found if numbers is not None]
        whole = len(known) == seeds
        means = {name: fmean(one[name] for one in known) for name in known[0]} if whole else None
        named = {name: getattr(optimizer, name) for name in ("type", "lr", "weight_decay")}
        yield {**about, **named, "found": means}


def _trained(prepared: Prepared, teacher: Teacher) -> Mapping[str, float] | None:
    """Numbers on validation at the best epoch; None where the fit diverged."""
    fit = teacher_fit(prepared, teacher)
    with TemporaryDirectory() as folder:
        reporter = FolderReporter(RunFolder(Path(folder)), lambda _: None)
        try:
            done = train(fit, prepared.samples, NoTargets(), reporter, World())
        except RaykdError:
            return None
    best: Mapping[str, float] = done["best"]
    return best


def regrets(records: Sequence[Record], *, loss: bool = False) -> dict[str, dict[str, float]]:
    """How far each optimizer is behind the best of its network: mean over the networks of a recipe, then over recipes.

    Args:
        records: of `measured`, with `recipe` and the task's `metric`.
        loss: of the NLL in place of the metric, where the task has it.

    Returns:
        Kind -> optimizer in words -> regret, least first: percentage points, of RMSE per cent of the least, of NLL nats;
        infinite where a fit diverged.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for key in dict.fromkeys((one["recipe"], one["fit"]) for one in records):
        network = [one for one in records if (one["recipe"], one["fit"]) == key]
        name = "nll" if loss else network[0]["metric"]
        values = [None if one["found"] is None else one["found"].get(name) for one in network]
        known = [value for value in values if value is not None]
        for one, value in zip(network, values, strict=True) if known else ():
            behind = math.inf if value is None else _BEHIND.get(name, _points)(value, known)
            words = f"{one['type']} {one['lr']:g}, weight decay {one['weight_decay']:g}"
            by_recipe = found.setdefault(one["kind"], {}).setdefault(words, {})
            by_recipe.setdefault(key[0], []).append(behind)
    means = {
        kind: {name: fmean(map(fmean, by.values())) for name, by in optimizers.items()}
        for kind, optimizers in found.items()
    }
    return {kind: dict(sorted(by.items(), key=lambda one: one[1])) for kind, by in means.items()}


def _points(value: float, known: Sequence[float]) -> float:
    return 100 * (max(known) - value)


_BEHIND: Mapping[str, Callable[[float, Sequence[float]], float]] = {
    "rmse": lambda value, known: 100 * (value / min(known) - 1),
    "nll": lambda value, known: value - min(known),
}
