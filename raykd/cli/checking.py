"""`raykd check`, `plan`, `data check` and `--dry-run`: looking before anything starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_address,
    add_command,
    add_recipe,
    address_of,
    print_json,
    print_text,
    read_config,
)
from raykd.config import Config
from raykd.config.controls import left_out_controls
from raykd.config.objective import Objective
from raykd.config.optimizers import left_out
from raykd.config.stages import CHAIN_CONTROLS
from raykd.config.variants import first_fold
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.forecast import Plan
    from raykd.forecast.counts import Counts
    from raykd.pipeline import Options
    from raykd.pipeline.loading import Listen
    from raykd.pipeline.placement import Placement
    from raykd.pipeline.preparation import Prepared
    from raykd.report.task import TaskText
    from raykd.tracking import Console

_MINUTE_S, _HOUR_S = 60.0, 3600.0
_COUNTED = {
    "teacher passes, in all": "passes",
    "teacher passes, to come": "passes_to_come",
    "bytes of targets, in all": "bytes",
    "bytes of targets, to come": "bytes_to_come",
    "bytes of manifests": "manifests_bytes",
}


def add(commands: Command) -> None:
    """The commands of this module."""
    about = "try a recipe on its data, models and machine; trains nothing"
    check = add_command(commands, "check", _check, about)
    add_recipe(check)
    add_address(check)
    about = "predict teacher passes, bytes of the target store and hours; trains nothing"
    plan = add_command(commands, "plan", _plan, about)
    add_recipe(plan)
    add_address(plan)
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument(
        "--no-timing", action="store_true", help="only count: measure no model, estimate no hours"
    )
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


def _listen() -> Listen:
    """Tells on stderr how far decoding is."""
    from raykd.tracking import Console

    return Console(quiet=False, stream=sys.stderr).on


def try_recipe(
    config: Config,
    address: str | None,
    variants: Sequence[Config] = (),
    controls: Sequence[str] = (),
) -> tuple[Prepared, Placement]:
    """Data and models tried, and what would run where; see `raykd.forecast.preflight.prepare_and_place`."""
    from raykd.forecast.preflight import prepare_and_place

    return prepare_and_place(config, address, variants, listen=_listen(), controls=controls)


def _parts(config: Config) -> dict[str, tuple[Config, tuple[str, ...]]]:
    """What a run tries: its recipe; of a cross-validation the first fold; every stage of a chain, the last one last.

    Each with the controls of the chain that it is held against.
    """
    if not config.stages:
        return {"": (first_fold(config), ())}
    from raykd.pipeline.chain import planned

    *others, last = planned(config)
    controls = tuple(name for name in config.evaluate.controls if name in CHAIN_CONTROLS)
    return {**{one.name: (one.plan, ()) for one in others}, last.name: (last.plan, controls)}


def dry_run(config: Config, options: Options) -> int:
    """Check everything and print it; start nothing."""
    from raykd.forecast.preflight import facts
    from raykd.pipeline.session import run_folder

    folder = run_folder(config, options)
    every = {
        name: facts(*try_recipe(recipe, options.address, controls=controls))
        for name, (recipe, controls) in _parts(config).items()
    }
    _, found = every.popitem()
    if config.stages:  # what else is said is of the last one
        fits = found["student_fits"] + sum(one["student_fits"] for one in every.values())
        found |= {"stages": every, "student_fits": fits}
    if config.folds is not None:  # what else is said is of the first one
        found |= {"folds": config.folds, "student_fits": config.folds * found["student_fits"]}
    print_json({"output": str(folder.path), **found, "config": config.model_dump(mode="json")})
    return 0


def _check(args: argparse.Namespace) -> int:
    from raykd.tracking import Console

    console = Console(quiet=False, stream=sys.stdout)
    for name, (recipe, controls) in _parts(read_config(args)).items():
        if name:
            console.print(f"stage {name}:")
        _check_recipe(recipe, address_of(args), controls, console)
    console.print("ok")
    return 0


def _check_recipe(
    config: Config, address: str | None, controls: Sequence[str], console: Console
) -> None:
    """Try one recipe, and say what was found."""
    from raykd.forecast.preflight import facts, judge_ready_teachers
    from raykd.pipeline.halves import choosing_in_words

    prepared, placement = try_recipe(config, address, controls=controls)
    accuracies = judge_ready_teachers(prepared)
    found, words = facts(prepared, placement), find_task(prepared.samples.task).text
    console.print(f"data: {prepared.in_words}")
    for note in prepared.notes:
        console.print(f"data: {note}")
    rows = [_row(name, one, words, accuracies.get(name))
            for name, one in found["teachers"].items()]  # fmt: skip
    students = {"(student)": found["student"]}
    students |= {f"(student {name})": one for name, one in found["students"].items()}
    rows += [_row(name, one, words, None) for name, one in students.items()]
    console.table(rows, title="models")
    console.print(_learnt(prepared.config.objective, found["menu"]))
    console.print(f"best epoch: by {choosing_in_words(prepared.config, prepared.samples)}")
    for key, optimizer in left_out(config).items():
        console.print(f"{key}: {optimizer}")
    for name, why in left_out_controls(config, find_task(config.task).settings).items():
        console.print(f"no control {name}: {why}")
    _say_placement(found, placement, console)


def _learnt(objective: Objective, menu: Sequence[str]) -> str:
    """What the student learns from, in a line: also what the recipe left to the data."""
    soft = objective.soft_targets
    if objective.choose is not None:
        each = objective.choose.replicas
        students = f"{each} student{'s' * (each != 1)} of each"
        return f"objective: validation chooses among {', '.join(menu)}, by {students}"
    if soft is None:
        return "objective: labels" + (
            ", the ensemble's hard ones elsewhere" if objective.labels.fill != "none" else ""
        )
    parts = [f"soft targets at T = {_plain(soft.course)}"]
    if soft.sharpen is not None:
        fitted = "fitted on half of validation" if soft.sharpen == "fit" else f"{soft.sharpen:g}"
        parts.append(f"their mixture sharpened (T_c {fitted})")
    if soft.hard_share:
        parts.append(f"{soft.hard_share:g} of them hard")
    if objective.labels.replaces:
        labels = "labels in their place where they are known"
    else:
        labels = f"labels added with weight {_plain(objective.labels.strength)}"
    return f"objective: {', '.join(parts)}; {labels}"


def _plain(value: Any) -> str:
    """A number, or that it follows a schedule."""
    return f"{value:g}" if isinstance(value, int | float) else f"a {value.type} schedule"


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
        if one["where"] == "student":
            console.print(f"teacher {name}: in each worker of the student while that trains")
        elif one["cpus"] or one["gpus"]:
            console.print(
                f"teacher {name}: {one['replicas']} × ({one['cpus']:g} CPUs, {one['gpus']:g} GPUs)"
                + (f", layers over {one['device_map']}" if "device_map" in one else "")
            )
    student = found["student"]
    workers = student["workers"]
    if not isinstance(workers, int):
        workers = f"{workers[0]} to {workers[1]}"
    held = ", each with a part of it (fsdp)" if student["strategy"] == "fsdp" else ""
    console.print(f"student: {workers} × ({student['cpus']:g} CPUs, {student['gpus']:g} GPUs){held}, "
                f"{found['student_fits']} fits")  # fmt: skip
    if placement.note is not None:
        console.print(placement.note)
    console.print(f"targets: {placement.mode}; {placement.reason}")


def _plan(args: argparse.Namespace) -> int:
    config = read_config(args)
    from raykd.forecast import plan
    from raykd.tracking import Console

    found = plan(config, address=address_of(args), timing=not args.no_timing, listen=_listen())
    if args.json:
        print_json(found.to_json())
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    if found.folds is not None:
        console.print(f"of the first of {found.folds} folds; the others take about as much each")
    for name, one in found.stages.items():
        console.print(f"stage {name}, beyond what stands above it:")
        _say_counts(one.counts, console)
        _say_time(one, console)
    if found.stages:
        console.print("the last stage, beyond what stands above it:")
    _say_counts(found.counts, console)
    _say_time(found, console)
    if found.stages:
        hours = "" if found.hours is None else f", about {_span(_HOUR_S * found.hours)}"
        console.print(f"in all: {found.teacher_passes:,} teacher passes to come{hours}")
    return 0


def _say_counts(found: Counts, console: Console) -> None:
    from raykd.forecast.counts import total

    stored = None if found.stored is None else total(found.stored)
    live = total(found.live)
    table = [
        {
            "": name,
            "stored": "-" if stored is None else f"{getattr(stored, field):,}",
            "live": f"{getattr(live, field):,}",
        }
        for name, field in _COUNTED.items()
    ]
    none = "-" if stored is None else "0"
    table += [
        {"": "bytes kept on each node", "stored": f"{found.node_bytes:,}", "live": "0"},
        {"": "bytes sent in each step", "stored": none, "live": f"{found.step_bytes:,}"},
    ]
    console.table(table)
    if stored is None:
        console.print(
            "stored is not possible: data.views.count is null, each epoch shows new views"
        )
    console.print(f"mode: {found.mode}; {found.reason}")
    console.print(f"better: {found.better}; fewer teacher passes to come")
    if found.on_policy is not None:
        console.print(
            f"on-policy: students write in {found.on_policy.rounds:,} rounds; teachers score "
            f"{sum(found.on_policy.sequences.values()):,} texts of theirs, {sum(found.on_policy.tokens.values()):,} tokens, "
            "which are among the passes"
        )
    if found.node_bytes:
        console.print(
            "the store is a bucket: to come is what this node's mirror lacks; a run fetches what is there first"
        )
    if found.unfitted:
        console.print(
            f"to be fitted first: {', '.join(found.unfitted)}; the store has nothing of them"
        )


def _say_time(found: Plan, console: Console) -> None:
    if found.why_not is not None:
        console.print(f"time: not estimated; {found.why_not}")
    if found.estimate is None:
        return
    estimate, measured = found.estimate, found.estimate.measured
    seconds = estimate.durations.to_json()
    stages = ", ".join(
        f"{stage} {_span(seconds[f'{stage}_s'])}" for stage in ("teachers", "targets", "student")
    )
    console.print(
        f"time: about {_span(seconds['total_s'])} ({stages}), without evaluation and report"
    )
    scores = ", ".join(f"{name} {1e3 * s:.3g}" for name, s in measured.score_s.items())
    fits = {**measured.teacher_fit_s, **measured.student_fit_s}
    console.print(f"  from a few batches on this machine: ms a sample: {scores}; seconds a fit: "
                f"{', '.join(f'{name} {s:.3g}' for name, s in fits.items())}; seconds to start a process: "
                f"{measured.start_s:.3g}; {estimate.cpus:g} CPUs, {estimate.gpus:g} GPUs, {estimate.lanes} fits "
                "side by side")  # fmt: skip
    if measured.skipped:
        console.print(f"  not measured, and taken to be as slow as the slowest that was, to be done in time: {', '.join(measured.skipped)}")  # fmt: skip


def _span(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"


def _data(args: argparse.Namespace) -> int:
    config = first_fold(read_config(args))
    from raykd.data.check import check_data
    from raykd.data.decoding import forget_index
    from raykd.data.draw import draw_classes, draw_views
    from raykd.models.preprocess import preprocessing_for
    from raykd.pipeline.loading import load_samples

    forget_index(config.data)  # whoever asks for a check wants the files themselves looked at
    samples = load_samples(config, listen=_listen())
    report, beside = check_data(samples), sys.stderr if args.json else sys.stdout
    if args.json:
        print_json(report.to_json())
    else:
        print_text("\n".join(report.lines()))
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
