"""`raykd explain`: what student and teachers of a finished run look at, where they part."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_task,
    add_trust,
    make_parent,
    open_console,
    print_json,
    show_table,
)
from raykd.errors import InputError
from raykd.folders import refuse_links

if TYPE_CHECKING:
    from raykd.tracking import Console

_FOLDER = "explain"
_SAMPLES = 64


def add(commands: Command) -> None:
    """The command of this module."""
    about = (
        "occlusion maps of a run's student and teachers, of images and tables, on samples where they part, beside "
        "those of the student's network with fresh weights"
    )
    parser = add_command(commands, "explain", _explain, about)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a finished run's folder; its recipe is loaded"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=_SAMPLES,
        metavar="N",
        help=f"at most so many, 1 to 256, the largest divergence first; default: {_SAMPLES}",
    )
    parser.add_argument(
        "--split", choices=("validation", "test"), default="test", help="default: test"
    )
    parser.add_argument(
        "--patch",
        type=int,
        metavar="PIXELS",
        help="side of what is hidden of an image; default: an eighth of its longer side, at least 2",
    )
    parser.add_argument(
        "--stride", type=int, metavar="PIXELS", help="from patch to patch; default: half a patch"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the page's folder; default: RUN/explain"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_task(parser)
    add_trust(parser)


def _explain(args: argparse.Namespace) -> int:
    folder = args.output or args.run / _FOLDER
    _check_folder(folder)
    if args.output is not None:
        make_parent(args.output)
    from raykd.pipeline.explaining import explain
    from raykd.pipeline.occluding import ExplainOptions
    from raykd.report import write_report
    from raykd.report.explanation import write_explanation

    options = ExplainOptions(
        samples=args.samples, split=args.split, patch=args.patch, stride=args.stride
    )
    console = open_console(quiet=args.json)
    try:
        found = explain(args.run, options, listen=console.on, trust=args.trust)
    finally:
        console.close(None)
    page, numbers = write_explanation(folder, found)
    if args.output is None:
        write_report(args.run)  # which names the page now
    if args.json:
        print_json({name: value for name, value in numbers.items() if name != "each"})
    else:
        _show(numbers, console)
        console.print(f"\nexplanation: {page}")
    return 0


def _check_folder(folder: Path) -> None:
    """What is there already may be replaced.

    Raises:
        InputError: it is something else than an explanation.
    """
    from raykd.report.explanation import NUMBERS

    refuse_links(folder)
    if not folder.exists() or (folder / NUMBERS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise InputError.at(
            "--output", f"{folder} holds something else than an explanation; give another folder"
        )


def _show(numbers: Mapping[str, Any], console: Console) -> None:
    """The verdict, and how alike the maps are."""
    from raykd.report.explanation import similarity_table
    from raykd.report.explanation_text import explanation_verdict

    table = similarity_table(numbers)
    columns = (
        "student against",
        "rank correlation",
        "of fresh weights",
        "top-20 % IoU",
        "of fresh weights ",
        "samples",
    )
    cells = [dict(zip(columns, row, strict=True)) for row in table.rows]
    show_table(console, cells, table.title, explanation_verdict(numbers))
