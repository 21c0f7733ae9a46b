"""What the machine allows a process (`ulimit`, temporary files), held against what a job on its own cluster needs."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raykd.errors import Problem, refuse

_FILES, _FILES_PER_CPU = 100, 8
"""Of Ray's busiest process: 59 were open with two CPUs."""
_USUAL_FILES = 4096
_WORKER_BYTES = 4_000_000_000
"""Address space of a process that trains, apart from the object store, of which every process maps all: 3.2 GB measured."""
_LEAST_STORE_BYTES = 100_000_000
_SESSION_BYTES = 32_000_000
_STORE_SHARE = 0.3
"""Part of the memory that Ray takes for its object store."""
_STORE_MOST = "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"
_MEMORY = Path("/proc/meminfo")


def check_process_limits(cpus: int, temporary: Path) -> None:
    """Refuse limits under which Ray would not start, or would wait for ever; low soft ones are raised.

    Args:
        cpus: of this machine; Ray starts a process for each.
        temporary: the folder in which sockets and logs are going to lie.

    Raises:
        InputError: with what is needed, and what to do.
    """
    files = _FILES + _FILES_PER_CPU * cpus
    refuse([*_too_few_files(files), *too_little_memory(), *_too_small(temporary)])


def temporary_name() -> str:
    """The variable of the environment that names the folder of temporary files."""
    return "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"


def usual_temporary() -> Path:
    """The folder of temporary files, which need not exist yet."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())


def _too_small(temporary: Path) -> Iterator[Problem]:
    """Sockets may lie elsewhere, since their names are short; other temporary files do not."""
    name = temporary_name()
    there = [folder for folder in (temporary, usual_temporary()) if folder.is_dir()]
    for folder in {folder.stat().st_dev: folder for folder in there}.values():
        if (free := shutil.disk_usage(folder).free) < _SESSION_BYTES:
            yield Problem(f"${name}", f"{folder} has {free:,} bytes free, temporary files, sockets and logs of a cluster of its own take up to "
                          f"{_SESSION_BYTES:,}; make room there, or set {name} to a folder on another disk")  # fmt: skip


def _too_few_files(needed: int) -> Iterator[Problem]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _allows(soft, needed):
        return
    if _allows(hard, needed):
        most = _USUAL_FILES if hard == resource.RLIM_INFINITY else min(hard, _USUAL_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(needed, most), hard))
        return
    yield Problem("ulimit -n", f"allows {hard} open files, a job on a cluster of its own needs {needed} on this machine; raise it "
                  f"(`ulimit -n {_USUAL_FILES}`, or nofile in limits.conf), or use a cluster that runs: --address")  # fmt: skip


def too_little_memory() -> Iterator[Problem]:
    """What is wrong where `ulimit -v` leaves no room for torch and Ray; nothing where it does."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = _WORKER_BYTES + _LEAST_STORE_BYTES
    if not _allows(soft, needed):
        yield Problem("ulimit -v", f"allows {soft:,} bytes of address space, each process of a job needs {needed:,} and more for large "
                      "data and models; lift it (`ulimit -v unlimited`) and bound the memory of the job by a container "
                      "or cgroup, or use a cluster that runs: --address")  # fmt: skip


def _allows(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def object_store_bytes() -> int | None:
    """Size of the object store that leaves each process room below `ulimit -v`; None = what Ray takes by itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    left = max(_LEAST_STORE_BYTES, soft - _WORKER_BYTES)
    usual = min(_STORE_SHARE * _available_bytes(), float(os.environ.get(_STORE_MOST, "inf")))
    return left if left < usual else None


def _available_bytes() -> int:
    """Memory that is free on this machine, or can be freed."""
    if _MEMORY.is_file():
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
