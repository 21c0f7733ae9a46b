"""Which shards a process of this node has read wholly since the node started: the others need not do it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO

from raykd.disks import TEMPORARY
from raykd.folders import lock_file
from raykd.targets.shards import Shard

MARKED_BYTES = 64 * 2**20
"""Shards that are read together are marked from so many bytes on; less is read again sooner than looked up."""
_MARKS, _LOCK = f"{TEMPORARY}verified-", f"{TEMPORARY}verified.lock"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def to_verify(folder: Path, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Those of some shards that still have to be held against their checksums on this node.

    A shard counts as verified once the next one is asked for, or the end; one that is damaged ends the iteration. It
    stays so until its file changes (size, time, inode) or the node starts anew. Processes that ask together wait for
    the first one. `raykd targets verify` reads all, marked or not.

    Args:
        folder: of the entry.
        shards: as the manifest lists them.
    """
    signs = {shard: _sign(folder, shard) for shard in shards}
    if sum(size for size, _ in signs.values()) < MARKED_BYTES or not _boot():
        yield from shards
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(folder / _LOCK))
            file: IO[str] = stack.enter_context((folder / (_MARKS + _boot())).open("a+"))
        except OSError:  # a store that may only be read
            yield from shards
            return
        file.seek(0)
        known = set(file.read().splitlines())
        for shard, (_, sign) in signs.items():
            if sign not in known:
                yield shard
                file.write(sign + "\n")


def _sign(folder: Path, shard: Shard) -> tuple[int, str]:
    """The size of a shard's file, and what is different once it is another file or has been written to."""
    try:
        found = (folder / shard.file).stat()
    except OSError:
        return 0, ""  # whoever verifies it says what is wrong
    parts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return found.st_size, " ".join([shard.file, shard.xxh3, *map(str, parts)])


@cache
def _boot() -> str:
    """What names this node since it started; empty where the system does not tell."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
