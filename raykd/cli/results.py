"""`raykd report`, `status` and `predict`: what a run's folder holds."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from raykd.cli.options import Command, add_command, add_task


def add(commands: Command) -> None:
    """The commands of this module."""
    report = add_command(commands, "report", _report, "write a run's report anew, from its folder")
    report.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    report.add_argument("--quiet", action="store_true", help="print only the report's path")
    add_task(report)
    about = "where a run stands, from its folder alone; also while it runs"
    status = add_command(commands, "status", _status, about)
    status.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    status.add_argument("--json", action="store_true", help="as JSON")
    predict = add_command(commands, "predict", _predict, "the distilled student on new data")
    predict.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or its student/")
    predict.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help=".npz with `inputs` [N, ...] and optional `ids`; .npy; or .csv with one column for each "
        "value of a sample and an optional `id`; texts: .csv with a column `text`, .txt with one in each line",
    )
    predict.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv or .npz; default: CSV on stdout"
    )
    predict.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="the architecture, for a student that the recipe made by a factory",
    )
    add_task(predict)


def _report(args: argparse.Namespace) -> int:
    from raykd.cli.ablating import show_ablation
    from raykd.cli.comparing import show_comparison
    from raykd.cli.jobs import show_folds, show_summary, show_sweep
    from raykd.folders import RunFolder, read_json
    from raykd.report import write_report
    from raykd.tracking import Console

    page = write_report(args.run)
    if args.quiet:
        print(page)
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    summary = read_json(RunFolder(args.run).summary)
    kinds = {"comparison": show_comparison, "ablation": show_ablation, "sweep": show_sweep,
             "folds": show_folds}  # fmt: skip
    kinds.get(summary.get("kind"), show_summary)(summary, console)
    console.print(f"\nreport: {page}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from raykd.cli.status import read_status

    standing = read_status(args.run, now=time.time())
    if args.json:
        from raykd.cli.options import print_json

        print_json(standing.to_json())
    else:
        print("\n".join(standing.lines()))
    return 0


def _predict(args: argparse.Namespace) -> int:
    from raykd.cli.options import make_parent
    from raykd.cli.prediction import predict, read_for, write_csv, write_npz

    if args.output is not None and args.output.suffix not in (".csv", ".npz"):
        from raykd.errors import InputError, Problem

        raise InputError(Problem("--output", f"found {args.output}; needs .csv or .npz"))
    if args.output is not None:
        make_parent(args.output)
    ids, predicted = predict(args.run, read_for(args.run, args.data), args.model)
    if args.output is None:
        write_csv(sys.stdout, ids, predicted)
    elif args.output.suffix == ".npz":
        write_npz(args.output, ids, predicted)
    else:
        with args.output.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, ids, predicted)
    if args.output is not None:
        print(f"{len(ids):,} predictions: {args.output}")
    return 0
