"""`raykd targets list | verify | prune | import`: look after the target store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.cli.options import print_error, print_text
from raykd.errors import InputError, Problem
from raykd.folders import home, refuse_links

if TYPE_CHECKING:
    from raykd.cli.store_listing import StoreListing
    from raykd.targets.maintenance import Listing

DAMAGED = 1
WORDS = ("list", "verify", "prune")
_SHORT = 16
_VIEWS = 40
_IMPORTED = 2


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """What `list`, `verify` and `prune` take beside a job's arguments."""
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="list, verify, prune: the store, a folder or s3://bucket/prefix; default: $RAYKD_HOME/targets",
    )
    parser.add_argument(
        "--unused",
        action="store_true",
        help="prune: in place of recipes, keep what the runs in a folder (default: runs) have read",
    )


def look_after_store(args: argparse.Namespace) -> int:
    """`list`, `verify` or `prune`, which the first word says."""
    listing = _listing(args.store)
    word = args.words.pop(0)
    if word != "prune" and args.words:
        raise InputError.at(
            f"targets {word}", f"takes no {args.words[0]!r}; it is for a whole store: --store DIR"
        )
    if word == "list":
        return _list(listing, quiet=args.quiet)
    return _verify(listing) if word == "verify" else _prune(args, listing)


def _listing(store: str | None) -> StoreListing:
    """What `--store` names.

    Raises:
        InputError: there is no such folder or bucket.
    """
    from raykd.cli.store_listing import StoreListing
    from raykd.config.check_targets import uri_problems
    from raykd.targets.remote import is_uri, remote_of

    if store is None:
        store = str(home() / "targets")
        refuse_links(Path(store))
        return StoreListing(Path(store))
    if not is_uri(store):
        if not Path(store).is_dir():
            raise InputError.at("--store", f"found no folder at {store}; check the path")
        refuse_links(Path(store))
        return StoreListing(Path(store))
    if problems := list(uri_problems(store, "--store")):
        raise InputError(problems)
    remote = remote_of(store)
    remote.check("--store", writes=False)
    return StoreListing(remote.root, remote)


def _list(listing: StoreListing, *, quiet: bool) -> int:
    from raykd.tracking import Console

    found = listing.entries()
    if quiet:
        for one in found:
            print_text(one.folder.name)
        return 0
    console = Console(quiet=False, stream=sys.stdout)
    console.table([_row(one) for one in found], title=f"targets in {listing.location}")
    left = sum(size for name, size in listing.leftovers(older_than_s=0.0).items() if "/" in name)
    console.print(
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


def _verify(listing: StoreListing) -> int:
    report = listing.verify()
    for problem in report.problems:
        print_error(f"error  {problem}")
    print(
        f"{report.shards:,} shards, {report.rows:,} rows, {report.bytes:,} bytes read in {listing.location}: "
        f"{f'{len(report.problems)} problems' if report.problems else 'all whole'}"
    )
    return DAMAGED if report.problems else 0


def _prune(args: argparse.Namespace, listing: StoreListing) -> int:
    from raykd.targets.marks import Mark, hold, in_use

    found = listing.entries()
    unread = _by_runs(args, found) if args.unused else _by_recipes(args, found)
    own = Mark.own("prunes", (), f"raykd targets prune of {listing.location}")
    with nullcontext() if args.dry_run else hold(listing.board, own):  # jobs that begin now wait
        used = in_use(listing.board)
        for one in unread:
            if (mark := used.get(one.folder.name)) is not None:
                print_text(f"kept {listing.location}/{one.folder.name}: in use by {mark.who}")
        going = {one.folder.name: one.bytes for one in unread if one.folder.name not in used}
        stray = {
            name: size
            for name, size in listing.leftovers().items()
            if name.partition("/")[0] not in {*going, *used}
        }
        total = _delete(args, listing, {**going, **stray})
    verb = "would be deleted" if args.dry_run else "deleted"
    print(
        f"{len(going)} of {len(found)} entries and {len(stray)} leftovers {verb}: {total:,} bytes"
    )
    return 0


def _delete(args: argparse.Namespace, listing: StoreListing, going: Mapping[str, int]) -> int:
    """Delete what goes, unless it is only asked for; the bytes that it took."""
    total = 0
    for name, foreseen in going.items():
        size = foreseen if args.dry_run else listing.delete(name)
        total += size
        if not args.quiet:
            verb = "would delete" if args.dry_run else "deleted"
            print_text(f"{verb} {listing.location}/{name}: {size:,} bytes")
    return total


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
    configs = [load_config([recipe], overrides, trust=args.trust) for recipe in recipes]
    from raykd.pipeline.recipe_store import used_entries

    kept: set[str] = set()
    for recipe, config in zip(recipes, configs, strict=True):
        folders, unfitted = used_entries(config)
        kept |= folders
        if unfitted:
            print(f"{recipe}: {', '.join(unfitted)} not fitted yet: nothing of it is stored")
    return [one for one in found if one.folder.name not in kept]


def _by_runs(args: argparse.Namespace, found: list[Listing]) -> list[Listing]:
    """Entries of teachers that no run has read."""
    from raykd.pipeline.recipe_store import referenced_teachers

    read: set[str] = set()
    for folder in [Path(word) for word in args.words] or [Path("runs")]:
        teachers, runs = referenced_teachers(folder)
        print(f"{runs} runs in {folder} have read {len(teachers)} teachers")
        read |= teachers
    return [one for one in found if one.key is None or one.key.teacher not in read]


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
