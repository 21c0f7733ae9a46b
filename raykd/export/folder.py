"""The export's folder: what lies in it, and what it may take the place of."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from raykd.errors import InputError, Problem
from raykd.folders import read_json, refuse_links

INDEX = "export.json"


def check_output(output: Path) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        InputError: it is no folder, holds what no export wrote, or a link leads out of it.
    """
    refuse_links(output)
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError.at("--output", f"{output} is a file; name a folder")
    own = {INDEX, *_written_before(output)}
    folders = {folder.as_posix() for name in own for folder in PurePosixPath(name).parents}
    foreign = sorted(
        name
        for path in output.rglob("*")
        for name in [path.relative_to(output).as_posix()]
        if name not in (folders if path.is_dir() else own)
    )
    if foreign:
        shown = ", ".join(foreign[:3])
        raise InputError(
            Problem("--output", f"{output} holds what no export wrote ({shown}), which would be lost; "
                    "move it away, or name another folder")
        )  # fmt: skip


def _written_before(output: Path) -> list[str]:
    try:
        return list(read_json(output / INDEX)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """File -> bytes and SHA-256 of what lies in a folder."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
