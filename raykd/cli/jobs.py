"""`raykd run` and its stages, and `raykd sweep`, the search that a recipe's `search:` describes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_job,
    early_engine,
    job_options,
    open_console,
    print_error,
    print_json,
    read_config,
    recipe_of,
    show_table,
)
from raykd.cli.storing import WORDS, add_store_options, look_after_store, take_imported
from raykd.folders import RunFolder

if TYPE_CHECKING:
    from raykd.config import Config
    from raykd.pipeline import Options, RunResult
    from raykd.tracking import Console

MISSED = 3
_STAGES = {
    "teachers": "fit or load the teachers, and stop there; `teachers rank RECIPE` also says which to keep",
    "targets": "the stages up to the target store with all outputs of the teachers; `targets list`, `verify`, "
    "`prune RECIPE...` maintain the store, `import RECIPE TEACHER FILE` fills it with outputs that you have",
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
    about = (
        "search what the recipe's `search:` names, on one set of targets; retrain and test the best"
    )
    add_job(add_command(commands, "sweep", _sweep, about))


def run_job(args: argparse.Namespace, *, until: str | None) -> int:
    """Run the stages up to `until` (None: all), and show the result."""
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
    if args.dry_run:
        from raykd.cli.checking import dry_run

        return dry_run(config, job_options(args, until))
    with early_engine(args, config):
        from raykd.pipeline import run  # torch takes seconds to import, in which Ray starts

        options = job_options(args, until)
        console = open_console(quiet=args.quiet)
        result = run(config, options, console=console)
    if args.quiet:
        print(result.path)
    else:
        _show(result, console)
    return _check_requirements(result)


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
        console.print(f"\nreport: {page}")
    else:
        console.print(
            f"\nrun: {result.path}; continue with: raykd run --resume --output {result.path}"
        )


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Student, controls, teachers and ensemble in a table, then the verdict in words."""
    from raykd.report import result_cells, verdict
    from raykd.report.generations import stage_cells
    from raykd.report.peers import peer_cells
    from raykd.report.returns import return_cells

    title = "test, mean ± standard deviation over replicas"
    show_table(console, result_cells(summary), title, verdict(summary))
    if earned := return_cells(summary):
        show_table(console, earned, "mean return by variant, 95 % interval")
    if stages := stage_cells(summary):
        show_table(console, stages, "the stages; mean ± standard deviation over replicas")
    if peers := peer_cells(summary):
        show_table(console, peers, "the peers; mean ± standard deviation over replicas")


def show_folds(summary: Mapping[str, Any], console: Console) -> None:
    """The same over the folds of a cross-validation."""
    from raykd.report import result_cells
    from raykd.report.folds import folds_verdict

    title = f"test, mean ± standard deviation over {summary['folds']} folds"
    show_table(console, result_cells(summary), title, folds_verdict(summary))


def _check_requirements(result: RunResult) -> int:
    missed = [requirement for requirement in result.requirements if not requirement.holds]
    for requirement in missed:
        value = "nothing" if requirement.value is None else f"{requirement.value:.6g}"
        print_error(f"evaluate.require does not hold: {requirement.text}; found {value}")
    return MISSED if missed else 0


def _sweep(args: argparse.Namespace) -> int:
    config = read_config(args, searches=True)
    if args.dry_run:
        return _dry_run_sweep(config, job_options(args))
    with early_engine(args, config):
        from raykd.search import sweep  # torch takes seconds to import, in which Ray starts

        options = job_options(args)
        console = open_console(quiet=args.quiet)
        result = sweep(config, options, console=console)
    if args.quiet:
        print(result.path)
        return 0
    show_sweep(result.summary, console)
    console.print(f"\nbest:   raykd run {result.path / 'best.yaml'}")
    console.print(f"report: {result.path / 'report' / 'index.html'}")
    return 0


def _dry_run_sweep(config: Config, options: Options) -> int:
    from raykd.forecast.preflight import facts
    from raykd.search.sweeping import plan_resources, plan_sweep

    plan = plan_sweep(config, options)
    placement, resources = plan_resources(plan.config, options)
    trials = [dict(proposal.values) for proposal in plan.proposals or ()]
    finalists = plan.search.finalists
    fits = 0 if finalists is None else (1 + min(finalists.top, plan.total)) * finalists.seeds
    stages = () if plan.chain is None else plan.chain.stages
    print_json(
        {
            "output": str(plan.folder.path),
            **facts(plan.prepared, placement),
            "trials": plan.total,
            "max_concurrent": resources.concurrent,
            "configurations": trials,
            "student_fits": plan.total + fits + sum(stage.config.seeds for stage in stages),
            **({"stages": [stage.name for stage in stages]} if stages else {}),
        }
    )
    return 0


def show_sweep(summary: Mapping[str, Any], console: Console) -> None:
    """The best trials, the finalists, and the findings in words."""
    from raykd.report.comparison import comparison_cells
    from raykd.report.folder import text_of
    from raykd.report.sweep import sweep_verdict, trial_cells

    title = f"the best trials of {len(summary['trials'])}; validation {summary['metric']}"
    show_table(console, trial_cells(summary, most=10), title)
    if summary["finalists"]:
        name = text_of(summary).metric.name
        title = (
            f"finalists: {name}, mean ± standard deviation over replicas; best on validation first"
        )
        show_table(console, comparison_cells({**summary, **summary["finalists"]}), title)
    console.print("\n" + "\n".join(sweep_verdict(summary)))
