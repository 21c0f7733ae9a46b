"""`raykd export`: a finished run's student as files to take along, with a card that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raykd import __version__
from raykd.config import Config, load_config
from raykd.errors import InputError, Problem
from raykd.export import Student
from raykd.export.card import Story, write_card
from raykd.export.description import Description
from raykd.export.folder import INDEX, check_output, listed, replacing
from raykd.export.parity import ABSOLUTE, RELATIVE
from raykd.export.writing import Written, choose, processor, write_formats
from raykd.folders import RunFolder, write_json
from raykd.pipeline.student import describe_student, load_student
from raykd.report import verdict
from raykd.report.folder import RunData, read_run

SCHEMA = 2
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """A student's export.

    Attributes:
        path: its folder.
        written: format -> bytes, latency, parity.
        left_out: format -> what it needs.
    """

    path: Path
    written: Mapping[str, Written]
    left_out: Mapping[str, str]


def export_student(
    run: Path,
    *,
    formats: Sequence[str] | None = None,
    output: Path | None = None,
    model: nn.Module | None = None,
) -> Exported:
    """Write the student of a run in some formats, each opened again and held against the student.

    The folder is replaced as a whole, and only when everything in it is right.

    Args:
        run: a finished run's folder.
        formats: `safetensors`, `onnx`, `torch`; None = all whose packages are there.
        output: the folder; None = `RUN/export`.
        model: the architecture, when the recipe made it by a factory.

    Raises:
        InputError: no finished run, a damaged student, an unknown format, a package that is not there,
            a folder that holds something else; nothing was written.
        ExportError: a format cannot be written or says something else; the old export is still there.
    """
    names, left_out = choose(formats)
    folder = RunFolder(run)
    target = (output or run / "export").resolve()
    check_output(target)
    data, config = _finished(folder)
    about = _student_of(folder, config)
    student = Student(load_student(folder.student, model=model), about)
    with replacing(target) as fresh:
        written = write_formats(student, names, fresh)
        story = Story(
            name=data.name,
            about=about,
            outputs=student.outputs,
            config=config,
            summary=data.summary,
            cards=data.cards,
            evaluation=data.evaluation,
            verdict=verdict(data.summary),
            written=written,
            processor=processor(),
        )
        (fresh / CARD).write_text(write_card(story), encoding="utf-8")
        index = {"schema": SCHEMA, "raykd": __version__, "run": data.name, "task": about.task}
        index |= _contents(student, written, left_out)
        index["measured_on"] = {"processor": story.processor, "threads": 1}
        write_json(fresh / INDEX, {**index, "files": listed(fresh)})
    return Exported(target, written, left_out)


def _finished(folder: RunFolder) -> tuple[RunData, Config]:
    data = read_run(folder.path)
    if not data.summary.get("student") or not folder.config.is_file():
        why = data.summary.get("error") or "it trained no single student"
        raise InputError(
            Problem(
                "RUN", f"{folder.path} is no finished run: {why}; give the folder of `raykd run`"
            )
        )
    return data, load_config([folder.config])


def _student_of(folder: RunFolder, config: Config) -> Description:
    """The description of the run's student, which must be that of its recipe."""
    _, about = describe_student(folder.student)
    said = {
        "task": (about.task, config.task),
        "model": (about.model, config.student.model),
        "teachers": (about.teachers, tuple(teacher.name for teacher in config.teachers)),
    }
    problems = [
        Problem(str(folder.student), f"{key} is {found!r}, the run's recipe says {wanted!r}; "
                "this student is of another run, or was changed")
        for key, (found, wanted) in said.items() if found != wanted
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    return about


def _contents(
    student: Student, written: Mapping[str, Written], left_out: Mapping[str, str]
) -> dict[str, Any]:
    about = student.about
    return {
        "input": about.input.model_dump(),
        "outputs": student.outputs,
        "classes": list(about.classes),
        "allowed_difference": {
            "absolute": ABSOLUTE * (1.0 if about.scale is None else about.scale.std),
            "relative": RELATIVE,
        },
        "formats": {name: one.to_json() for name, one in written.items()},
        "left_out": dict(left_out),
    }
