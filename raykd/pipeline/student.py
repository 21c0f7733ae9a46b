"""The student as an artefact: weights and a description, loaded back by one call, exported by another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from raykd.config import Config
from raykd.config.base import TEXT_BYTES
from raykd.config.choosing import with_target
from raykd.config.explanations import nearest
from raykd.config.load import recipe_as_data
from raykd.config.models import ZooModel, is_harmless
from raykd.config.sources import FilesSource, ObjectSource, ParquetSource, Source
from raykd.data.objects import ROW
from raykd.errors import ExportError, InputError, Problem
from raykd.export.description import Description, Input, read_description
from raykd.export.graph_model import as_network
from raykd.export.onnx_format import open_session, run_session
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import STUDENTS, RunFolder, reading, refuse_links, replacing, write_json
from raykd.importing import load_package
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import (
    apply_weights,
    fingerprint,
    load_weights,
    outline,
    refuse_unfit,
    save_weights,
)
from raykd.report.folder import RunData, read_run
from raykd.tasks import find_task, known_task
from raykd.train.checkpoint import FitFolder
from raykd.types import TEXT

if TYPE_CHECKING:
    from raykd.pipeline.preparation import Prepared  # imports ray

GRAPH_SUFFIX = ".onnx"


def save_student(
    prepared: Prepared,
    folder: RunFolder,
    temperature: float | None = None,
    replica: int = 0,
    *,
    name: str = "student",
    run: RunFolder | None = None,
) -> Path:
    """Write one replica at its best epoch, with its own temperature, to `student/` of a folder.

    Args:
        prepared: the student's recipe.
        folder: of the run, or of one of its other students.
        temperature: its own.
        replica: which one.
        name: of its fits.
        run: where its checkpoints are; None = in the same folder.
    """
    checkpoints = (run or folder).checkpoints(f"{name}/replica{replica}")
    weights = FitFolder(checkpoints).read_weights("best")
    with replacing(folder.student) as fresh:
        save_weights(weights, fresh / WEIGHTS)
        about = _describe(prepared, fingerprint(weights), temperature)
        write_json(fresh / DESCRIPTION, about.to_json())
    return folder.student


def student_folder(run: Path, name: str | None) -> Path:
    """The folder of one of a run's students; the run's own for the first one, `student`.

    Raises:
        InputError: the run has no student of this name.
    """
    if name is None or name == "student":
        return run
    refuse_links(run)
    found = RunFolder(run).of_student(name).path
    if name in _other_students(run):
        return found
    there = ", ".join(["student", *_other_students(run)])
    raise InputError.at(
        "--student", f"found {name!r}{nearest(name, _other_students(run))}; {run} has {there}"
    )


def _other_students(run: Path) -> list[str]:
    """Names of a run's other students that there are."""
    parts = (run / STUDENTS).glob("*/config.json")
    return sorted(config.parent.name for config in parts)


def _describe(prepared: Prepared, weights: str, temperature: float | None) -> Description:
    samples = prepared.samples
    name, array = next(iter(samples.inputs.items()))
    integers = array.dtype.kind == "i"
    taken = Input(
        name=name,
        shape=samples.input_shape,
        dtype="uint8" if samples.is_text else "int64" if integers else "float32",
        bytes=array.dtype == np.uint8 and not samples.is_text,
        columns=samples.features,
        words=tuple(samples.words),
        source=_reading(prepared.config.data.source),
    )
    if samples.vocabulary is not None:  # it is asked about texts
        length = getattr(prepared.config.data.source, "length", TEXT_BYTES)
        taken = Input(name=TEXT, shape=(length,), dtype="uint8", source=taken.source)
    return Description(
        task=samples.task,
        model=prepared.config.student.model,
        preprocessing=prepared.preprocessing,
        input=taken,
        classes=_outputs(prepared),
        scale=samples.scale,
        temperature=temperature,
        teachers=tuple(prepared.teachers),
        fingerprint=weights,
    )


def _reading(source: Source) -> FilesSource | None:
    """How new files are read as those that were trained on; nothing of where these are."""
    if isinstance(source, ObjectSource):
        common = ParquetSource.model_fields.keys() & ObjectSource.model_fields.keys() - {"type"}
        columns = {name: getattr(source, name) for name in common}
        source = ParquetSource(
            path="", **{**columns, "id": None if source.id == ROW else source.id}
        )
    if not isinstance(source, FilesSource):
        return None
    return source.model_copy(update={"path": "", "label": None, "labels": None})


def _outputs(prepared: Prepared) -> tuple[str, ...]:
    """Names of the student's outputs; of an embedding the numbers of its dimensions."""
    dimension, vocabulary = prepared.config.student.dimension, prepared.samples.vocabulary
    if vocabulary is not None:
        return tuple(vocabulary.names)
    if dimension is None:
        return prepared.samples.classes
    return tuple(map(str, range(dimension)))


