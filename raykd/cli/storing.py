"""`raykd targets list | verify | prune | import`: look after the target store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import InputError, Problem
from raykd.folders import home

if TYPE_CHECKING:
    from raykd.targets.upkeep import Listing

DAMAGED = 1
WORDS = ("list", "verify", "prune")
_SHORT = 16
_VIEWS = 40
_IMPORTED = 2


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """What `list`, `verify` and `prune` take beside a job's arguments."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="list, verify, prune: the store; default: $RAYKD_HOME/targets",
    )
    parser.add_argument(
        "--unused",
        action="store_true",
        help="prune: in place of recipes, keep what the runs in a folder (default: runs) have read",
    )


def look_after_store(args: argparse.Namespace) -> int:
    """`list`, `verify` or `prune`, which the first word says."""
    root = args.store or home() / "targets"
    if args.store is not None and not root.is_dir():
        raise InputError(Problem("--store", f"found no folder at {root}; check the path"))
    word = args.words.pop(0)
    if word != "prune" and args.words:
        raise InputError(
            Problem(
                f"targets {word}",
                f"takes no {args.words[0]!r}; it is for a whole store: --store DIR",
            )
        )
    if word == "list":
        return _list(root, quiet=args.quiet)
    return _verify(root) if word == "verify" else _prune(args, root)


def _list(root: Path, *, quiet: bool) -> int:
    from raykd.targets.upkeep import leftovers, size_of, survey
    from raykd.tracking import Console

    found = survey(root)
    if quiet:
        for one in found:
            print(one.folder.name)
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    console.table([_row(one) for one in found], title=f"targets in {root}")
    left = sum(size_of(path) for path in leftovers(root, older_than_s=0.0) if not path.is_dir())
    console.say(
        f"\n{len(found)} entries, {sum(one.rows for one in found):,} rows, "
        f"{sum(one.bytes for one in found):,} bytes; {left:,} of them in no manifest"
    )
    return 0


def _row(one: Listing) -> dict[str, str]:
    if one.key is None:
        return {"folder": one.folder.name, "teacher": one.problem or "unfinished"}
    return {
        "folder": one.folder.name,
        "teacher": one.key.teacher[:_SHORT],
        "views": f"{one.views} of {one.key.views[:_VIEWS]}",
        "holds": one.key.tap or "outputs",
        "codec": one.key.codec,
        "rows": f"{one.rows:,}",
        "bytes": f"{one.bytes:,}",
    }


def _verify(root: Path) -> int:
    from raykd.targets.upkeep import verify_store

    report = verify_store(root)
    for problem in report.problems:
        print(f"error  {problem}", file=sys.stderr)
    print(
        f"{report.shards:,} shards, {report.rows:,} rows, {report.bytes:,} bytes read in {root}: "
        f"{f'{len(report.problems)} problems' if report.problems else 'all whole'}"
    )
    return DAMAGED if report.problems else 0


def _prune(args: argparse.Namespace, root: Path) -> int:
    from raykd.targets.upkeep import delete, leftovers, survey

    found = survey(root)
    gone = _by_runs(args, found) if args.unused else _by_recipes(args, found)
    going = [one.folder for one in gone]
    stray = [path for path in leftovers(root) if path.parent not in going]
    total = 0
    for path in [*going, *stray]:
        size = _size_of(path, found) if args.dry_run else delete(path)
        total += size
        if not args.quiet:
            print(f"{'would delete' if args.dry_run else 'deleted'} {path}: {size:,} bytes")
    verb = "would be deleted" if args.dry_run else "deleted"
    print(
        f"{len(going)} of {len(found)} entries and {len(stray)} leftovers {verb}: {total:,} bytes"
    )
    return 0


def _size_of(path: Path, found: list[Listing]) -> int:
    sizes = {one.folder: one.bytes for one in found}
    return sizes[path] if path in sizes else path.stat().st_size


def _by_recipes(args: argparse.Namespace, found: list[Listing]) -> list[Listing]:
    """Entries that none of the recipes reads."""
    from raykd.config import load_config

    overrides = [word for word in args.words if "=" in word]
    recipes = [word for word in args.words if "=" not in word]
    if not recipes:
        raise InputError(
            Problem("targets prune", "names nothing to keep; name the recipes whose targets are to stay, or give "
                    "--unused to keep what your runs have read")
        )  # fmt: skip
    configs = [load_config([recipe], overrides) for recipe in recipes]
    from raykd.pipeline.usage import used_entries

    kept: set[str] = set()
    for recipe, config in zip(recipes, configs, strict=True):
        folders, unfitted = used_entries(config)
        kept |= folders
        if unfitted:
            print(f"{recipe}: {', '.join(unfitted)} not fitted yet: nothing of it is stored")
    return [one for one in found if one.folder.name not in kept]


def _by_runs(args: argparse.Namespace, found: list[Listing]) -> list[Listing]:
    """Entries of teachers that no run has heard."""
    from raykd.pipeline.usage import heard_teachers

    heard: set[str] = set()
    for folder in [Path(word) for word in args.words] or [Path("runs")]:
        teachers, runs = heard_teachers(folder)
        print(f"{runs} runs in {folder} have heard {len(teachers)} teachers")
        heard |= teachers
    return [one for one in found if one.key is None or one.key.teacher not in heard]


def take_imported(args: argparse.Namespace) -> None:
    """`import RECIPE TEACHER FILE` is short for that teacher with `outputs: FILE` and no model."""
    args.words.pop(0)
    words = [word for word in args.words if "=" not in word]
    if len(words) != 1 + _IMPORTED:
        raise InputError(
            Problem("targets import", f"found {len(words)} words; give RECIPE TEACHER FILE, the file holding ids and "
                    "logits (see teachers[].outputs)")
        )  # fmt: skip
    recipe, teacher, file = words
    key = f"teachers.{teacher}"
    nothing = [f"{key}.{field}=null" for field in ("model", "fit", "weights")]
    given = [word for word in args.words if "=" in word]
    args.words = [recipe, *given, f"{key}.outputs={file}", *nothing]
