"""The export's folder: made beside the old one and put in its place when it is complete."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raykd.errors import ExportError, InputError, Problem
from raykd.folders import read_json

INDEX = "export.json"


def check_output(output: Path) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        InputError: it is no folder, or holds what no export wrote.
    """
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


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A new folder, which takes the place of `output` if the block ends without an error.

    Raises:
        InputError: the folder cannot be made.
        ExportError: another export took the place meanwhile.
    """
    beside = f".{output.name}.{uuid.uuid4().hex}"
    fresh, old = output.with_name(f"{beside}.tmp"), output.with_name(f"{beside}.old")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise InputError.at("--output", f"{output} cannot be made: {error}") from error
    try:
        yield fresh
        _swap(fresh, output, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, output: Path, old: Path) -> None:
    there = output.exists()
    if there:
        output.rename(old)
    try:
        fresh.rename(output)
    except OSError as error:
        if there and not output.exists():
            old.rename(output)
        raise ExportError(f"{output} could not be replaced: {error}; export again") from error
    shutil.rmtree(old, ignore_errors=True)


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """File -> bytes and SHA-256 of what lies in a folder."""
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    }
