"""Whether the latencies of a run repeat: each repeat is a process of its own, as each run is.

To be taken on a machine that does nothing else; the last row says whether it did.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from jobs.bench.measuring import Row, Sizes, row_of
from raykd.config.models import (
    CnnModel,
    MlpModel,
    Model,
    ResnetModel,
    SklearnModel,
)
from raykd.evaluate.costs import costs
from raykd.evaluate.latency import Conditions
from raykd.models import build_model
from raykd.models.zoo.estimator import examples_of

_SHAPE, _CLASSES = (1, 28, 28), 10
_TREES = "sklearn.ensemble:ExtraTreesClassifier"
_MODELS: Mapping[str, Model] = {
    "student": CnnModel(width=0.25, depth=3),
    "mlp": MlpModel(),
    "resnet": ResnetModel(),
    "trees": SklearnModel(path=_TREES, kwargs={"n_estimators": 200, "n_jobs": -1}),
}
"""A student and its teachers, of images of 28×28, with fresh weights; the forest is fitted on digits."""


def latency(sizes: Sizes) -> list[Row]:
    """Milliseconds of each model and batch size in each repeat; `ratio` is the largest over the smallest."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        repeats = [processes.submit(measured).result() for _ in range(sizes.repeats)]
    rows = []
    for name in _MODELS:
        for size in ("1", "256"):
            values = [found[name]["latency_ms"][size] for found, _ in repeats]
            row = row_of(f"{name}, batch of {size}", "ms", values)
            rows.append({**row, "ratio": max(values) / min(values), "bar": "<= 1.10"})
    others = [seen.others or 0.0 for _, seen in repeats]
    took = [seen.seconds for _, seen in repeats]
    return [*rows, row_of("used by other processes", "CPUs", others), row_of("one measurement", "s", took)]  # fmt: skip


def measured() -> tuple[dict[str, dict[str, Any]], Conditions]:
    """One measurement of all, as a run makes it."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = np.repeat(images.reshape(-1, 1, 8, 8), 4, axis=2).repeat(4, axis=3)[..., 2:-2, 2:-2]
    inputs = torch.from_numpy(images / 16).float()
    examples = examples_of(inputs, torch.from_numpy(labels), None, seed=0)
    networks: dict[str, nn.Module] = {
        name: build_model(
            model,
            input_shape=_SHAPE,
            classes=_CLASSES,
            key=name,
            weights=examples if isinstance(model, SklearnModel) else None,
        )
        for name, model in _MODELS.items()
    }
    return costs(networks, {"inputs": inputs[:16]})
