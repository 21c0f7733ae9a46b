"""torch.export: `model.pt2`, which torch opens without raykd."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from raykd import __version__
from raykd.errors import ExportError
from raykd.export.student import Runner, Student, run_module

PROGRAM, ABOUT = "model.pt2", "raykd.json"
_TRACED = 2  # torch takes batches of 0 and 1 for constants


def trace(student: Student) -> ExportedProgram:
    """The student as a graph for any batch size of 1 or more.

    Raises:
        ExportError: torch.export cannot follow the model.
    """
    answers = student.answers()
    sample = student.random_inputs(_TRACED)
    shapes = ({0: Dim("batch", min=1)},)
    try:
        with quiet():
            program = torch.export.export(answers, (sample,), dynamic_shapes=shapes)
    except (RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise ExportError(
            f"torch.export cannot follow the model for any batch size: {why}; mend the model "
            "(x.shape[0] instead of len(x), no branches on values), or give --format safetensors"
        ) from error
    _forget_sources(program)
    return program


def _forget_sources(program: ExportedProgram) -> None:
    """Leave out paths and source lines of the machine that it was made on."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def write_program(student: Student, folder: Path) -> None:
    """Write `model.pt2`; the description lies in it as `raykd.json`."""
    about = {"raykd": __version__, "outputs": student.outputs, **student.about.to_json()}
    with quiet():
        extra = {ABOUT: json.dumps(about)}
        torch.export.save(trace(student), folder / PROGRAM, extra_files=extra)


def open_program(student: Student, folder: Path) -> Runner:
    """The written program, as torch loads it."""
    del student
    with quiet():
        return run_module(torch.export.load(folder / PROGRAM).module())


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say of their own deprecations and of packages that are not there."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "The tensor attributes")  # of recurrent layers
            yield
    finally:
        log.setLevel(level)