def describe_student(path: str | os.PathLike[str]) -> tuple[Path, Description]:
    """Folder and description of a student, from a run folder or the student's own.

    Raises:
        InputError: there is no student, its description is damaged, it learnt a task that is not known here, or a link
            leads out of the folder.
    """
    folder = Path(path)
    if folder.suffix == GRAPH_SUFFIX:
        if not folder.is_file():
            raise InputError.at(str(path), "no such file; `raykd export RUN` writes it")
        folder = folder.parent
    refuse_links(folder)
    if (folder / "student" / DESCRIPTION).is_file():
        folder = folder / "student"
    if not (folder / DESCRIPTION).is_file():
        raise InputError.at(
            str(path),
            "holds no student: give a finished run's folder, its student/ folder, or a graph of an export in which "
            "model.json lies too (--format safetensors,onnx)",
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
        A module that takes a tensor [B, ...] in source space, or `{input name: tensor}`, and returns logits [B, C]; in
        regression values in original units [B, 1], in multilabel label logits [B, K]; embeddings [B, D].

    Raises:
        InputError: no student there, damaged files, or a model that needs `model`.
    """
    if task is not None:
        find_task(task)
    folder, about = describe_student(path)
    if model is None and not is_harmless(about.model):
        model_of = about.model
        source = getattr(model_of, "path", getattr(model_of, "name", model_of.type))
        raise InputError(
            Problem(str(path), f"the student comes from {source!r}, which is not imported from an artefact; "
                    "pass it: --model MODULE:FUNCTION, or load_student(path, model=...)")
        )  # fmt: skip
    weights = load_weights(folder / WEIGHTS, key=str(folder))
    if model is None:
        model = _built(about, weights, folder)
    if about.fingerprint not in (None, fingerprint(weights)):
        raise InputError(
            Problem(str(folder / WEIGHTS), f"was changed since {DESCRIPTION} was written; copy both again")
        )  # fmt: skip
    apply_weights(model, weights, key=str(folder))
    return Network(model, about.preprocessing, about.scale).eval()


def load_graph(file: Path) -> nn.Module:
    """An exported ONNX graph, of float32 or int8, as `load_student` gives the student; onnxruntime computes it.

    Args:
        file: beside the export's `model.json`, which tells what is not in the graph.

    Raises:
        InputError: it is missing or damaged, onnxruntime is not installed, or it is another student's.
    """
    folder, about = describe_student(file)
    load_package("onnxruntime", install="raykd[export]", key=str(file))
    try:
        session = open_session(file)
    except ExportError as error:
        raise InputError.at(str(file), str(error)) from error
    told = session.get_modelmeta().custom_metadata_map
    if (told.get("task"), told.get("classes")) != (about.task, json.dumps(about.classes)):
        raise InputError.at(
            str(file), f"is of another student than {folder / DESCRIPTION}; export again"
        )
    return as_network(about, run_session(session, about))


def _built(about: Description, weights: Mapping[str, Tensor], folder: Path) -> nn.Module:
    """The network that a description names, once it is seen that it is as large as its weights.

    Raises:
        InputError: it has other weights, or cannot be built.
    """

    def make() -> nn.Module:
        return build_model(about.model, input_shape=shape, classes=about.outputs, key="model", weights=weights)  # fmt: skip

    with reading(folder / DESCRIPTION):
        shape = about.preprocessing.output_shape(about.input.shape)
        too_deep = getattr(about.model, "depth", 0) > len(weights)  # each of them has weights
        like = None
        if isinstance(about.model, ZooModel) and not too_deep:
            like = outline(make, len(weights))
        if like is not None:
            refuse_unfit(like, weights, key=str(folder))
        elif isinstance(about.model, ZooModel):
            raise InputError(
                Problem(str(folder / DESCRIPTION), f"describes a larger network than {WEIGHTS} has the {len(weights)} weights "
                        "of; copy both again")
            )  # fmt: skip
        return make()


def finished_run(folder: RunFolder) -> tuple[RunData, Config]:
    """What a finished run's folder holds, and its recipe.

    Raises:
        InputError: the folder is of no finished run that trained a student.
    """
    data = read_run(folder.path)
    if data.summary.get("kind") == "stage":
        raise InputError.at(
            "RUN",
            f"{folder.path} is a stage of a run; give the folder of the run, whose student is the last one's",
        )
    if not data.summary.get("student") or not folder.config.is_file():
        why = data.summary.get("error") or "it trained no single student"
        raise InputError.at(
            "RUN", f"{folder.path} is no finished run: {why}; give the folder of `raykd run`"
        )
    config = recipe_as_data(folder.config)
    with reading(folder.summary):
        return data, _as_taught(config, data.summary)


def _as_taught(config: Config, summary: Mapping[str, Any]) -> Config:
    """The recipe with the target that validation chose, where it was left to it."""
    if config.objective.choose is None:
        return config
    return with_target(config, summary["choice"]["target"])


def student_of(folder: RunFolder, config: Config) -> Description:
    """The description of the run's student.

    Raises:
        InputError: there is no student, or it is not that of the run's recipe.
    """
    _, about = describe_student(folder.student)
    found = {
        "task": (about.task, config.task),
        "model": (about.model, config.student.model),
        "teachers": (about.teachers, tuple(teacher.name for teacher in config.teachers)),
    }
    problems = [
        Problem(str(folder.student), f"{key} is {own!r}, the run's recipe says {expected!r}; "
                "this student is of another run, or was changed")
        for key, (own, expected) in found.items() if own != expected
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    return about
