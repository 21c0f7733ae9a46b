"""Which formats, and one row of the table for each: bytes, latency, parity."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from raykd.errors import InputError, Problem
from raykd.evaluate.latency import Call, Conditions, Turns, one_thread
from raykd.export import FORMATS, Student
from raykd.export.description import Description
from raykd.export.parity import check_parity
from raykd.importing import load_package
from raykd.models.names import nearest

BATCHES = (1, 64)
INSTALL = "pip install 'raykd[{extra}]'"


@dataclass(frozen=True)
class Latency:
    """How long a whole batch takes on one CPU thread of this machine.

    Attributes:
        p50: median, milliseconds.
        p95: 95th percentile, milliseconds.
        p99: 99th percentile, milliseconds.
        calls: that were timed.
    """

    p50: float
    p95: float
    p99: float
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


def choose(
    formats: Sequence[str] | None, *, int8: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The formats to write, and those left out for want of a package -> what to do.

    Args:
        formats: names; None = all that are always written and whose packages are there.
        int8: that one too. What a format is made of is written with it.

    Raises:
        InputError: a name is unknown, or one that was asked for lacks its packages.
    """
    more = ["int8"] if int8 else []
    if int8 and (how := _lacking("int8")):
        raise InputError.at("--int8", how)
    lacking = {
        name: _lacking(name)
        for name, one in FORMATS.items()
        if (one.always if formats is None else name in formats)
    }
    if formats is None:
        left_out = {name: how for name, how in lacking.items() if how}
        return _with_parts([*(lacking.keys() - left_out), *more]), left_out
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
    return _with_parts([*formats, *more]), {}


def refuse_unsuited(names: Sequence[str], about: Description) -> None:
    """Refuse formats that were asked for and that the student cannot be written in.

    Raises:
        InputError: with all of them.
    """
    problems = [
        Problem("--format", f"found {name}, which is for students whose network is a model of transformers (`type: hf`); this one "
                f"is {about.model.type}: leave it out, safetensors is read by raykd.load_student")
        for name in names if not FORMATS[name].suits(about)
    ]  # fmt: skip
    if problems:
        raise InputError(problems)


def _with_parts(names: Sequence[str]) -> list[str]:
    """Formats with those that they are made of, in the order in which they are written."""
    parts = {FORMATS[name].needs for name in names}
    return [name for name in FORMATS if name in names or name in parts]


def _lacking(name: str) -> str:
    absent = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if absent:
        return f"needs {', '.join(absent)}: {INSTALL.format(extra=FORMATS[name].extra)}"
    try:
        for package in FORMATS[name].packages:
            load_package(package, install=f"raykd[{FORMATS[name].extra}]", key=name)
    except InputError as error:
        return error.problems[0].message
    return ""


def write_formats(
    student: Student, names: Sequence[str], folder: Path
) -> tuple[dict[str, Written], Conditions]:
    """Write the formats into a folder, open each again, hold it against the student, and time all in turns.

    Returns:
        Format -> what was written; what else went on while latency was measured.

    Raises:
        ExportError: a format cannot be written, or says something else than the student.
    """
    parity: dict[str, dict[str, float]] = {}
    calls: dict[tuple[str, int], Call] = {}
    for name in names:
        FORMATS[name].write(student, folder)
        run = FORMATS[name].open(student, folder)
        parity[name] = check_parity(student, run, name, exact=FORMATS[name].exact)
        calls |= {(name, n): partial(run, student.random_inputs(n).numpy()) for n in BATCHES}
    turns = Turns[tuple[str, int]]()
    with one_thread():
        turns.run(calls)
    written = {
        name: Written(
            files=FORMATS[name].files,
            bytes=sum((folder / file).stat().st_size for file in FORMATS[name].files),
            parity=parity[name],
            latency_ms={str(size): _latency(turns.blocks[name, size]) for size in BATCHES},
        )
        for name in names
    }
    return written, turns.conditions(lambda key: key[0])


def _latency(blocks: Sequence[Sequence[float]]) -> Latency:
    seconds = list(chain.from_iterable(blocks))
    p50, p95, p99 = 1e3 * np.percentile(seconds, [50, 95, 99])
    return Latency(float(p50), float(p95), float(p99), len(seconds))


def processor() -> str:
    """What this machine's processor is called; its architecture where it does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    named = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
