"""A search whose trials read one set of targets, beside the same trials that each ask the teachers themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter

from jobs.bench.measuring import Row, Sizes, paired, row_of
from jobs.bench.ratios import COUNT, STUDENT, TEACHERS, Cost, cost
from jobs.bench.synthetic import SIDE
from raykd.config import Config, load_config
from raykd.config.models import Model
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import save_weights
from raykd.pipeline import Options
from raykd.pipeline.session import opened
from raykd.runtime import connect, machine
from raykd.search.builder import TrialBuilder
from raykd.search.sweeping import plan_sweep, search_trials
from raykd.search.wandb_runs import SweepRuns

_RATES = (3e-4, 1e-3, 2e-3, 3e-3, 1e-2, 3e-2)
"""One for each trial."""
_COST = "20:1"
_CLASSES = 10
_EPOCHS = 2  # each shows a view of its own, as a longer training shows each of more views
_SHARE = 4


def sweep(sizes: Sizes) -> list[Row]:
    """Seconds from the first teacher's start to the last trial's end, for a quarter of `samples` images.

    Trials take turns on both sides, teachers have all cores on both, and neither side has stored anything.
    """
    cores = int(machine().cpus)
    with TemporaryDirectory() as folder, connect(None):
        root = Path(folder)
        found = _ready(root, sizes, cores)
        shared: list[Side] = []
        alone: list[Side] = []
        for repeat in range(sizes.repeats):
            shared.append(_searched(_recipe(root, sizes, cores, _RATES), root / f"shared{repeat}"))
            parts = [
                _searched(_recipe(root, sizes, cores, (rate,)), root / f"alone{repeat}-{index}")
                for index, rate in enumerate(_RATES)
            ]
            alone.append((sum(one[0] for one in parts), sum(one[1] for one in parts)))
    return _rows(shared, alone, found, sizes)


Side = tuple[float, int]
"""Seconds, and teacher samples scored."""


def _rows(shared: Sequence[Side], alone: Sequence[Side], found: Cost, sizes: Sizes) -> list[Row]:
    trials, ratio = len(_RATES), found.ratio
    most = trials * (1 + ratio) / (trials + ratio)
    said = (
        f"{trials} trials, {sizes.samples // _SHARE:,} images, {_EPOCHS} epochs and views, {found}"
    )
    own_s, one_s = ([side[0] for side in sides] for sides in (alone, shared))
    return [
        paired(f"each trial its own targets / one set for all ({said})", own_s, one_s, bar=">= 3"),
        row_of(f"most, without start-up: {trials} (1 + r) / ({trials} + r)", "ratio", [most]),
        row_of("each trial its own targets", "s", own_s),
        row_of("one set for all", "s", one_s),
        row_of("each trial its own targets, scored", "samples", [side[1] for side in alone]),
        row_of("one set for all, scored", "samples", [side[1] for side in shared]),
    ]


def _searched(config: Config, folder: Path) -> Side:
    """Filling an empty store and running every trial; finalists and report are left out."""
    store = config.targets.model_copy(update={"store": f"{folder}-store"})
    options = Options(output=folder)
    planned = plan_sweep(config.model_copy(update={"targets": store}), options)
    runs = SweepRuns(planned.config, planned.folder)
    with opened(planned.prepared, planned.folder, options) as job:
        begun = time.perf_counter()
        with job.targets(job.teachers(), planned.views) as served:
            search_trials(job, planned, TrialBuilder(job.prepared, served), runs, options)
        return time.perf_counter() - begun, served.scored


def _recipe(root: Path, sizes: Sizes, cores: int, rates: Sequence[float]) -> Config:
    """A grid over learning rates; the teachers' weights lie in `root`."""
    names = [f"t{k}" for k in range(COUNT)]
    source = {"type": "factory", "path": "jobs.bench.synthetic:dataset",
              "kwargs": {"samples": sizes.samples // _SHARE, "classes": _CLASSES}}  # fmt: skip
    return load_config(
        {
            "data": {
                "source": source,
                "views": {"count": _EPOCHS, "policy": [{"type": "shift", "pixels": 2}]},
            },
            "teachers": [
                {
                    "name": name,
                    "model": dict(TEACHERS[_COST]),
                    "weights": str(root / f"{name}.safetensors"),
                    "expect": {"accuracy": 0.0},
                }
                for name in names
            ],
            "student": {"model": dict(STUDENT)},
            "train": {"epochs": _EPOCHS, "batch_size": sizes.units},
            "targets": {"mode": "stored"},
            "cluster": {
                "student": {"cpus": cores},
                "teachers": {"cpus": cores / COUNT, "batch_size": sizes.units},
            },
            "tracking": {"wandb": {"mode": "disabled"}},
            "search": {
                "parameters": {"train.optimizer.lr": {"space": "choice", "categories": rates}},
                "searcher": {"type": "grid"},
                "scheduler": {"type": "none"},
                "max_concurrent": 1,
                "finalists": None,
            },
        }
    )


def _ready(root: Path, sizes: Sizes, cores: int) -> Cost:
    """Untrained weights for the teachers, whose speed does not depend on what they know; what a batch costs."""
    shape = (1, SIDE, SIDE)
    networks = []
    for seed, given in enumerate((STUDENT, *[TEACHERS[_COST]] * COUNT)):
        torch.manual_seed(seed)
        spec: Model = TypeAdapter(Model).validate_python(dict(given))
        model = build_model(spec, input_shape=shape, classes=_CLASSES, key="model")
        networks.append(Network(model))
        if seed:
            save_weights(model.state_dict(), root / f"t{seed - 1}.safetensors")
    student, *teachers = networks
    inputs = {"image": torch.rand(sizes.units, *shape)}
    labels_B = torch.arange(sizes.units) % _CLASSES
    return cost([one.eval() for one in teachers], student, inputs, labels_B, cores)
