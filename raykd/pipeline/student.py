"""The student as an artefact: weights and a description, loaded back by one call."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import nn

from raykd.config.models import is_harmless
from raykd.errors import InputError, Problem
from raykd.export.description import Description, Input, read_description
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import RunFolder, write_json
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import apply_weights, fingerprint, load_weights, save_weights
from raykd.pipeline.preparation import Prepared
from raykd.tasks import find_task, known_task
from raykd.train.checkpoint import FitFolder


def save_student(prepared: Prepared, run: RunFolder) -> Path:
    """Write replica 0 at its best epoch to `RUN/student`."""
    weights = FitFolder(run.checkpoints("student/replica0")).read_weights("best")
    run.student.mkdir(parents=True, exist_ok=True)
    save_weights(weights, run.student / WEIGHTS)
    write_json(run.student / DESCRIPTION, _describe(prepared, fingerprint(weights)).to_json())
    return run.student


def _describe(prepared: Prepared, weights: str) -> Description:
    samples = prepared.samples
    name, array = next(iter(samples.inputs.items()))
    integers = array.dtype.kind == "i"
    return Description(
        task=samples.task,
        model=prepared.config.student.model,
        preprocessing=prepared.preprocessing,
        input=Input(
            name=name,
            shape=samples.input_shape,
            dtype="uint8" if samples.is_text else "int64" if integers else "float32",
            bytes=array.dtype == np.uint8 and not samples.is_text,
            columns=samples.features,
        ),
        classes=_outputs(prepared),
        scale=samples.scale,
        teachers=tuple(prepared.teachers),
        fingerprint=weights,
    )


def _outputs(prepared: Prepared) -> tuple[str, ...]:
    """Names of the student's outputs; of an embedding the numbers of its dimensions."""
    dimension = prepared.config.student.dimension
    if dimension is None:
        return prepared.samples.classes
    return tuple(map(str, range(dimension)))


def describe_student(path: str | os.PathLike[str]) -> tuple[Path, Description]:
    """Folder and description of a student, from a run folder or the student's own.

    Raises:
        InputError: there is no student, its description is damaged, or it learnt a task that is not known here.
    """
    folder = Path(path)
    if (folder / "student" / DESCRIPTION).is_file():
        folder = folder / "student"
    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            Problem(
                str(path), "holds no student: give a finished run's folder, or its student/ folder"
            )
        )
    about = read_description(folder / DESCRIPTION)
    known_task(about.task, where=str(folder / DESCRIPTION))
    return folder, about


def load_student(
    path: str | os.PathLike[str], *, model: nn.Module | None = None, task: str | None = None
) -> nn.Module:
    """The distilled student, in evaluation mode.

    Args:
        path: a run folder, or its `student/` folder.
        model: the architecture, when the recipe made it by a factory or took it from elsewhere: what an
            artefact says is data, and is never imported.
        task: `module:name` of a task of your own, where the student learnt that.

    Returns:
        A module that takes `{input name: tensor [B, ...]}` in source space and returns logits [B, C]; in
        regression values in original units [B, 1], in multilabel label logits [B, K]; embeddings [B, D].

    Raises:
        InputError: no student there, damaged files, or a model that needs `model`.
    """
    if task is not None:
        find_task(task)
    folder, about = describe_student(path)
    if model is None and not is_harmless(about.model):
        said = about.model
        source = getattr(said, "path", getattr(said, "name", said.type))
        raise InputError(
            Problem(str(path), f"the student comes from {source!r}, which is not imported from an artefact; "
                    "pass it: --model MODULE:FUNCTION, or load_student(path, model=...)")
        )  # fmt: skip
    weights = load_weights(folder / WEIGHTS, key=str(folder))
    if model is None:
        input_shape = about.preprocessing.output_shape(about.input.shape)
        classes = len(about.classes)
        model = build_model(
            about.model, input_shape=input_shape, classes=classes, key="model", weights=weights
        )
    if about.fingerprint not in (None, fingerprint(weights)):
        raise InputError(
            Problem(str(folder / WEIGHTS), f"was changed since {DESCRIPTION} was written; copy both again")
        )  # fmt: skip
    apply_weights(model, weights, key=str(folder))
    return Network(model, about.preprocessing, about.scale).eval()
