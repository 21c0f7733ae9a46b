"""The export's folder: what lies in it, and what it may take the place of."""

from __future__ import annotations

import hashlib
from pathlib import Path
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
    foreign = sorted(
        path.name for path in output.iterdir() if path.name not in own or path.is_dir()
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
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    }
