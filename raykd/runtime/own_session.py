"""The folder of the cluster that a run starts for itself: this user's alone, gone at the end; its logs, where it failed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from raykd.disks import why_unwritable
from raykd.errors import InputError
from raykd.limits import temporary_name, usual_temporary
from raykd.masking import mask
from raykd.runtime import watcher

_PREFIX = "raykd-"
_LONGEST_TEMPORARY = 25
"""Bytes: the names of Ray's sockets are that folder's and 82 more, of at most 107."""
_SHORT = "/tmp"  # noqa: S108 (the folder that is made there is this user's alone)
_END_S = 25.0
_LOGS = ("worker-*.err", "worker-*.out", "python-core-worker-*.log", "raylet.*", "gcs_server.*")
"""What is kept of a failure, in order."""
_MOST_BYTES, _MOST_OF_ONE = 20_000_000, 4_000_000
_BEFORE = 64 * 2**10
"""Bytes read before what is kept of a file, so that a secret which begins there is seen whole."""


class OwnSession:
    """Of a local cluster. While it lasts, a small process watches over it; see `raykd.runtime.watcher`.

    Attributes:
        folder: with mode 0700, since the files in it, of sockets and logs, are open to all users.

    Raises:
        InputError: there is no folder that is short enough and can be written.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary_parent()))
        with _deaf():
            self._watcher = subprocess.Popen(  # noqa: S603 (ourselves)
                [
                    sys.executable,
                    "-I",
                    "-S",
                    watcher.__file__,
                    os.path.realpath(self.folder),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def temporary(self) -> str:
        """Ray's folder in it, which Ray itself opens to all users."""
        return str(self.folder / "r")

    def end(self) -> None:
        """End what is left of the cluster, and remove the folder."""
        assert self._watcher.stdin is not None
        with suppress(BrokenPipeError):  # somebody has ended it
            self._watcher.stdin.write(b".")
            self._watcher.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(_END_S)
        shutil.rmtree(self.folder, ignore_errors=True)  # where somebody has ended the watcher

    def keep_logs(self, target: Path, environ: Mapping[str, str] = os.environ) -> bool:
        """Copy the logs of workers, and of Ray itself, into a folder anew: their ends, 20 MB at most, secrets masked.

        Returns:
            Whether there were any.
        """
        sessions = self.folder.glob("r/session_2*/logs")
        logs = [file for folder in sessions for name in _LOGS for file in _newest(folder, name)]
        shutil.rmtree(target, ignore_errors=True)
        room = _MOST_BYTES
        for file in logs:
            kept = masked_end(file, min(room, _MOST_OF_ONE), environ)
            if kept:
                target.mkdir(parents=True, exist_ok=True)
                (target / file.name).write_bytes(kept)
                room -= len(kept)
        return room < _MOST_BYTES


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started in this block never hears a signal to all processes, not even before its first line."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _newest(folder: Path, pattern: str) -> list[Path]:
    """Files that are not empty, the last that was written into first."""
    found = [file for file in folder.glob(pattern) if file.is_file() and file.stat().st_size]
    return sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)


def masked_end(file: Path, most: int, environ: Mapping[str, str]) -> bytes:
    """The last bytes of a log, with its secrets masked.

    Args:
        file: the log.
        most: bytes.
        environ: see `mask`.
    """
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - most - _BEFORE))
        text = log.read(most + _BEFORE).decode("utf-8", "replace")
    return mask(text, environ).encode()[-most:] if most else b""


def temporary_parent() -> Path:
    """Where the folder is made: where temporary files are, unless the names of sockets would become too long there.

    Raises:
        InputError: it cannot be written, or there is no shorter folder that can.
    """
    usual, name = str(usual_temporary()), temporary_name()
    if len(os.fsencode(usual)) <= _LONGEST_TEMPORARY:
        if why := why_unwritable(Path(usual)):
            raise InputError.at(f"${name}", f"{usual} cannot be written ({why}); Ray's sockets and logs lie there: set {name} to a "
                                "folder that can")  # fmt: skip
        Path(usual).mkdir(parents=True, exist_ok=True)  # Ray makes that of $RAY_TMPDIR, too
        return Path(usual)
    if why_unwritable(Path(_SHORT)):
        raise InputError.at(f"${name}", f"{usual} has {len(os.fsencode(usual))} characters; the names of Ray's sockets begin with it, "
                            f"and it may have {_LONGEST_TEMPORARY}: set RAY_TMPDIR to a shorter one")  # fmt: skip
    return Path(_SHORT)
