"""Whether every node of a cluster sees the same folders, found out by looking."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import InputError, Problem

_SEEN_WITHIN_S = 5.0
_ANSWERED_WITHIN_S = 90.0

Ask = Callable[[Sequence[Path]], Mapping[str, Sequence[bool]]]
"""Files -> name of each other node -> which of them it sees."""


def check_shared(folders: Mapping[str, Path]) -> None:
    """Every living node sees what this process writes there; one node alone is not asked.

    Puts an empty file beside each folder (where the nearest one exists), lets each node look, and removes it.

    Args:
        folders: what the user calls it -> absolute path; it need not exist yet.

    Raises:
        InputError: a folder is not on storage that all nodes share, or cannot be written.
    """
    me = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != me
    }
    if nodes:
        find_unshared(folders, lambda files: _ask_nodes(nodes, files))


def find_unshared(folders: Mapping[str, Path], ask: Ask) -> None:
    """As `check_shared`, of whatever nodes `ask` speaks for.

    Raises:
        InputError: with every folder that a node does not see.
    """
    marks: dict[str, Path] = {}
    try:
        for key, folder in folders.items():
            marks[key] = _nearest(folder) / f".raykd-shared-{secrets.token_hex(8)}"
            _touch(key, folder, marks[key])
        seen = ask(list(marks.values()))
        problems = [
            Problem(key, f"{folders[key]} is not on storage that all nodes share: {', '.join(blind)} "
                    f"{'does' if len(blind) == 1 else 'do'} not see it; name a folder below a mount that every node has "
                    "(NFS, Lustre, a bucket mounted as a folder), or use one node")
            for place, key in enumerate(folders)
            if (blind := [node for node, sees in seen.items() if not sees[place]])
        ]  # fmt: skip
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    if problems:
        raise InputError(problems)


def _touch(key: str, folder: Path, mark: Path) -> None:
    try:
        mark.touch(exist_ok=False)
    except OSError as error:
        raise InputError(
            Problem(key, f"{folder} cannot be written: {error}; name another folder")
        ) from error


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _ask_nodes(nodes: Mapping[str, str], files: Sequence[Path]) -> dict[str, list[bool]]:
    """What each node sees; one that does not answer sees nothing."""
    look = ray.remote(_look)
    asked = {
        name: look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote([str(file) for file in files])
        for node, name in nodes.items()
    }
    deadline = time.monotonic() + _ANSWERED_WITHIN_S
    found = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except (GetTimeoutError, RayError):
            found[name] = [False] * len(files)
    return found


def _look(files: Iterable[str]) -> list[bool]:
    """Runs on each node; network file systems may show a new file a little later."""
    deadline = time.monotonic() + _SEEN_WITHIN_S
    waiting = [Path(file) for file in files]
    while time.monotonic() < deadline and not all(file.is_file() for file in waiting):
        time.sleep(0.2)
    return [file.is_file() for file in waiting]
