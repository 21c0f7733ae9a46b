"""`raykd teachers rank`: which teachers to keep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from raykd.cli.options import address_of, new_output, read_config

if TYPE_CHECKING:
    from raykd.tracking import Console

_PAIRS = 15


def rank_teachers(args: argparse.Namespace) -> int:
    """Fit or load the teachers, rank them on validation, say which to keep."""
    config = read_config(args)
    from raykd.pipeline import Options
    from raykd.pipeline.comparing import RANKING, rank
    from raykd.tracking import Console

    args.output = args.output or new_output(args)
    options = Options(output=args.output, address=address_of(args), resume=args.resume)
    if args.dry_run:
        from raykd.cli.checking import dry_run

        return dry_run(config, options)
    console = Console(quiet=args.quiet, stream=sys.stdout)
    ranking = rank(config, options, console=console)
    _show(ranking, console)
    if args.quiet:
        print(args.output)
    console.say(f"\nranking: {args.output / RANKING}")
    return 0


def _show(ranking: Mapping[str, Any], console: Console) -> None:
    from raykd.report.task_text import text_of
    from raykd.report.wording import number

    speech = text_of(ranking)
    metric, second = speech.metric, speech.second
    console.say("")
    rows = [
        {
            "teacher": name,
            metric.name: metric.form(ranking["teachers"][name][metric.key]),
            second.name: second.form(ranking["teachers"][name][second.key]),
            "added": place,
            f"ensemble's {metric.name} with it": metric.form(step[metric.key]),
        }
        for place, step in enumerate(ranking["greedy"], start=1)
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
    told = [
        {
            "pair": f"{one}, {other}",
            "error correlation": number(ranking["error_correlation"][one][other]),
            speech.by_teacher.name: speech.by_teacher.form(ranking["alike"][one][other]),
        }
        for _, one, other in pairs[:_PAIRS]
    ]
    console.say("")
    console.table(told, title="least alike in their errors first")
    console.say("")
    keep = ranking["keep"]
    best = ranking["greedy"][len(keep) - 1][metric.key]
    console.say(
        f"Keep {', '.join(keep)}: {metric.form(best)} {metric.name} on validation; all {len(rows)} "
        f"together reach {metric.form(ranking['ensemble'][metric.key])}. A weighting that always asked the "
        f"right one would reach {metric.form(ranking['oracle'])}."
    )


def _or_none(value: float | None) -> float:
    """Pairs without a defined correlation come last."""
    return 2.0 if value is None else value
