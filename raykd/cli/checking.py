"""`raykd check`, `plan` and `data check`: looking before anything starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli import planning
from raykd.cli.options import (
    Command,
    add_address,
    add_command,
    add_recipe,
    address_of,
    print_json,
    read_config,
)
from raykd.config.variants import first_fold
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.report.task import TaskText


def add(commands: Command) -> None:
    """The commands of this module."""
    about = "try a recipe on its data, models and machine; trains nothing"
    check = add_command(commands, "check", _check, about)
    add_recipe(check)
    add_address(check)
    planning.add(commands)
    parts = add_command(commands, "data", _data, "look at a recipe's data").add_subparsers(
        dest="part", metavar="PART", required=True
    )
    about = "counts, classes, duplicates and near-duplicates across splits, odd values"
    data = add_command(parts, "check", _data, about)
    add_recipe(data)
    data.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw samples and their views as the student and each teacher see them",
    )
    data.add_argument("--json", action="store_true", help="as JSON")
    data.add_argument(
        "--classes",
        type=Path,
        metavar="FILE.png",
        help="draw each class: how often each split has it, and its first samples",
    )


def _check(args: argparse.Namespace) -> int:
    config = first_fold(read_config(args))
    from raykd.cli.preflight import facts, judge_ready_teachers, prepare_and_place
    from raykd.data.input_checks import cut_texts
    from raykd.tracking import Console

    prepared, placement = prepare_and_place(config, address_of(args))
    accuracies = judge_ready_teachers(prepared)
    found, words = facts(prepared, placement), find_task(prepared.samples.task).text
    console = Console(quiet=False, stream=sys.stdout)
    sizes = ", ".join(f"{name} {count:,}" for name, count in found["samples"].items())
    console.print(f"data: {sizes} samples; {found['training_labels']:,} training labels; "
                f"{find_task(prepared.samples.task).labels.counted(found['classes'])}{cut_texts(prepared.samples)}")  # fmt: skip
    rows = [_row(name, one, words, accuracies.get(name))
            for name, one in found["teachers"].items()]  # fmt: skip
    console.table([*rows, _row("(student)", found["student"], words, None)], title="models")
    _say_placement(found, placement, console)
    console.print("ok")
    return 0


def _row(name: str, one: dict[str, Any], words: TaskText, reached: float | None) -> dict[str, Any]:
    taps = ", ".join(f"{tap} {_shape(shape)}" for tap, shape in one["taps"].items())
    return {
        "name": name,
        "model": one["model"],
        "from": one.get("from", "fit"),
        "parameters": one["parameters"],
        "input": _shape(one["input"]),
        "taps": taps or "-",
        f"validation {words.metric.name}": None if reached is None else words.value(reached),
    }


def _shape(shape: list[int]) -> str:
    return "×".join(str(side) for side in shape)


def _say_placement(found: dict[str, Any], placement: Any, console: Any) -> None:
    for name, one in found["teachers"].items():
        if one["cpus"] or one["gpus"]:
            console.print(
                f"teacher {name}: {one['replicas']} × ({one['cpus']:g} CPUs, {one['gpus']:g} GPUs)"
            )
    student = found["student"]
    workers = student["workers"]
    if not isinstance(workers, int):
        workers = f"{workers[0]} to {workers[1]}"
    console.print(f"student: {workers} × ({student['cpus']:g} CPUs, {student['gpus']:g} GPUs), "
                f"{found['student_fits']} fits")  # fmt: skip
    if placement.note is not None:
        console.print(placement.note)
    console.print(f"targets: {placement.mode}; {placement.reason}")


def _data(args: argparse.Namespace) -> int:
    config = first_fold(read_config(args))
    from raykd.data.check import check_data
    from raykd.data.draw import draw_classes, draw_views
    from raykd.models.preprocess import preprocessing_for
    from raykd.pipeline.loading import load_samples
    from raykd.tracking import Console

    samples = load_samples(config, listen=Console(quiet=False, stream=sys.stderr).on)
    report, beside = check_data(samples), sys.stderr if args.json else sys.stdout
    if args.json:
        print_json(report.to_json())
    else:
        print("\n".join(report.lines()))
    if args.picture is not None:
        models = {"student": config.student.preprocess}
        models |= {teacher.name: teacher.preprocess for teacher in config.teachers}
        seen = {
            name: preprocessing_for(settings, samples, key=f"{name}.preprocess")
            for name, settings in models.items()
        }
        draw_views(samples, args.picture, preprocess=seen)
        print(f"picture: {args.picture}", file=beside)
    if args.classes is not None:
        draw_classes(samples, args.classes)
        print(f"classes: {args.classes}", file=beside)
    return 0
