"""Where data sets that somebody fetched are looked for; nothing is downloaded or imported."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


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
