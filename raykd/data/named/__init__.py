"""Data sets that raykd knows by name. Their files are looked for; nothing is downloaded or imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from raykd.errors import InputError

PATH_KEY = "data.source.path"


def data_folders(name: str) -> list[Path]:
    """`$RAYKD_HOME/data/NAME` where that is set, and `.raykd/data/NAME` in the working directory."""
    home = os.environ.get("RAYKD_HOME")
    roots = [Path(home).expanduser()] if home else []
    return [root / "data" / name for root in (*roots, Path(".raykd"))]


def installed_files(distribution: str) -> dict[str, Path]:
    """Name within an installed distribution -> where the file is; empty where it is not installed."""
    try:
        listed = files(distribution) or []
    except PackageNotFoundError:
        return {}
    return {str(file): Path(str(file.locate())) for file in listed}


def given_path(
    path: str, hint: str, fits: Callable[[Path], bool] = Path.is_file, wrong: str = ""
) -> Path:
    """The path that a recipe gives.

    Args:
        path: as it is given.
        hint: how to get the data, for the error.
        fits: whether a path is what is needed.
        wrong: what is said of a path that does not fit; empty = there is no such file.

    Raises:
        InputError: it does not fit.
    """
    found = Path(path).expanduser()
    if fits(found):
        return found
    here = f"(in {Path.cwd()})"
    why = f"{found} {here} {wrong}" if wrong else f"there is no file {found} {here}"
    raise InputError.at(PATH_KEY, f"{why}; {hint}")


def found_path(
    candidates: Iterable[Path], *, package: str, files: str, folders: Sequence[Path], hint: str
) -> Path:
    """The first of the candidates.

    Args:
        candidates: paths that are there.
        package: that may be installed, for the error.
        files: what may lie in the folders, for the error: `nor FILES in FOLDERS`.
        folders: where it was looked.
        hint: how to get the data, for the error.

    Raises:
        InputError: there is none.
    """
    for path in candidates:
        return path
    looked = ", ".join(map(str, folders))
    raise InputError.at(
        PATH_KEY, f"neither the package {package} is installed, nor {files} in {looked}; {hint}"
    )
