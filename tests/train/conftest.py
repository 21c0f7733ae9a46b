"""Fits on tiny data with teachers that are a table; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from raykd_test_models import SHAPES

from raykd.config.data import Preprocess
from raykd.config.models import CnnModel, MlpModel
from raykd.config.objective import Objective
from raykd.config.training import Training
from raykd.data import Samples
from raykd.folders import RunFolder
from raykd.models.preprocess import resolve
from raykd.models.weights import load_weights
from raykd.objective import TeacherInfo
from raykd.targets import NoTargets
from raykd.testing.sources import TableTargets
from raykd.train import Fit, FolderReporter, Plan, World, train


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All fits here are compared bit for bit."""


@pytest.fixture
def make_fit() -> Callable[..., Fit]:
    """A fit of a tiny network; `train`, `objective` and `plan` change its parts."""

    def make(
        samples: Samples,
        *,
        teacher_infos: tuple[str, ...] = ("a", "b"),
        train: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
        model: str = "mlp",
        **given: Any,
    ) -> Fit:
        spec = {
            "mlp": MlpModel(width=0.25, depth=1, dropout=0.1),
            "cnn": CnnModel(width=0.25, depth=2),
            "batch": CnnModel(width=0.25, depth=2, norm="batch"),
        }[model]
        rows = samples.splits["train"] if teacher_infos else samples.labelled_rows("train")
        settings = {
            "epochs": 3,
            "batch_size": 32,
            "optimizer": {"type": "adamw", "lr": 0.02},
            **(train or {}),
        }
        taught = {"soft_targets": {"temperature": 2.0}} if teacher_infos else {"soft_targets": None}
        order = {
            "rows": rows,
            "epoch_rows": len(samples.splits["train"]),
            "batch_size": settings["batch_size"],
            "seed": 5,
            "views": 4 if samples.policy else 0,
            **(plan or {}),
        }
        terms = (objective or {}).get("features", [])
        return Fit(
            **{
                "fit_id": "student/replica0",
                "stage": "student",
                "key": "student.model",
                "model": spec,
                "preprocessing": resolve(
                    Preprocess(), samples.statistics(), input_shape=samples.input_shape, key="p"
                ),
                "weights": None,
                "objective": Objective.model_validate({**taught, **(objective or {})}),
                "teacher_infos": tuple(TeacherInfo(name) for name in teacher_infos),
                "student_shapes": SHAPES if terms else {},
                "teacher_shapes": {
                    (name, tap): s for name in teacher_infos for tap, s in SHAPES.items()
                },
                "training": Training.model_validate(settings),
                "plan": Plan(**order),
                "seed": 11,
                "labels": "budget",
                "data": "digest",
                **given,
            }
        )

    return make


class Runs:
    """Trains fits in folders of their own."""

    def __init__(self, root: Path, samples: Samples, emit: Callable[..., None]) -> None:
        self.root, self.samples, self.emit = root, samples, emit

    def reporter(self, name: str) -> FolderReporter:
        return FolderReporter(RunFolder(self.root / name), self.emit)

    def source(self, fit: Fit) -> Any:
        if not fit.teacher_infos:
            return NoTargets()
        maps = SHAPES if fit.objective.features else None
        return TableTargets([v.name for v in fit.teacher_infos], self.samples, maps=maps)

    def __call__(self, fit: Fit, name: str = "run", **given: Any) -> dict[str, Any]:
        source = given.pop("source", None) or self.source(fit)
        reporter = given.pop("reporter", None) or self.reporter(name)
        samples = given.pop("samples", self.samples)
        return train(fit, samples, source, reporter, World(), **given)

    def weights(self, fit: Fit, name: str = "run", which: str = "last") -> dict[str, torch.Tensor]:
        path = self.reporter(name).folder(fit.fit_id).weights(which)
        return load_weights(path, key="test")


@pytest.fixture
def runs(tmp_path: Path, samples: Samples, heard: Any) -> Runs:
    return Runs(tmp_path / "runs", samples, heard)


@pytest.fixture
def equal() -> Callable[..., bool]:
    def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)

    return equal
