"""A student to take along: files that other programs open, held against the student in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raykd.export.onnx_format import GRAPH, open_graph, write_graph
from raykd.export.student import Runner, Student
from raykd.export.torch_format import PROGRAM, open_program, write_program
from raykd.export.weights_format import DESCRIPTION, WEIGHTS, open_weights, write_weights


@dataclass(frozen=True)
class Format:
    """One way to write a student.

    Attributes:
        files: what it writes.
        packages: what it needs that the base installation does not bring.
        write: write a student into a folder.
        open: run what was written.
    """

    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[Student, Path], None]
    open: Callable[[Student, Path], Runner]


FORMATS: dict[str, Format] = {
    "safetensors": Format((WEIGHTS, DESCRIPTION), (), write_weights, open_weights),
    "onnx": Format((GRAPH,), ("onnx", "onnxscript", "onnxruntime"), write_graph, open_graph),
    "torch": Format((PROGRAM,), (), write_program, open_program),
}

__all__ = ["FORMATS", "Format", "Runner", "Student"]
