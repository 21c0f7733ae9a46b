"""ONNX: `model.onnx`, which onnxruntime opens without raykd and torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raykd import __version__
from raykd.disks import write_whole, writing
from raykd.errors import ExportError
from raykd.export.description import Description
from raykd.export.raw_columns import raw_columns, with_words
from raykd.export.student import Runner, Student
from raykd.export.torch_format import quiet, trace
from raykd.models.zoo.onnx_graph import onnxruntime_errors
from raykd.tasks import find_task

GRAPH = "model.onnx"
OPSET = 20


def write_graph(student: Student, folder: Path) -> None:
    """Write `model.onnx`: preprocessing inside, any batch size, names and task in its metadata.

    Tokenizers are not inside: the graph takes token ids, and the metadata tell how they are made. A table with columns
    of words is taken as it is: `numbers` float32 [B, P] with NaN for gaps, `words` texts [B, Q], empty for gaps.

    Raises:
        ExportError: the model cannot be traced, or has operators that ONNX lacks.
    """
    program = trace(student)
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                input_names=[student.about.taken.name],
                output_names=list(student.outputs),
                dynamic_shapes=({0: "batch"},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        why = " ".join(str(error).split())[:300]
        raise ExportError(
            f"the model has no form in ONNX (opset {OPSET}): {why}; give --format safetensors,torch"
        ) from error
    assert made is not None, "nothing but a program was asked for"
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # paths and source lines of this machine
    made.model.metadata_props.update(metadata(student))
    if (columns := raw_columns(student.about)) is None:
        with writing(folder / GRAPH):
            made.save(folder / GRAPH, external_data=False)
        return
    whole = with_words(made.model_proto, columns, student.about.taken.name)
    write_whole(folder / GRAPH, [whole.SerializeToString()], durable=False)


def metadata(student: Student) -> dict[str, str]:
    """What the file says of itself: plain text, or JSON where there is more than one thing to say."""
    about = student.about
    columns = raw_columns(about)
    return {
        "raykd_version": __version__,
        "task": about.task,
        "classes": json.dumps(about.classes),
        "input": json.dumps(about.taken.model_dump(exclude={"words", "source"})),
        **({} if columns is None else {"columns": json.dumps(columns.described)}),
        "outputs": json.dumps(student.outputs),
        "preprocessing": json.dumps(_preprocessing(about)),
        "teachers": json.dumps(about.teachers),
    }


def _preprocessing(about: Description) -> dict[str, Any]:
    tokens = about.preprocessing.tokens
    described = about.preprocessing.describe()
    if about.preprocessing.chunks is not None:
        return {"inside": False, **described, "meaning": "ids of the tokenizer, from 0"}
    if tokens is None:
        return {"inside": True, **described}
    return {"inside": False, **described, "meaning": tokens.meaning}


def open_graph(student: Student, folder: Path) -> Runner:
    """The written graph in onnxruntime, on one thread of the CPU."""
    return run_session(open_session(folder / GRAPH), student.about)


def graph_inputs(about: Description, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Samples as a written graph takes them.

    Args:
        about: of its student.
        inputs: as the student takes them in torch, without a tokenizer; of a table with words their codes.
    """
    columns = raw_columns(about)
    return {about.taken.name: inputs} if columns is None else columns.taken(inputs)


def open_session(file: Path) -> Any:
    """A written graph in onnxruntime, on one thread of the CPU.

    Raises:
        ExportError: it is damaged, or not for this version of onnxruntime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # the error says it
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except onnxruntime_errors() as error:
        why = " ".join(str(error).split())[:300]
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} does not open {file.name}: {why}; export again"
        ) from error


def run_session(session: Any, about: Description) -> Runner:
    """An open graph as every format is called.

    Args:
        session: of `open_session`.
        about: of its student.
    """
    names = list(find_task(about.task).export.outputs)
    made: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}

    def taken(inputs: np.ndarray) -> dict[str, np.ndarray]:
        """As the graph takes them; made once for the same array, since its calls are timed."""
        if id(inputs) not in made:
            made.clear()
            made[id(inputs)] = inputs, graph_inputs(about, inputs)
        return made[id(inputs)][1]

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(names, taken(inputs))
        return found

    return run
