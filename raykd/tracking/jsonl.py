"""`metrics.jsonl` and `events.jsonl`: the run's own record, one JSON object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from raykd.errors import RaykdError
from raykd.tracking.events import Event

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
_BLOCK = 1 << 16


class JsonLines:
    """Appends events to `metrics.jsonl`, and failures to `events.jsonl` as well.

    One unbuffered write per line. A line cut short by a kill is cut off when the file is opened
    again, one cut short by a full disk at once, so that a file never holds half a line but at its
    end. NaN and infinities become null. Progress is not stored.

    A run that resumes goes on in the same files: an epoch that is done again stands there twice, and
    the later line holds.

    Args:
        run: the run folder; made where it is missing.

    Raises:
        RaykdError: a file cannot be opened.
    """

    def __init__(self, run: Path) -> None:
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._metrics = _open(run / METRICS)
            self._events = _open(run / EVENTS)
        except OSError as error:
            raise _refused(error.filename or run, error) from error

    def on(self, event: Event) -> None:
        """Append the event.

        Raises:
            RaykdError: the line could not be written whole (the disk is full, or was taken away).
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
                raise _refused(file.name, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that is not whole is left out.

    Raises:
        RaykdError: a line before the last is damaged.
        OSError: the file cannot be read.
    """
    raw_lines = path.read_bytes().split(b"\n")[:-1]
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(raw_lines, start=1):
        try:
            lines.append(_parsed(raw))
        except ValueError as error:
            if number == len(raw_lines):
                break
            raise RaykdError(
                f"{path}, line {number}: damaged ({error}); delete this line, or the run folder"
            ) from error
    return lines


def plain(value: Any) -> Any:
    """The value in JSON's terms: NaN and infinities are None, anything unknown is its text.

    A line of metrics must not be lost because of one odd value, hence no error.
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
        with suppress(OSError):  # else it is cut off when the run resumes
            file.truncate(start)
        raise _refused(file.name, error) from error


def _write(file: FileIO, line: bytes) -> None:
    written = file.write(line)
    if written != len(line):
        raise OSError(f"only {written} of {len(line)} bytes were written: the disk is full")


def _refused(path: Any, error: OSError) -> RaykdError:
    return RaykdError(f"cannot write {path}: {error}; make room there, then use --resume")
