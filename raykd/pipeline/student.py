"""The student as an artefact: weights and a description, loaded back by one call."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from raykd.config.models import FactoryModel, Model
from raykd.errors import InputError, Problem
from raykd.folders import RunFolder, read_json, write_json
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.models.weights import apply_weights, load_weights, save_weights
from raykd.pipeline.preparation import Prepared
from raykd.types import Scale

SCHEMA = 1


def save_student(prepared: Prepared, run: RunFolder) -> Path:
    """Write replica 0 at its best epoch to `RUN/student`."""
    best = run.checkpoints("student/replica0") / "best.safetensors"
    weights = load_weights(best, key="checkpoints")
    run.student.mkdir(parents=True, exist_ok=True)
    save_weights(weights, run.student / "model.safetensors")
    about = {
        "schema": SCHEMA,
        "task": prepared.config.task,
        "model": prepared.config.student.model.model_dump(mode="json"),
        "preprocessing": prepared.preprocessing.describe(),
        "input": {
            "name": next(iter(prepared.samples.inputs)),
            "shape": list(prepared.samples.input_shape),
        },
        "classes": list(prepared.samples.classes),
        "scale": prepared.samples.scale and asdict(prepared.samples.scale),
        "teachers": list(prepared.teachers),
    }
    write_json(run.student / "model.json", about)
    return run.student


def describe_student(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Folder and description of a student, from a run folder or the student's own.

    Raises:
        InputError: there is no student.
    """
    folder = Path(path)
    if (folder / "student" / "model.json").is_file():
        folder = folder / "student"
    if not (folder / "model.json").is_file():
        raise InputError(
            Problem(
                str(path), "holds no student: give a finished run's folder, or its student/ folder"
            )
        )
    try:
        about = read_json(folder / "model.json")
    except ValueError as error:
        raise InputError(Problem(str(folder / "model.json"), f"is damaged: {error}")) from None
    return folder, about


def load_student(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """The distilled student, in evaluation mode.

    Args:
        path: a run folder, or its `student/` folder.
        model: the architecture, when the recipe made it by a factory: what an artefact says is data, and
            is never imported.

    Returns:
        A module that takes `{input name: tensor [B, ...]}` in source space and returns logits [B, C]; in
        regression values in original units [B, 1], in multilabel label logits [B, K].

    Raises:
        InputError: no student there, damaged files, or a factory model without `model`.
    """
    folder, about = describe_student(path)
    try:
        spec: Any = TypeAdapter(Model).validate_python(about["model"])
        preprocessing = Preprocessing(**{k: _tuple(v) for k, v in about["preprocessing"].items()})
        shape, classes = tuple(about["input"]["shape"]), len(about["classes"])
        scale = Scale(**about["scale"]) if about.get("scale") else None
    except (ValidationError, KeyError, TypeError) as error:
        raise InputError(Problem(str(folder / "model.json"), f"is damaged: {error}")) from None
    if model is None and isinstance(spec, FactoryModel):
        raise InputError(
            Problem(str(path), f"the student comes from {spec.path!r}, which is not imported from an artefact; "
                    "pass it: load_student(path, model=...)")
        )  # fmt: skip
    if model is None:
        input_shape = preprocessing.output_shape(shape)
        model = build_model(spec, input_shape=input_shape, classes=classes, key="model")
    apply_weights(
        model, load_weights(folder / "model.safetensors", key=str(folder)), key=str(folder)
    )
    return Network(model, preprocessing, scale).eval()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
