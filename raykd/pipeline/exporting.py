"""A finished run's student as files for other programs: `raykd export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from raykd import __version__
from raykd.config import Config
from raykd.config.trusting import refuse_code
from raykd.data import Samples
from raykd.disks import write_whole
from raykd.evaluate.latency import Conditions
from raykd.evaluate.summary import json_safe
from raykd.export import FORMATS, Student
from raykd.export.card import Story, write_card
from raykd.export.folder import INDEX, check_output, listed
from raykd.export.int8_comparison import Comparison, calibration_inputs, compare_with_float
from raykd.export.parity import ABSOLUTE, RELATIVE
from raykd.export.writing import (
    Written,
    choose,
    processor,
    refuse_unsuited,
    write_formats,
)
from raykd.folders import RunFolder, reading, refuse_links, replacing, write_json
from raykd.pipeline.loading import load_samples, refuse_changed
from raykd.pipeline.student import finished_run, load_student, student_of
from raykd.report import verdict
from raykd.report.folder import RunData

SCHEMA = 2
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """A student's export.

    Attributes:
        path: its folder.
        written: format -> bytes, latency, parity.
        left_out: format -> what it needs.
        conditions: what else went on while latency was measured.
        int8: the student in 8 bits held against the one of float32; None where it was not asked for.
    """

    path: Path
    written: Mapping[str, Written]
    left_out: Mapping[str, str]
    conditions: Conditions
    int8: Comparison | None = None


def export_student(
    run: Path,
    *,
    formats: Sequence[str] | None = None,
    output: Path | None = None,
    model: nn.Module | None = None,
    int8: bool = False,
    trust: bool = False,
) -> Exported:
    """Write the student of a run in some formats, each opened again and held against the student.

    The folder is replaced as a whole, and only when everything in it is right.

    Args:
        run: a finished run's folder.
        formats: names of `raykd.export.FORMATS`; None = all but int8 that the student can be written in and whose
            packages are there.
        output: the folder; None = `RUN/export`.
        model: the architecture, when the recipe made it by a factory.
        int8: also as ONNX with weights of 8 bits, held against float32 on test; its recipe's data are loaded for that.
        trust: run the code that names these data, whoever wrote the folder.

    Raises:
        InputError: no finished run, a damaged student, an unknown format, a package that is not there,
            a folder that holds something else; nothing was written.
        ExportError: a format cannot be written or says something else; the old export is still there.
    """
    names, left_out = choose(formats, int8=int8)
    folder = RunFolder(run)
    refuse_links(run)
    target = (output or run / "export").resolve()
    check_output(target)
    data, config = finished_run(folder)
    about = student_of(folder, config)
    if formats is not None:
        refuse_unsuited(names, about)
    names = [name for name in names if FORMATS[name].suits(about)]
    left_out = {name: how for name, how in left_out.items() if FORMATS[name].suits(about)}
    student = Student(load_student(folder.student, model=model), about)
    samples = None
    if "int8" in names:
        samples = samples_of_run(folder, data, config, trust=trust)
        student = replace(student, calibration=calibration_inputs(student, samples))
    with reading(folder.summary):
        said = verdict(data.summary)
    with replacing(target) as fresh:
        written, conditions = write_formats(student, names, fresh)
        compared = None if samples is None else compare_with_float(student, samples, fresh)
        story = Story(
            name=data.name,
            about=about,
            outputs=student.outputs,
            config=config,
            summary=data.summary,
            cards=data.cards,
            evaluation=data.evaluation,
            verdict=said,
            written=written,
            processor=processor(),
            disturbed=conditions.signs,
            int8=compared,
        )
        with reading(folder.summary):
            card = write_card(story)
        write_whole(fresh / CARD, [card.encode()], durable=False)
        index = {"schema": SCHEMA, "raykd": __version__, "run": data.name, "task": about.task}
        index |= _contents(student, written, left_out)
        index |= {} if compared is None else {"int8": json_safe(compared.to_json())}
        seen = conditions.to_json()
        index["measured_on"] = {"processor": story.processor, "threads": 1, **seen}
        write_json(fresh / INDEX, {**index, "files": listed(fresh)})
    return Exported(target, written, left_out, conditions, compared)


def samples_of_run(folder: RunFolder, data: RunData, config: Config, *, trust: bool) -> Samples:
    """The data that a run was evaluated on, loaded again.

    Raises:
        InputError: its recipe names code that is not trusted, or its data are gone or have changed.
    """
    refuse_code(folder.config, {"data": config.data.model_dump(mode="json")}, trust=trust)
    samples = load_samples(config)
    if data.evaluation is not None:
        refuse_changed(data.evaluation.splits["test"], samples, "test")
    return samples


def _contents(
    student: Student, written: Mapping[str, Written], left_out: Mapping[str, str]
) -> dict[str, Any]:
    about = student.about
    return {
        "input": about.taken.model_dump(),
        "outputs": student.outputs,
        "classes": list(about.classes),
        "allowed_difference": {
            "absolute": ABSOLUTE * (1.0 if about.scale is None else about.scale.std),
            "relative": RELATIVE,
        },
        "formats": {name: one.to_json() for name, one in written.items()},
        "left_out": dict(left_out),
    }
