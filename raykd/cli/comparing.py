"""`raykd compare`: methods held against each other over paired replicas."""

from __future__ import annotations

import argparse
import shlex
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
    recipe_of,
)
from raykd.config.variants import Variant, method_variants
from raykd.errors import InputError, Problem
from raykd.folders import RunFolder

if TYPE_CHECKING:
    from raykd.pipeline import Options
    from raykd.tracking import Console


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
        help="anything else, under objective, student or train; may be repeated",
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _compare(args: argparse.Namespace) -> int:
    config = read_config(args)
    variants = _variants(args)
    from raykd.pipeline import Options, compare
    from raykd.tracking import Console

    args.output = args.output or new_output(args)
    options = Options(output=args.output, address=address_of(args), resume=args.resume)
    if args.dry_run:
        return _dry_run(args, options, variants)
    console = Console(quiet=args.quiet, stream=sys.stdout)
    result = compare(config, variants, options, reference=args.reference, console=console)
    if args.quiet:
        print(result.path)
        return 0
    show_comparison(result.summary, console)
    console.say(f"\nreport: {result.path / 'report' / 'index.html'}")
    return 0


def _variants(args: argparse.Namespace) -> list[Variant]:
    """What is to be compared: as named, or as the folder to resume has it."""
    config = read_config(args)
    named = args.losses or args.weightings or args.variant
    if not named and args.resume and recipe_of(args) is None and args.output is not None:
        from raykd.pipeline.comparing import kept_variants

        return kept_variants(RunFolder(args.output))
    if not named:
        raise InputError(
            Problem(
                "compare",
                "nothing to compare; name methods with --losses, --weightings or --variant",
            )
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
            raise InputError(Problem("--variant", f"found {text!r}; {why}"))
        found[name.strip()] = shlex.split(overrides)
    return found


def _dry_run(args: argparse.Namespace, options: Options, variants: list[Variant]) -> int:
    from raykd.cli.checking import try_recipe
    from raykd.forecast.preflight import facts
    from raykd.pipeline.comparing import check_reference
    from raykd.pipeline.session import run_folder

    config = read_config(args)
    check_reference(config, variants, args.reference or variants[0].name)
    folder = run_folder(config, options)
    prepared, placement = try_recipe(config, options.address, [v.config for v in variants])
    names = [*(variant.name for variant in variants), *config.evaluate.controls]
    found = facts(prepared, placement)
    print_json({"output": str(folder.path), **found, "methods": names,
                "student_fits": len(names) * config.seeds})  # fmt: skip
    return 0


def show_comparison(summary: Mapping[str, Any], console: Console) -> None:
    """The table of methods, then what it shows in words."""
    from raykd.report.comparison import comparison_cells, comparison_verdict
    from raykd.report.task_text import text_of

    console.say("")
    title = f"{text_of(summary).metric.name}, mean ± standard deviation over replicas; best on validation first"
    console.table(comparison_cells(summary), title=title)
    console.say("")
    for sentence in comparison_verdict(summary):
        console.say(sentence)
