"""Data, teachers and students of any size, made up: what is measured does not depend on what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config import Config, load_config
from raykd.data import Dataset, Samples
from raykd.folders import RunFolder
from raykd.objective import TeacherInfo
from raykd.pipeline.preparation import Prepared, prepare
from raykd.targets import TargetSource, Ticket
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, Plan, World, train
from raykd.types import Batch, Dense, TeacherOutputs

SIDE = 28


def dataset(samples: int, classes: int) -> Dataset:
    """Noise with labels, its last sixteenth for validation and the one before for test."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (samples, 1, SIDE, SIDE), dtype=np.uint8)
    part = max(2, samples // 16)
    rows = np.arange(samples)
    splits = {
        "train": rows[: -2 * part],
        "test": rows[-2 * part : -part],
        "validation": rows[-part:],
    }
    return Dataset(inputs=pixels, labels=np.arange(samples) % classes, splits=splits)


class Sleeper(nn.Module):
    """A teacher that takes a given time for a batch, and no processor."""

    def __init__(self, classes: int, service_ms: float) -> None:
        super().__init__()
        self.head = nn.Linear(SIDE * SIDE, classes)
        self.service_ms = service_ms

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C]."""
        time.sleep(self.service_ms / 1000)
        logits: Tensor = self.head(images.flatten(1))
        return logits


def sleeper(classes: int, service_ms: float) -> nn.Module:
    """Factory of a `Sleeper`."""
    return Sleeper(classes, service_ms)


def recipe(
    samples: int,
    classes: int,
    teachers: Sequence[Any],
    student: Any,
    batch_size: int,
    epochs: int = 2,
) -> Config:
    """A recipe over `dataset`, with one view."""
    source = {"type": "factory", "path": "jobs.bench.synthetic:dataset",
              "kwargs": {"samples": samples, "classes": classes}}  # fmt: skip
    return load_config(
        {
            "data": {"source": source, "views": {"count": 1, "policy": []}},
            "teachers": list(teachers),
            "student": {"model": student},
            "train": {
                "epochs": epochs,
                "batch_size": batch_size,
                "optimizer": {"type": "sgd", "lr": 1e-3},  # noise in small batches must not diverge
            },
            "cluster": {"teachers": {"batch_size": batch_size}},
            "tracking": {"wandb": {"mode": "disabled"}},
        }
    )


@dataclass(frozen=True)
class Bench:
    """A prepared recipe whose student is trained in this process, as often as asked for."""

    prepared: Prepared
    folder: RunFolder

    @classmethod
    def of(cls, config: Config, folder: RunFolder) -> Bench:
        """Everything but the teachers' answers."""
        return cls(prepare(config), folder)

    @property
    def samples(self) -> Samples:
        """The data."""
        return self.prepared.samples

    def epoch_s(
        self, name: str, source: TargetSource, teacher_infos: Sequence[str]
    ) -> tuple[float, float]:
        """Seconds of a student's epoch, the mean of all but the first, and the part that it waited for teachers."""
        heard: list[Event] = []
        self.fit_s(name, source, teacher_infos, heard.append)
        later = [event.values for event in heard if event.kind == "epoch"][1:]
        samples = len(self.samples.splits["train"])
        seconds = [samples / float(values["samples_per_s"]) for values in later]
        waited = [
            s * float(v["teacher_wait_fraction"]) for s, v in zip(seconds, later, strict=True)
        ]
        return sum(seconds) / len(seconds), sum(waited) / sum(seconds)

    def fit_s(
        self,
        name: str,
        source: TargetSource,
        teacher_infos: Sequence[str],
        listen: Callable[[Event], None],
    ) -> float:
        """Seconds of a student's whole training in this process, validation and checkpoints included."""
        result = train(
            self.fit(name, teacher_infos),
            self.samples,
            source,
            FolderReporter(self.folder, listen),
            World(),
            depth=self.prepared.config.targets.depth,
        )
        return float(result["seconds"])

    def fit(self, name: str, teacher_infos: Sequence[str]) -> Fit:
        """The student, taught by some teachers or by labels alone."""
        prepared, config = self.prepared, self.prepared.config
        rows = self.samples.splits["train"]
        objective = config.objective
        if not teacher_infos:
            objective = objective.model_copy(update={"soft_targets": None})
        return Fit(
            fit_id=name,
            stage="student",
            key="student.model",
            model=config.student.model,
            preprocessing=prepared.preprocessing,
            weights=prepared.student_weights,
            objective=objective,
            teacher_infos=tuple(TeacherInfo(teacher) for teacher in teacher_infos),
            student_shapes={},
            teacher_shapes={},
            training=config.train,
            plan=Plan(
                rows, len(rows), config.train.batch_size, seed=0, views=config.data.views.count
            ),
            seed=0,
            labels="budget",
            data=prepared.data,
        )


def logits(rows: int, classes: int, seed: int) -> Tensor:
    """What a made-up teacher says [rows, classes]."""
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class AtHand:
    """Made-up answers in memory: teacher -> its logits [N, C], and the features by tap of all of them."""

    said: Mapping[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    at_once = True

    def submit(self, batch: Batch) -> Ticket:
        """Nothing is to be done ahead."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002 (there is nothing to wait for)
        """What they say of a batch."""
        rows_B = ticket.batch.rows
        valid_B = torch.ones(len(rows_B), dtype=torch.bool)
        features = {tap: feature_ND[rows_B] for tap, feature_ND in self.features.items()}
        return {
            name: Dense(
                kind="logits", values_NC=said_NC[rows_B], valid_N=valid_B, features=features
            )
            for name, said_NC in self.said.items()
        }
