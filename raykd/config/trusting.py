"""Whose word it is that code is run: a recipe of the user's own may name it, a folder from somebody else may not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykd.config.models import expand_model
from raykd.errors import InputError, Problem
from raykd.folders import home

_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SHOWN = 5
_MADE = "made"


def is_of_folder(path: Path) -> bool:
    """Whether a recipe is part of what a job left: a run's `config.json` and `stages.json`, a sweep's `best.yaml` and `pareto/*.yaml`."""
    return path.name in ("config.json", "stages.json", "best.yaml") or path.parent.name == "pareto"


def named_code(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and name of every piece of code that plain values name, wherever they stand.

    That is every `module:name`, also in what a search tries and behind the short name of a kind of model, every program in
    a file that is said to be trusted, and every server, which would be sent what the samples hold, and a key.
    """
    if isinstance(tree, Mapping):
        if tree.get("trusted"):
            yield key, f"the program {tree.get('path')}"
        if tree.get("url"):
            yield key, f"the server {tree['url']}"
        for name, value in tree.items():
            yield from named_code(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from named_code(value, f"{key}.{number}")
    elif isinstance(tree, str) and ":" in tree:
        spec = expand_model(tree)
        if spec["type"] == "factory":
            yield from [(key, tree)] if _CODE.fullmatch(tree) else []
        else:  # short for a kind of model, such as timm:NAME, or sklearn:module:Class
            yield from ((key, v) for n, v in spec.items() if n != "type" and _CODE.fullmatch(v))


def refuse_code(file: Path, tree: Any, *, trust: bool) -> None:
    """Run nothing because a file of a folder says so.

    Args:
        file: the file of the folder.
        tree: what it holds.
        trust: the user has said that he trusts it.

    Raises:
        InputError: it names code, and raykd has not written it here; see `remember`.
    """
    found = [] if trust else [f"{name} ({key})" for key, name in named_code(tree)]
    if not found or _mark(file).is_file():
        return
    more = f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
    raise InputError(
        Problem(str(file), f"names code, which would be run: {', '.join(found[:_SHOWN])}{more}; raykd has not written this "
                f"file here ({home()} does not know it): give the recipe itself, or, where you trust all of that code, "
                "add --trust")
    )  # fmt: skip


def remember(file: Path, tree: Any) -> None:
    """Keep in raykd's home that it has written this file itself, with what code the user named.

    What is kept depends on the content alone, so that the folder may be moved, and on the home's inode, so that a home
    that came along with a stranger's files says nothing. Where the home cannot be written, nothing is kept.
    """
    if next(named_code(tree), None) is None:
        return
    with suppress(OSError):
        (home() / _MADE).mkdir(parents=True, exist_ok=True)
        _mark(file).touch()


def _mark(file: Path) -> Path:
    """What says that a file was written here."""
    own = home()
    inode = own.stat().st_ino if own.is_dir() else 0
    digest = hashlib.sha256(f"{inode}\n".encode() + file.read_bytes())
    return own / _MADE / digest.hexdigest()
