"""Which formats, and one row of the table for each: size, time, parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from raykd.errors import InputError, Problem
from raykd.evaluate.costs import median_s, one_thread
from raykd.export import FORMATS, Runner, Student
from raykd.export.parity import check_parity
from raykd.models.names import nearest

BATCHES = (1, 32)
REPEATS, BUDGET_S = 50, 0.5
INSTALL = "pip install 'raykd[export]'"


@dataclass(frozen=True)
class Written:
    """One format as it was written.

    Attributes:
        files: names in the folder.
        size_mb: of all of them, in 10⁶ bytes.
        ms_per_sample: batch size as text -> median milliseconds of a call by its samples, one CPU thread.
        parity: output -> largest absolute difference from the student in torch, on random inputs.
    """

    files: tuple[str, ...]
    size_mb: float
    ms_per_sample: dict[str, float]
    parity: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """For `export.json`."""
        return asdict(self)


def choose(wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The formats to write, and those left out for want of a package -> what to do.

    Args:
        wanted: names; None = all whose packages are there.

    Raises:
        InputError: a name is unknown, or one that was asked for lacks its packages.
    """
    lacking = {name: _lacking(name) for name in FORMATS}
    if wanted is None:
        left_out = {name: how for name, how in lacking.items() if how}
        return [name for name in FORMATS if name not in left_out], left_out
    problems = [
        Problem("--format", f"found {name!r}; allowed are {', '.join(FORMATS)}; nearest: "
                f"{nearest(name, FORMATS, count=1)[0]}")
        for name in wanted if name not in FORMATS
    ]  # fmt: skip
    problems += [
        Problem("--format", f"{name} {lacking[name]}") for name in FORMATS
        if name in wanted and lacking[name]
    ]  # fmt: skip
    if problems or not wanted:
        raise InputError(problems or Problem("--format", f"names none of {', '.join(FORMATS)}"))
    return [name for name in FORMATS if name in wanted], {}


def _lacking(name: str) -> str:
    absent = [package for package in FORMATS[name].packages if find_spec(package) is None]
    return f"needs {', '.join(absent)}: {INSTALL}" if absent else ""


def write_formats(student: Student, names: Sequence[str], folder: Path) -> dict[str, Written]:
    """Write the formats into a folder, open each again and hold it against the student.

    Raises:
        ExportError: a format cannot be written, or says something else than the student.
    """
    return {name: _write(student, name, folder) for name in names}


def _write(student: Student, name: str, folder: Path) -> Written:
    chosen = FORMATS[name]
    chosen.write(student, folder)
    run = chosen.open(student, folder)
    return Written(
        files=chosen.files,
        size_mb=sum((folder / file).stat().st_size for file in chosen.files) / 1e6,
        parity=check_parity(student, run, name),
        ms_per_sample={str(size): _milliseconds(student, run, size) for size in BATCHES},
    )


def _milliseconds(student: Student, run: Runner, size: int) -> float:
    inputs = student.random_inputs(size).numpy()
    with one_thread():
        seconds = median_s(partial(run, inputs), torch.device("cpu"), REPEATS, BUDGET_S)
    return 1e3 * seconds / size
