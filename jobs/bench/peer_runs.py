"""A whole job against torchdistill, another library of distillation: two commands, each a process of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from jobs.bench.measuring import Row, Sizes, paired, row_of
from jobs.bench.plain_loop import HARD, SOFT, TEMPERATURE
from jobs.bench.whole_runs import Side, timed, with_weights
from raykd.config import Config, load_config
from raykd.data import build_samples
from raykd.folders import read_json

TEACHER = {"type": "resnet", "width": 1.5, "depth": 14}
STUDENT = {"type": "cnn", "width": 0.5, "depth": 3}
INSTALLS = "pip install --no-deps torchdistill==1.1.5"
_NAME = "torchdistill / raykd run"
_BAR = ">= 2.6"
_BATCH = 128


def peer(sizes: Sizes) -> list[Row]:
    """Seconds of both commands from start to end, on Fashion-MNIST as it is: one teacher, one student, the same weights.

    raykd evaluates, exports and reports beside that. Where torchdistill is not installed one row says so.
    """
    if find_spec("torchdistill") is None:
        why = f"torchdistill is not installed: {INSTALLS}, beside torchvision"
        return [{"name": _NAME, "unit": "ratio", "median": "not measured", "bar": _BAR, "why": why}]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        config = recipe(root, sizes)
        samples = build_samples(config.data, seed=config.seed)
        with_weights(config, samples)
        pairs = [
            (_theirs(root, repeat), _ours(root, repeat)) for repeat in range(sizes.peer_repeats)
        ]
    return rows(pairs, len(samples.splits["train"]), sizes)


def rows(pairs: Sequence[tuple[Side, Side]], images: int, sizes: Sizes) -> list[Row]:
    """The table.

    Args:
        pairs: (torchdistill, raykd) of each repeat.
        images: that the student is trained on.
        sizes: how large it all was.
    """
    theirs, ours = ([pair[side] for pair in pairs] for side in (0, 1))
    seconds = [[side[0] for side in sides] for sides in (theirs, ours)]
    said = f"{_NAME} ({images:,} images, {sizes.peer_epochs} epochs)"
    return [
        {**paired(said, *seconds, bar=_BAR), "repeats": str(len(pairs))},
        row_of("torchdistill", "s", seconds[0]),
        row_of("raykd run", "s", seconds[1]),
        row_of("accuracy on test, torchdistill", "%", [100 * side[1] for side in theirs]),
        row_of("accuracy on test, raykd run", "%", [100 * side[1] for side in ours]),
    ]


def recipe(root: Path, sizes: Sizes) -> Config:
    """What both sides read from `root`: the recipe and everybody's weights."""
    tree: dict[str, Any] = {
        "data": {
            "source": {"type": "fashion_mnist", "limit": sizes.peer_images},
            "splits": {"validation": max(20, min(1000, sizes.peer_images // 10))},
        },
        "teachers": [
            {
                "name": "teacher",
                "model": TEACHER,
                "weights": str(root / "teacher.safetensors"),
                "expect": {"accuracy": 0.0},
            }
        ],
        "student": {"model": STUDENT, "weights": str(root / "student.safetensors")},
        "objective": {
            "labels": {"weight": HARD},
            "soft_targets": {"temperature": TEMPERATURE, "weight": SOFT},
        },
        "train": {
            "epochs": sizes.peer_epochs,
            "batch_size": _BATCH,
            "optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 0.0},
            "schedule": {"type": "cosine", "warmup_epochs": 0},
        },
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_config(tree)


def _theirs(root: Path, repeat: int) -> Side:
    result = root / f"theirs{repeat}.json"
    seconds = timed(["jobs.bench.peer_loop", str(root / "recipe.yaml"), str(result)])
    return seconds, float(json.loads(result.read_text())["accuracy"])


def _ours(root: Path, repeat: int) -> Side:
    """`raykd run` with an empty store and no cluster running."""
    output, store = root / f"run{repeat}", root / f"store{repeat}"
    command = ["raykd", "run", str(root / "recipe.yaml"), f"targets.store={store}"]
    seconds = timed([*command, "--output", str(output), "--quiet"])
    test = read_json(output / "summary.json")["student"]["test_last"]
    return seconds, float(test["accuracy"]["mean"])
