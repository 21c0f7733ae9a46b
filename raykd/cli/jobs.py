"""`raykd run` and its stages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_job,
    address_of,
    new_output,
    read_config,
    recipe_of,
)
from raykd.cli.storing import WORDS, add_store_options, look_after_store, take_imported
from raykd.folders import RunFolder

if TYPE_CHECKING:
    from raykd.pipeline import RunResult
    from raykd.tracking import Console

MISSED = 3
_STAGES = {
    "teachers": "fit or load the teachers, and stop there; `teachers rank RECIPE` also says which to keep",
    "targets": "the stages up to the target store: all that teachers say; `targets list`, `verify`, `prune "
    "RECIPE...` look after the store, `import RECIPE TEACHER FILE` fills it with outputs that you have",
    "distill": "the stages up to the trained students and controls",
    "evaluate": "all stages but the report; with a run's folder, score it again",
}


def add(commands: Command) -> None:
    """The commands of this module."""
    about = "the whole job: teachers, targets, student and controls, evaluation, report"
    add_job(add_command(commands, "run", partial(run_job, until=None), about))
    for stage, about in _STAGES.items():
        of_run = stage == "evaluate"
        act = partial(run_job, until=stage)
        parser = add_command(commands, stage, act, about)
        add_job(parser, or_run=of_run)
        if stage == "targets":
            add_store_options(parser)


def run_job(args: argparse.Namespace, *, until: str | None) -> int:
    """Run the stages up to `until` (None: all), and say what came out."""
    if until == "evaluate":
        _take_run_folder(args)
    if until == "teachers" and args.words[:1] == ["rank"]:
        from raykd.cli.comparing import rank_teachers

        del args.words[0]
        return rank_teachers(args)
    if until == "targets" and args.words[:1] == ["import"]:
        take_imported(args)
    if until == "targets" and args.words and args.words[0] in WORDS:
        return look_after_store(args)
    config = read_config(args)
    # Torch and Ray take seconds to import: not before the recipe is known to be right.
    from raykd.pipeline import Options, run
    from raykd.tracking import Console

    args.output = args.output or new_output(args)
    options = Options(output=args.output, address=address_of(args), resume=args.resume, until=until)
    if args.dry_run:
        from raykd.cli.checking import dry_run

        return dry_run(config, options)
    console = Console(quiet=args.quiet, stream=sys.stdout)
    result = run(config, options, console=console)
    if args.quiet:
        print(result.path)
    else:
        _show(result, console)
    return _held(result)


def _take_run_folder(args: argparse.Namespace) -> None:
    """`raykd evaluate RUN` is short for `--resume --output RUN`."""
    recipe = recipe_of(args)
    if recipe is not None and RunFolder(Path(recipe)).config.is_file():
        args.words.remove(recipe)
        args.output, args.resume = Path(recipe), True


def _show(result: RunResult, console: Console) -> None:
    """Table, verdict, and where to look."""
    if result.summary:
        show = show_folds if result.summary.get("kind") == "folds" else show_summary
        show(result.summary, console)
    page = result.path / "report" / "index.html"
    if page.is_file():
        console.say(f"\nreport: {page}")
    else:
        console.say(f"\nrun: {result.path}; go on with: raykd run --resume --output {result.path}")


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Student, controls, teachers and ensemble in a table, then the verdict in words."""
    from raykd.report import result_cells, verdict

    rows = result_cells(summary)
    console.say("")
    console.table(rows, title="test, mean ± standard deviation over replicas")
    console.say("")
    for sentence in verdict(summary):
        console.say(sentence)


def show_folds(summary: Mapping[str, Any], console: Console) -> None:
    """The same over the folds of a cross-validation."""
    from raykd.report import result_cells
    from raykd.report.folds import folds_verdict

    console.say("")
    title = f"test, mean ± standard deviation over {summary['folds']} folds"
    console.table(result_cells(summary), title=title)
    console.say("")
    for sentence in folds_verdict(summary):
        console.say(sentence)


def _held(result: RunResult) -> int:
    missed = [requirement for requirement in result.requirements if not requirement.holds]
    for requirement in missed:
        value = "nothing" if requirement.value is None else f"{requirement.value:.6g}"
        print(f"evaluate.require does not hold: {requirement.text}; found {value}", file=sys.stderr)
    return MISSED if missed else 0
