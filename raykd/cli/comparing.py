"""`raykd compare`, `ablate` and `teachers rank`: methods, parts and teachers held against each other."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.checking import dry_run, try_recipe
from raykd.cli.options import (
    Command,
    add_command,
    add_job,
    address_of,
    early_engine,
    new_output,
    print_json,
    read_config,
    recipe_of,
)
from raykd.config import Config
from raykd.config.variants import Ablation, Variant, ablation, method_variants
from raykd.errors import InputError
from raykd.folders import RunFolder

if TYPE_CHECKING:
    from raykd.pipeline import AblateResult, CompareResult, Options
    from raykd.tracking import Console

_PAIRS = 15
Show = Callable[[Mapping[str, Any], "Console"], None]


def add(commands: Command) -> None:
    """The commands of this module."""
    about = (
        "losses and weightings over paired replicas, on one set of targets; ranked on validation"
    )
    parser = add_command(commands, "compare", _compare, about)
    add_job(parser)
    for option, about in (
        ("--losses", "each in place of the recipe's; a feature loss beside it"),
        ("--weightings", "each in place of the recipe's"),
    ):
        parser.add_argument(option, type=_names, default=(), metavar="A,B,...", help=about)
    parser.add_argument(
        "--taps", metavar="STUDENT_TAP=TEACHER.TAP", help="what feature losses compare"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="'NAME: key.sub=value ...'",
        help="anything else, under objective, peers, student or train; may be repeated",
    )
    parser.add_argument(
        "--cross",
        action="store_true",
        help="every loss with every weighting, not one change at a time",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="what all are held against; default: the recipe's own method",
    )
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _options(args: argparse.Namespace) -> Options:
    from raykd.pipeline import Options

    args.output = args.output or new_output(args)
    return Options(output=args.output, address=address_of(args), resume=args.resume)


def _console(args: argparse.Namespace) -> Console:
    from raykd.tracking import Console

    return Console(quiet=args.quiet, stream=sys.stdout)


def _show(
    args: argparse.Namespace, result: CompareResult | AblateResult, show: Show, console: Console
) -> int:
    """What came out and where the report is; only the folder where all else is to be quiet."""
    if args.quiet:
        print(result.path)
        return 0
    show(result.summary, console)
    console.print(f"\nreport: {result.path / 'report' / 'index.html'}")
    return 0


def _checked(options: Options, config: Config, variants: Sequence[Config] = ()) -> dict[str, Any]:
    """What `--dry-run` prints of every such job, once all is checked; starts nothing."""
    from raykd.forecast.preflight import facts
    from raykd.pipeline.session import run_folder

    folder = run_folder(config, options)
    return {
        "output": str(folder.path),
        **facts(*try_recipe(config, options.address, variants)),
    }


def _compare(args: argparse.Namespace) -> int:
    config = read_config(args)
    variants = _variants(args)
    from raykd.pipeline import compare
    from raykd.pipeline.comparing import check_reference

    options = _options(args)
    if args.dry_run:
        check_reference(config, variants, args.reference or variants[0].name)
        names = [*(variant.name for variant in variants), *config.evaluate.controls]
        found = _checked(options, config, [variant.config for variant in variants])
        print_json({**found, "methods": names, "student_fits": len(names) * config.seeds})
        return 0
    console = _console(args)
    with early_engine(args, config):
        result = compare(config, variants, options, reference=args.reference, console=console)
    return _show(args, result, show_comparison, console)


def _variants(args: argparse.Namespace) -> list[Variant]:
    """What is to be compared: as named, or as the folder to resume has it."""
    config = read_config(args)
    named = args.losses or args.weightings or args.variant
    if not named and args.resume and recipe_of(args) is None and args.output is not None:
        from raykd.pipeline.comparing import kept_variants

        return kept_variants(RunFolder(args.output), trust=args.trust)
    if not named:
        raise InputError.at(
            "compare", "nothing to compare; name methods with --losses, --weightings or --variant"
        )
    return method_variants(
        config,
        losses=args.losses,
        weightings=args.weightings,
        taps=args.taps,
        others=_others(args.variant),
        cross=args.cross,
    )


def _others(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        name, colon, overrides = text.partition(":")
        if not colon or name.strip() in found:
            why = "is named twice" if colon else "write 'NAME: key.sub=value ...'"
            raise InputError.at("--variant", f"found {text!r}; {why}")
        found[name.strip()] = shlex.split(overrides)
    return found


def show_comparison(summary: Mapping[str, Any], console: Console) -> None:
    """The table of methods, then what it shows in words."""
    from raykd.report.comparison import comparison_cells, comparison_verdict
    from raykd.report.folder import text_of

    console.print("")
    title = f"{text_of(summary).metric.name}, mean ± standard deviation over replicas; best on validation first"
    console.table(comparison_cells(summary), title=title)
    console.print("")
    for sentence in comparison_verdict(summary):
        console.print(sentence)


def _ablate(args: argparse.Namespace) -> int:
    run = _take_run_folder(args)
    config = read_config(args)
    args.views = args.views or _began_with_views(args)
    plan = ablation(config, views=args.views)
    if not plan.parts:
        print(f"nothing can be left out: {'; '.join(plan.kept)}")
        return 0
    from raykd.pipeline import ablate

    options = _options(args)
    if args.dry_run:
        return _dry_ablation(plan, options)
    console = _console(args)
    with early_engine(args, config):
        result = ablate(config, options, views=args.views, of=run, console=console)
    return _show(args, result, show_ablation, console)


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
        variant.name.startswith("view.")
        for variant in kept_variants(RunFolder(args.output), trust=args.trust)
    )


def _dry_ablation(plan: Ablation, options: Options) -> int:
    from raykd.pipeline.ablating import announcement, make_students

    found = _checked(options, plan.whole)
    prepared, students = make_students(plan, options)
    print_json(
        {
            **found,
            "parts": {part.name: part.about for part in plan.parts},
            "kept": list(plan.kept),
            "told": announcement(plan, prepared),
            "student_fits": len(students.every) * plan.whole.seeds,
        }
    )
    return 0


def show_ablation(summary: Mapping[str, Any], console: Console) -> None:
    """The table of parts, then what it shows in words."""
    from raykd.report.ablation import ablation_cells, ablation_verdict
    from raykd.report.folder import text_of

    console.print("")
    title = (
        f"{text_of(summary).metric.name} without each part, mean ± standard deviation over replicas"
    )
    console.table(ablation_cells(summary), title=title)
    console.print("")
    for sentence in ablation_verdict(summary):
        console.print(sentence)


def rank_teachers(args: argparse.Namespace) -> int:
    """Fit or load the teachers, rank them on validation, say which to keep."""
    config = read_config(args)
    from raykd.pipeline.comparing import RANKING, rank

    options = _options(args)
    if args.dry_run:
        return dry_run(config, options)
    console = _console(args)
    _show_ranking(rank(config, options, console=console), console)
    if args.quiet:
        print(args.output)
    console.print(f"\nranking: {args.output / RANKING}")
    return 0


def _show_ranking(ranking: Mapping[str, Any], console: Console) -> None:
    from raykd.report.folder import text_of
    from raykd.report.wording import number

    speech = text_of(ranking)
    metric, second = speech.metric, speech.second
    console.print("")
    rows = [
        {
            "teacher": name,
            metric.name: metric.form(ranking["teachers"][name][metric.key]),
            second.name: second.form(ranking["teachers"][name][second.key]),
            "added": position,
            f"ensemble's {metric.name} with it": metric.form(step[metric.key]),
        }
        for position, step in enumerate(ranking["greedy"], start=1)
        for name in [step["teacher"]]
    ]
    title = (
        f"{ranking['samples']:,} validation samples; greedy order, the one that helps most first"
    )
    console.table(rows, title=title)
    pairs = sorted(
        (_or_none(ranking["error_correlation"][one][other]), one, other)
        for one, other in combinations(ranking["teachers"], 2)
    )
    closest = [
        {
            "pair": f"{one}, {other}",
            "error correlation": number(ranking["error_correlation"][one][other]),
            speech.by_teacher.name: speech.by_teacher.form(ranking["alike"][one][other]),
        }
        for _, one, other in pairs[:_PAIRS]
    ]
    console.print("")
    console.table(closest, title="least alike in their errors first")
    _show_weights(ranking, console)
    console.print("")
    keep = ranking["keep"]
    best = ranking["greedy"][len(keep) - 1][metric.key]
    console.print(
        f"Keep {', '.join(keep)}: {metric.form(best)} {metric.name} on validation; all {len(rows)} "
        f"together reach {metric.form(ranking['ensemble'][metric.key])}. A weighting that always asked the "
        f"right one would reach {metric.form(ranking['oracle'])}."
    )


def _show_weights(ranking: Mapping[str, Any], console: Console) -> None:
    """Equal weights beside learnt ones, where there are any."""
    from raykd.report.folder import text_of
    from raykd.report.wording import number

    found = ranking.get("weights")
    if not found:
        return
    metric, second = text_of(ranking).metric, text_of(ranking).second
    rows = [
        {
            "weights": kind,
            **{name: number(value) for name, value in found[kind]["weights"].items()},
            metric.name: metric.form(found[kind][metric.key]),
            second.name: second.form(found[kind][second.key]),
        }
        for kind in ("uniform", "stacking")
    ]
    title = (
        f"calibrated teachers: weights by {found['fitted_on']:,} labels, shrunk to equal ones (n0 = {found['prior']:g}), "
        f"judged on {found['judged_on']:,} others"
    )
    console.print("")
    console.table(rows, title=title)


def _or_none(value: float | None) -> float:
    """Pairs without a defined correlation come last."""
    return 2.0 if value is None else value
