"""`metrics.jsonl` and `events.jsonl`: the stored events of a run, one JSON object per line."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from raykd.disks import disk_error
from raykd.errors import DiskError, RaykdError
from raykd.tracking.events import Event

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
_BLOCK = 1 << 16


class JsonLines:
    """Appends events to `metrics.jsonl`, and failures to `events.jsonl` as well.

    One unbuffered write per line. A line that a kill left incomplete is removed when the file is
    opened again, one that a full disk left incomplete at once, so that only the last line of a file
    can be incomplete. NaN and infinities become null. Progress is not stored.

    A run that resumes goes on in the same files: an epoch that is done again is there twice, and the
    later line counts.

    Args:
        run: the run folder; made if it is missing.

    Raises:
        DiskError: a file cannot be opened.
    """

    def __init__(self, run: Path) -> None:
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._metrics = _open(run / METRICS)
            self._events = _open(run / EVENTS)
        except OSError as error:
            raise _write_error(error.filename or run, error) from error

    def on(self, event: Event) -> None:
        """Append the event.

        Raises:
            DiskError: the line could not be written completely (the disk is full, or no longer there).
        """
        if event.kind == "progress":
            return
        line = (json.dumps(plain(event.to_line()), allow_nan=False) + "\n").encode()
        _append(self._metrics, line)
        if event.kind == "failure":
            _append(self._events, line)

    def close(self, summary: Mapping[str, Any] | None) -> None:  # noqa: ARG002 - has its own file
        """Close both files."""
        for file in (self._metrics, self._events):
            try:
                file.close()
            except OSError as error:
                raise _write_error(file.name, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without an incomplete last line.

    Raises:
        RaykdError: a line before the last is damaged.
        OSError: the file cannot be read.
    """
    raw_lines = path.read_bytes().split(b"\n")[:-1]
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(raw_lines, start=1):
        try:
            lines.append(_parsed(raw))
        except (ValueError, RecursionError) as error:
            if number == len(raw_lines):
                break
            raise RaykdError(
                f"{path}, line {number}: damaged ({error}); delete this line, or the run folder"
            ) from error
    return lines


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become None, anything unknown its text.

    It raises no error, since one odd value must not cost a line of metrics.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    to_list = getattr(value, "tolist", None)  # numpy's and torch's numbers and arrays
    if callable(to_list):
        return plain(to_list())
    return str(value)


def _open(path: Path) -> FileIO:
    file = FileIO(path, "ab+")
    file.truncate(_end_of_last_line(file))
    return file


def _end_of_last_line(file: FileIO) -> int:
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _parsed(raw: bytes) -> dict[str, Any]:
    line = json.loads(raw)
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - as damaged as any other line
    return line


def _append(file: FileIO, line: bytes) -> None:
    start = file.seek(0, 2)
    try:
        _write(file, line)
    except OSError as error:
        with suppress(OSError):  # otherwise it is removed when the run resumes
            file.truncate(start)
        raise _write_error(file.name, error, len(line)) from error


def _write(file: FileIO, line: bytes) -> None:
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_error(path: Any, error: OSError, needed: int = 0) -> DiskError:
    return disk_error(Path(os.fsdecode(path)), error, needed)
