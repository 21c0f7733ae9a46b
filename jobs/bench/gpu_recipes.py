"""What the smoke test of a GPU is made of: sizes, results, a made-up recipe of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from jobs.bench.synthetic import Bench
from raykd.config import Config, load_config
from raykd.data import Dataset
from raykd.folders import RunFolder

CLASSES = 10
TAP = "layer2"


class Result(NamedTuple):
    """One line of the table.

    Attributes:
        name: of what was measured.
        value: the number.
        unit: of it.
        bar: what it is held against, in words; empty where it is only shown.
        holds: whether it does; None where it is not held against anything here.
    """

    name: str
    value: float
    unit: str
    bar: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Smoke:
    """Where and how large.

    Attributes:
        device: a GPU, or the CPU to see that all of it works; figures of speed are held against bars on a GPU alone.
        samples: of the made-up data.
        side: of its images, in pixels.
        batch: of student and teachers.
        student, teacher: models.
        epochs: of a student; the first one warms up.
        repeats: how often figures of speed are taken, in turns.
    """

    device: torch.device
    samples: int = 8192
    side: int = 64
    batch: int = 256
    student: Mapping[str, Any] = NotImplemented
    teacher: Mapping[str, Any] = NotImplemented
    epochs: int = 4
    repeats: int = 3

    @property
    def on_gpu(self) -> bool:
        """Whether there is one."""
        return self.device.type == "cuda"

    def fast(self, name: str, ratio: float, least: float) -> Result:
        """A ratio of speeds, with a bar on a GPU."""
        holds = ratio >= least if self.on_gpu else None
        return Result(name, ratio, "ratio", f">= {least:g} on a GPU", holds)

    def recipe(self, teachers: Sequence[Mapping[str, Any]] = (), **sections: Any) -> Config:
        """A recipe on the device; sections replace those that it has."""
        gpus = float(self.on_gpu)
        made = {"samples": self.samples, "side": self.side}
        source = {"type": "factory", "path": "jobs.bench.gpu_recipes:images", "kwargs": made}
        policy = [{"type": "pad_crop", "padding": 4}, {"type": "flip"}]
        return load_config(
            {
                "data": {"source": source, "views": {"count": None, "policy": policy}},
                "teachers": list(teachers) or [self.fitted("t0")],
                "student": {"model": dict(self.student)},
                "train": {"epochs": self.epochs, "batch_size": self.batch, "optimizer": {"type": "sgd", "lr": 1e-3}},
                "evaluate": {"controls": []},
                "cluster": {
                    "student": {"gpus": gpus, "cpus": 1},
                    "teachers": {"gpus": gpus, "batch_size": self.batch, "start_timeout_s": 300, "request_timeout_s": 120},
                },
                "tracking": {"wandb": {"mode": "disabled"}},
            }
            | sections
        )  # fmt: skip

    def fitted(self, name: str) -> dict[str, Any]:
        """A teacher that is fitted, for one epoch, however good it is by then."""
        fit = {"epochs": 1, "batch_size": self.batch}
        return {"name": name, "model": dict(self.teacher), "fit": fit, "expect": {"accuracy": 0}}

    def bench(self, root: Path, **sections: Any) -> Bench:
        """The recipe, prepared in this process."""
        return Bench.of(self.recipe(**sections), RunFolder(root / "run"))


_STUDENT = {"type": "resnet", "width": 1.0, "depth": 20}
_TEACHER = {"type": "resnet", "width": 4.0, "depth": 32}
_SMALL = {"type": "resnet", "width": 0.25, "depth": 8}


def on_a_gpu() -> Smoke:
    """The sizes for one card."""
    return Smoke(torch.device("cuda"), student=_STUDENT, teacher=_TEACHER)


def on_a_cpu() -> Smoke:
    """Small ones, to see that everything works."""
    return Smoke(torch.device("cpu"), samples=256, side=8, batch=32, student=_SMALL, teacher=_SMALL, epochs=3, repeats=1)  # fmt: skip


def images(samples: int, side: int) -> Dataset:
    """Bytes: noise around one shade of each class, so that teachers learn something."""
    draw = np.random.default_rng(0)
    labels = np.arange(samples) % CLASSES
    noise = draw.integers(0, 100, (samples, 3, side, side))
    pixels = (noise + (labels * 15)[:, None, None, None]).astype(np.uint8)
    part, rows = max(CLASSES, samples // 16), np.arange(samples)
    splits = {"train": rows[: -2 * part], "test": rows[-2 * part : -part], "validation": rows[-part:]}  # fmt: skip
    return Dataset(inputs=pixels, labels=labels, splits=splits)
