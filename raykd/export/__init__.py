"""A student to take along: files that other programs open, held against the student in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raykd.export.description import Description
from raykd.export.int8_format import INT8_GRAPH, open_int8, write_int8
from raykd.export.onnx_format import GRAPH, open_graph, write_graph
from raykd.export.pretrained_format import (
    PRETRAINED,
    is_pretrained,
    open_pretrained,
    write_pretrained,
)
from raykd.export.student import Runner, Student
from raykd.export.torch_format import PROGRAM, open_program, write_program
from raykd.export.weights_format import DESCRIPTION, WEIGHTS, open_weights, write_weights


def _any(about: Description) -> bool:
    del about
    return True


@dataclass(frozen=True)
class Format:
    """One way to write a student.

    Attributes:
        files: what it writes.
        packages: what it needs that the base installation does not bring.
        write: write a student into a folder.
        open: run what was written.
        exact: whether it has to say what the student says in torch; one that does not is held against it on test.
        always: whether it is written where no format is named.
        needs: a format that it is made of.
        extra: of raykd, which brings the packages.
        suits: whether a student can be written in it.
    """

    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[Student, Path], None]
    open: Callable[[Student, Path], Runner]
    exact: bool = True
    always: bool = True
    needs: str | None = None
    extra: str = "export"
    suits: Callable[[Description], bool] = _any


_ONNX = ("onnx", "onnxscript", "onnxruntime")

FORMATS: dict[str, Format] = {
    "safetensors": Format((WEIGHTS, DESCRIPTION), (), write_weights, open_weights),
    "onnx": Format((GRAPH,), _ONNX, write_graph, open_graph),
    "int8": Format(
        (INT8_GRAPH,), _ONNX, write_int8, open_int8, exact=False, always=False, needs="onnx"
    ),
    "torch": Format((PROGRAM,), (), write_program, open_program),
    "transformers": Format(
        PRETRAINED,
        ("transformers",),
        write_pretrained,
        open_pretrained,
        extra="hf",
        suits=is_pretrained,
    ),
}

__all__ = ["FORMATS", "Format", "Runner", "Student"]
