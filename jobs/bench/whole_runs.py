"""A whole job against the same distillation as a plain loop: two commands, each a process of its own.

Shapes: B batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from jobs.bench.measuring import Row, Sizes, paired, row_of
from jobs.bench.plain_loop import HARD, SOFT, TEMPERATURE
from jobs.bench.ratios import COUNT, STUDENT, TEACHERS, Cost, cost
from raykd.config import Config, load_config
from raykd.data import Samples, build_samples
from raykd.folders import read_json
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.models.weights import save_weights
from raykd.runtime import machine

_BATCH = 128
_VIEWS = 2
_TAUGHT_EPOCHS = 1
"""Of a teacher: it has to know something, and how much does not matter to either side."""
_TIMEOUT_S = 3600.0


def end_to_end(sizes: Sizes) -> list[Row]:
    """Seconds of both commands, start-up, import, fill, evaluation and report included, at two costs.

    Both train one student on the same images, views and weights of teachers and student, by the same
    objective and optimizer. Teachers are fitted beforehand, which is not measured.
    """
    return [row for name in TEACHERS for row in _at(name, sizes)]


def _at(name: str, sizes: Sizes) -> list[Row]:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        config = recipe(root, TEACHERS[name], sizes)
        samples = build_samples(config.data, seed=config.seed)
        networks = with_weights(config, samples)
        batch = samples.batch(samples.splits["train"][:_BATCH], 0)
        cores = int(machine().cpus)
        found = cost(networks[1:], networks[0], batch.inputs, batch.labels, cores)
        pairs = [(_ours(root, repeat), _plain(root, repeat)) for repeat in range(sizes.fits)]
    return rows(pairs, found, len(samples.splits["train"]), sizes)


Side = tuple[float, float]
"""Seconds, and accuracy on test."""


def rows(pairs: Sequence[tuple[Side, Side]], found: Cost, images: int, sizes: Sizes) -> list[Row]:
    """The table of one cost.

    Args:
        pairs: (raykd, plain loop) of each repeat.
        found: what the models really cost.
        images: that the student is trained on.
        sizes: how large it all was.
    """
    ours, plain = ([pair[side] for pair in pairs] for side in (0, 1))
    said = f"{images:,} images, {sizes.epochs} epochs, {_VIEWS} views, {found}"
    epochs, ratio, views = sizes.epochs, found.ratio, min(_VIEWS, sizes.epochs)
    most = epochs * (1 + ratio) / (views * ratio + epochs)
    bound = f"most, without start-up: {epochs} (1 + r) / ({views} r + {epochs}) at r = {ratio:.1f}"
    points = [100 * (one[1] - other[1]) for one, other in pairs]
    return [
        {
            **paired(
                f"plain loop / raykd run ({said})",
                [side[0] for side in plain],
                [side[0] for side in ours],
                bar=">= 3",
            ),
            "repeats": str(len(pairs)),
        },
        row_of(bound, "ratio", [most]),
        row_of("plain loop", "s", [side[0] for side in plain]),
        row_of("raykd run", "s", [side[0] for side in ours]),
        row_of("accuracy on test, plain loop", "%", [100 * side[1] for side in plain]),
        row_of("accuracy on test, raykd run", "%", [100 * side[1] for side in ours]),
        {**row_of("accuracy, raykd less plain", "points", points), "bar": "about 0"},
    ]


def recipe(root: Path, teacher: Mapping[str, Any], sizes: Sizes) -> Config:
    """What both sides read from `root`: the recipe and everybody's weights."""
    names = [f"t{k}" for k in range(COUNT)]
    cores = int(machine().cpus)
    tree = {
        "data": {
            "source": {"type": "fashion_mnist", "limit": sizes.images},
            "splits": {"validation": max(20, sizes.images // 10)},
            "views": {
                "count": _VIEWS,
                "policy": [{"type": "shift", "pixels": 2}, {"type": "flip"}],
            },
        },
        "teachers": [
            {
                "name": name,
                "model": dict(teacher),
                "weights": str(root / f"{name}.safetensors"),
                "expect": {"accuracy": 0.0},
            }
            for name in names
        ],
        "student": {"model": dict(STUDENT), "weights": str(root / "student.safetensors")},
        "objective": {
            "labels": {"weight": HARD},
            "soft_targets": {"temperature": TEMPERATURE, "weight": SOFT, "combine": "logits"},
        },
        "train": {
            "epochs": sizes.epochs,
            "batch_size": _BATCH,
            "optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 0.0},
            "schedule": {"type": "cosine", "warmup_epochs": 0},
        },
        "targets": {"mode": "stored"},
        "cluster": {
            "student": {"cpus": cores},
            "teachers": {"cpus": cores / COUNT, "batch_size": _BATCH},
        },
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_config(tree)


def with_weights(config: Config, samples: Samples) -> list[Network]:
    """The student and the teachers, whose weights both sides are given: teachers fitted, the student fresh."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(machine().cpus))
    mean, std = samples.statistics()
    networks = []
    parts = [(part.model, part.weights) for part in config.teachers]
    for seed, (spec, weights) in enumerate(
        [(config.student.model, config.student.weights), *parts]
    ):
        assert spec is not None, "the recipe says so"
        assert weights is not None, "the recipe says so"
        torch.manual_seed(seed)
        shape, classes = samples.input_shape, samples.class_count
        model = build_model(spec, input_shape=shape, classes=classes, key="model")
        network = Network(model, Preprocessing(mean=mean, std=std))
        if seed:
            _teach(network, samples, seed)
        save_weights(model.state_dict(), Path(weights))
        networks.append(network)
    torch.set_num_threads(before)
    return networks


def _teach(network: Network, samples: Samples, seed: int) -> None:
    order = samples.splits["train"]
    steps = _TAUGHT_EPOCHS * -(-len(order) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    draw = np.random.default_rng(seed)
    for epoch in range(_TAUGHT_EPOCHS):
        rows = draw.permutation(order)
        for start in range(0, len(rows), _BATCH):
            batch = samples.batch(rows[start : start + _BATCH], epoch)
            loss = F.cross_entropy(network(batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def _ours(root: Path, repeat: int) -> Side:
    """`raykd run` with an empty store and no cluster running."""
    output, store = root / f"run{repeat}", root / f"store{repeat}"
    command = ["raykd", "run", str(root / "recipe.yaml"), f"targets.store={store}"]
    seconds = timed([*command, "--output", str(output), "--quiet"])
    test = read_json(output / "summary.json")["student"]["test_last"]
    return seconds, float(test["accuracy"]["mean"])


def _plain(root: Path, repeat: int) -> Side:
    result = root / f"plain{repeat}.json"
    seconds = timed(["jobs.bench.plain_loop", str(root / "recipe.yaml"), str(result)])
    return seconds, float(json.loads(result.read_text())["accuracy"])


def timed(module: Sequence[str]) -> float:
    """Seconds of `python -m module ...`, from its start to its end."""
    passed = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    begun = time.perf_counter()
    done = subprocess.run(  # noqa: S603 (our own commands)
        [sys.executable, "-m", *module],
        env=passed,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(module)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return seconds
