"""Dotted names of modules and parameters: which belong to a prefix, which are near a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 5


def belongs(name: str, prefix: str) -> bool:
    """Whether `name` is `prefix` or lies below it: `layer1.0` belongs to `layer1`, `layer10` does not."""
    return name == prefix or name.startswith(f"{prefix}.")


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """Up to `count` of `names` that look most like `name`; the first ones when none is like it."""
    known = list(names)
    return difflib.get_close_matches(name, known, n=count, cutoff=0.4) or known[:count]


def unknown(name: str, names: Iterable[str]) -> str:
    """The message for a name that is not among `names`."""
    near = nearest(name, names)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return f"the model has no module {name!r}; {hint}`raykd inspect` lists them all"


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
