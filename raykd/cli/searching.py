"""`raykd sweep`: the search that a recipe's `search:` describes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_job,
    address_of,
    new_output,
    print_json,
    read_config,
)

if TYPE_CHECKING:
    from raykd.config import Config
    from raykd.pipeline import Options
    from raykd.tracking import Console


def add(commands: Command) -> None:
    """The commands of this module."""
    about = (
        "search what the recipe's `search:` names, on one set of targets; retrain and test the best"
    )
    add_job(add_command(commands, "sweep", _sweep, about))


def _sweep(args: argparse.Namespace) -> int:
    config = read_config(args)
    from raykd.pipeline import Options
    from raykd.search import sweep
    from raykd.tracking import Console

    args.output = args.output or new_output(args)
    options = Options(output=args.output, address=address_of(args), resume=args.resume)
    if args.dry_run:
        return _dry_run(config, options)
    console = Console(quiet=args.quiet, stream=sys.stdout)
    result = sweep(config, options, console=console)
    if args.quiet:
        print(result.path)
        return 0
    show_sweep(result.summary, console)
    console.say(f"\nbest:   raykd run {result.path / 'best.yaml'}")
    console.say(f"report: {result.path / 'report' / 'index.html'}")
    return 0


def _dry_run(config: Config, options: Options) -> int:
    from raykd.forecast.preflight import facts
    from raykd.search.sweeping import plan_place, plan_sweep

    planned = plan_sweep(config, options)
    placement, where = plan_place(planned.config, options)
    trials = [dict(proposal.values) for proposal in planned.proposals or ()]
    finalists = planned.search.finalists
    fits = 0 if finalists is None else (1 + min(finalists.top, planned.total)) * finalists.seeds
    print_json(
        {
            "output": str(planned.folder.path),
            **facts(planned.prepared, placement),
            "trials": planned.total,
            "max_concurrent": where.concurrent,
            "configurations": trials,
            "student_fits": planned.total + fits,
        }
    )
    return 0


def show_sweep(summary: Mapping[str, Any], console: Console) -> None:
    """The best trials, the finalists, and what the search shows in words."""
    from raykd.report.comparison import comparison_cells
    from raykd.report.sweep import sweep_verdict, trial_cells
    from raykd.report.task_text import text_of

    console.say("")
    title = f"the best trials of {len(summary['trials'])}; validation {summary['metric']}"
    console.table(trial_cells(summary, most=10), title=title)
    if summary["finalists"]:
        name = text_of(summary).metric.name
        title = (
            f"finalists: {name}, mean ± standard deviation over replicas; best on validation first"
        )
        console.say("")
        cells = comparison_cells({**summary, **summary["finalists"]})
        console.table(cells, title=title)
    console.say("")
    for sentence in sweep_verdict(summary):
        console.say(sentence)
