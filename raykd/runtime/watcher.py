"""Sees to it that nothing is left of a local cluster, however its driver ends: also by SIGKILL, or in C++ code.

    python -I -S watcher.py FOLDER DRIVER

Runs beside the driver in a session of its own (Ctrl-C and a closed terminal are for the driver), imports little, and
waits for the driver to say so on its standard input, or to be gone. Then it ends what still belongs to the cluster, and
removes the cluster's folder.

Linux kills the raylet and the GCS with the thread that started them, since Ray asks for that (PR_SET_PDEATHSIG). Its
workers only notice once they are in Ray's code again; those that are just starting go on trying to connect, and child
processes of a user's code do not notice at all. None of these is a child of the driver, and process groups do not
hold them together, since Ray gives each worker its own. But each has a file of the folder open for writing, its log, as
has what it starts: by that they are known.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.5
_LIMIT_S = 20.0
_PAUSE_S = 0.05
_CALM = 2
"""Searches in a row that find nothing: a process may have been started during the first."""
_ACCESS = 0o3
"""Of a file's flags: not 0 where it is open for writing."""
_PROCESSES = Path("/proc")


def wait_for_end(driver: int) -> bool:
    """Until there is a byte on standard input, or it ends, or the process that started this one does.

    The end alone may never come: a child that a user's code forked from the driver holds the pipe open, too.

    Returns:
        Whether there was a byte: the driver goes on without its cluster.
    """
    while os.getppid() == driver:
        if select.select([sys.stdin], [], [], _POLL_S)[0]:  # a byte, or its end
            return bool(os.read(sys.stdin.fileno(), 1))
    return False


def writers(folder: str, but: int, group: int | None = None) -> Iterator[int]:
    """Processes, not older than this one, that have a file in a folder open for writing: who only reads a log is none.

    Args:
        folder: an absolute path.
        but: a process that is left out, as this one is.
        group: a process group that is left out.
    """
    begun = _begun(_PROCESSES / "self")
    for process in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        if process.name.isdecimal() and (pid := int(process.name)) not in (but, os.getpid()):
            with suppress(OSError):  # of another user, or just gone
                if (
                    _begun(process) >= begun
                    and _writes(process, folder)
                    and os.getpgid(pid) != group
                ):
                    yield pid


def _begun(process: Path) -> int:
    """When a process started, in ticks since the machine did; most are older, and looked at no further."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[19])


def _writes(process: Path, folder: str) -> bool:
    """Whether it has such a file open."""
    for file in (process / "fd").iterdir():
        with suppress(OSError):
            if str(file.readlink()).startswith(f"{folder}/") and _is_written(file):
                return True
    return False


def _is_written(file: Path) -> bool:
    """Whether a process's open file is open for writing."""
    lines = (file.parents[1] / "fdinfo" / file.name).read_text().splitlines()
    flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    return bool(int(flags, 8) & _ACCESS)


def end(folder: str, but: int, group: int | None) -> None:
    """End the writers in a folder, and those that they start meanwhile; arguments as of `writers`."""
    until, calm = time.monotonic() + _LIMIT_S, 0
    while calm < _CALM and time.monotonic() < until:
        found = list(writers(folder, but, group))
        calm = 0 if found else calm + 1
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def main(folder: str, driver: int) -> None:
    """Wait, and clear away."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to every process of a Slurm step
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        group = os.getpgid(driver)
    except ProcessLookupError:  # it is gone already
        group = None
    # What a driver that goes on has forked, with its open files, is its own: loaders of data, for instance.
    end(folder, driver, group if wait_for_end(driver) else None)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
