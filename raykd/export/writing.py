"""Which formats, and one row of the table for each: bytes, latency, parity."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raykd.errors import InputError, Problem
from raykd.evaluate.costs import one_thread, timings_s
from raykd.export import FORMATS, Runner, Student
from raykd.export.parity import check_parity
from raykd.importing import load_package
from raykd.models.names import nearest

BATCHES = (1, 64)
REPEATS, BUDGET_S = 100, 0.5
INSTALL = "pip install 'raykd[export]'"


@dataclass(frozen=True)
class Latency:
    """How long a whole batch takes on one CPU thread of this machine.

    Attributes:
        p50: median, milliseconds.
        p95: 95th percentile, milliseconds.
        calls: that were timed.
    """

    p50: float
    p95: float
    calls: int


@dataclass(frozen=True)
class Written:
    """One format as it was written.

    Attributes:
        files: names in the folder.
        bytes: of all of them.
        latency_ms: batch size as text -> time of a call.
        parity: output -> largest absolute difference from the student in torch, on random inputs.
    """

    files: tuple[str, ...]
    bytes: int
    latency_ms: dict[str, Latency]
    parity: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """For `export.json`."""
        return asdict(self)


def choose(formats: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The formats to write, and those left out for want of a package -> what to do.

    Args:
        formats: names; None = all whose packages are there.

    Raises:
        InputError: a name is unknown, or one that was asked for lacks its packages.
    """
    lacking = {name: _lacking(name) for name in FORMATS if formats is None or name in formats}
    if formats is None:
        left_out = {name: how for name, how in lacking.items() if how}
        return [name for name in FORMATS if name not in left_out], left_out
    problems = [
        Problem("--format", f"found {name!r}; allowed are {', '.join(FORMATS)}; nearest: "
                f"{nearest(name, FORMATS, count=1)[0]}")
        for name in formats if name not in FORMATS
    ]  # fmt: skip
    problems += [
        Problem("--format", f"{name} {lacking[name]}") for name in FORMATS
        if name in formats and lacking[name]
    ]  # fmt: skip
    if problems or not formats:
        raise InputError(problems or Problem("--format", f"names none of {', '.join(FORMATS)}"))
    return [name for name in FORMATS if name in formats], {}


def _lacking(name: str) -> str:
    absent = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if absent:
        return f"needs {', '.join(absent)}: {INSTALL}"
    try:
        for package in FORMATS[name].packages:
            load_package(package, install="raykd[export]", key=name)
    except InputError as error:
        return error.problems[0].message
    return ""


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
        bytes=sum((folder / file).stat().st_size for file in chosen.files),
        parity=check_parity(student, run, name),
        latency_ms={str(size): _latency(student, run, size) for size in BATCHES},
    )


def _latency(student: Student, run: Runner, size: int) -> Latency:
    inputs = student.random_inputs(size).numpy()
    with one_thread():
        seconds = timings_s(partial(run, inputs), torch.device("cpu"), REPEATS, BUDGET_S)
    p50, p95 = 1e3 * np.percentile(seconds, [50, 95])
    return Latency(float(p50), float(p95), len(seconds))


def processor() -> str:
    """What this machine's processor is called; its architecture where it does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    named = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
