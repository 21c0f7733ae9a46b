"""`data.classes`: names of the classes in label order, from the recipe or from a file of them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from raykd.errors import InputError

KEY = "data.classes"
_HOW = "give a list of names, or a text file with one a line (or a .json list)"
_SHOWN = 5


def given_names(classes: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """The names, each once.

    Args:
        classes: names; a text is the file that they are in; None where there are none.

    Raises:
        InputError: the file cannot be read, or a name is empty or given twice.
    """
    if classes is None:
        return None
    names = tuple(_read(Path(classes).expanduser()) if isinstance(classes, str) else classes)
    where = f" in {classes}" if isinstance(classes, str) else ""
    empty = [index for index, name in enumerate(names) if not name.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names:
        raise _problem(f"found no name{where}; {_HOW}")
    if empty:
        raise _problem(f"name {empty[0]}{where} is empty; each class needs one")
    if twice:
        raise _problem(
            f"found {len(names)} names{where} ({len(set(names))} different): {_some(twice)} "
            "more than once; each class needs its own"
        )
    return names


def _read(path: Path) -> list[str]:
    if not path.is_file():
        raise _problem(f"there is no file {path} (in {Path.cwd()}); {_HOW}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else text.rstrip().split("\n")
    except (OSError, ValueError) as error:
        raise _problem(f"{path} cannot be read: {error}; {_HOW}") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise _problem(f"{path} holds no list of texts; {_HOW}")
    return [name.strip() for name in found]


def renamed(given: tuple[str, ...], shown: tuple[str, ...]) -> tuple[str, ...]:
    """The given names in place of the source's, whose labels are numbers.

    Args:
        given: names in label order.
        shown: the source's names, or else its numbers.

    Raises:
        InputError: there are more or fewer than classes, or the source's own names or numbers stand in another
            order, so that every label would change its meaning.
    """
    if len(given) != len(shown):
        raise _problem(
            f"found {len(given)} names; the source has {len(shown)} classes "
            f"({', '.join(shown[:10])}): give one name for each, or null (classes are numbered from 0)"
        )
    moved = [name for index, name in enumerate(given) if name in shown and shown[index] != name]
    if moved:
        raise _problem(
            f"{moved[0]!r} has index {given.index(moved[0])}, and is class "
            f"{shown.index(moved[0])} of the source: its labels are numbers, which would then mean "
            f"another class; keep its order ({', '.join(shown[:10])}), or give null"
        )
    return given


def check_known(given: tuple[str, ...], found: Sequence[str], column: str) -> None:
    """Every text that is a label has to be among the names.

    Raises:
        InputError: one is not.
    """
    unknown = [text for text in found if text not in given]
    if unknown:
        raise _problem(
            f"{column!r} has {_some(unknown)}, not among the {len(given)} names "
            f"({', '.join(given[:10])}); name every class of the column, or give null"
        )


def look_alike(names: Sequence[str]) -> list[str]:
    """What a reader should know of names that differ in blanks, case or Unicode form alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(plain, []).append(name)
    return [
        f"classes {', '.join(map(ascii, group))} look alike and are kept apart: they differ in blanks, case or "
        "Unicode form alone; rename one if they are meant to be one"
        for group in groups.values()
        if len(group) > 1
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _problem(message: str) -> InputError:
    return InputError.at(KEY, message)
