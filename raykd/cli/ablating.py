"""`raykd ablate`: what each part of a recipe is worth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_job,
    address_of,
    new_output,
    print_json,
    read_config,
    recipe_of,
)
from raykd.config.ablations import Ablation, ablation
from raykd.folders import RunFolder

if TYPE_CHECKING:
    from raykd.pipeline import Options
    from raykd.tracking import Console


def add(commands: Command) -> None:
    """The command of this module."""
    about = (
        "what each teacher, each term and the weighting are worth: the recipe without one of them at a time, over "
        "paired replicas, on one set of targets; ranked on validation"
    )
    parser = add_command(commands, "ablate", _ablate, about)
    add_job(parser, or_run=True)
    parser.add_argument(
        "--views",
        action="store_true",
        help="leave out the steps of data.views.policy too; the teachers are asked about those views",
    )


def _ablate(args: argparse.Namespace) -> int:
    run = _take_run_folder(args)
    config = read_config(args)
    args.views = args.views or _began_with_views(args)
    plan = ablation(config, views=args.views)
    if not plan.parts:
        print(f"nothing can be left out: {'; '.join(plan.kept)}")
        return 0
    from raykd.pipeline import Options, ablate
    from raykd.tracking import Console

    options = Options(output=args.output, address=address_of(args), resume=args.resume)
    if args.dry_run:
        return _dry_run(plan, options)
    console = Console(quiet=args.quiet, stream=sys.stdout)
    result = ablate(config, options, views=args.views, of=run, console=console)
    if args.quiet:
        print(result.path)
        return 0
    show_ablation(result.summary, console)
    console.say(f"\nreport: {result.path / 'report' / 'index.html'}")
    return 0


def _take_run_folder(args: argparse.Namespace) -> Path | None:
    """`raykd ablate RUN`: the run's own recipe; its folder, where one was named."""
    recipe = recipe_of(args)
    run = None if recipe is None else Path(recipe)
    if run is None or not RunFolder(run).config.is_file():
        args.output = args.output or (None if args.resume else new_output(args))
        return None
    args.words[args.words.index(recipe)] = str(RunFolder(run).config)
    if args.output is None and not args.resume:
        from raykd.pipeline.session import new_run_folder

        args.output = new_run_folder(f"{run.resolve().name}-ablation")
    return run


def _began_with_views(args: argparse.Namespace) -> bool:
    """Whether the ablation that is gone on with leaves out view steps."""
    if not args.resume or not RunFolder(args.output).config.is_file():
        return False
    from raykd.pipeline.comparing import kept_variants

    return any(
        variant.name.startswith("view.") for variant in kept_variants(RunFolder(args.output))
    )


def _dry_run(plan: Ablation, options: Options) -> int:
    from raykd.cli.checking import try_recipe
    from raykd.forecast.preflight import facts
    from raykd.pipeline.ablating import announcement, make_students
    from raykd.pipeline.session import run_folder

    folder = run_folder(plan.whole, options)
    prepared, placement = try_recipe(plan.whole, options.address)
    _, students = make_students(plan, options)
    print_json({"output": str(folder.path), **facts(prepared, placement),
                "parts": {part.name: part.about for part in plan.parts}, "kept": list(plan.kept),
                "told": announcement(plan, prepared),
                "student_fits": len(students.every) * plan.whole.seeds})  # fmt: skip
    return 0


def show_ablation(summary: Mapping[str, Any], console: Console) -> None:
    """The table of parts, then what it shows in words."""
    from raykd.report.ablation import ablation_cells, ablation_verdict
    from raykd.report.task_text import text_of

    console.say("")
    title = (
        f"{text_of(summary).metric.name} without each part, mean ± standard deviation over replicas"
    )
    console.table(ablation_cells(summary), title=title)
    console.say("")
    for sentence in ablation_verdict(summary):
        console.say(sentence)
