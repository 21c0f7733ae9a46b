"""Marks in a target store: which entries live jobs read and write, so that nobody deletes them meanwhile.

A job leaves a mark before it looks what the store holds, and renews it as long as it lives; who prunes leaves one too
before it looks for the marks of jobs. So of two that begin at once at least one sees the other: the job waits, or
the entry is kept. A mark counts for `LASTS_S` after it was renewed last, by the clock of the store itself (that of the
file server or of the bucket), so that clocks which differ between nodes, or are set, do not matter. In a folder it is
locked as well: on one machine a job that was killed is known at once, and one that was stopped for hours still counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from raykd.disks import disk_error
from raykd.errors import TargetError
from raykd.targets.buckets import Bucket
from raykd.targets.remote import Remote
from raykd.targets.shards import unwritable

MARKS = ".in-use"
"""The folder of a store in which they lie."""
LASTS_S = 600.0
_RENEWED_S = 60.0
_POLL_S = 0.5
_TRIES = 5
_SUFFIX = ".json"
_CLOCK = ".clock-"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
Work = Literal["reads", "prunes"]


@dataclass(frozen=True)
class Mark:
    """Who uses some entries of a store.

    Attributes:
        work: a job that reads and writes them, or somebody who prunes.
        entries: names of their folders.
        host: name of the machine.
        pid: process there.
        job: the job's folder, or the command.
        boot: which start of which machine; empty where that cannot be told.
    """

    work: Work
    entries: frozenset[str]
    host: str
    pid: int
    job: str
    boot: str

    @classmethod
    def own(cls, work: Work, entries: Iterable[str], job: str) -> Mark:
        """Of this process."""
        boot = _BOOT.read_text(encoding="utf-8").strip() if _BOOT.is_file() else ""
        return cls(work, frozenset(entries), socket.gethostname(), os.getpid(), job, boot)

    @property
    def who(self) -> str:
        """In words."""
        return f"{self.job} (process {self.pid} on {self.host})"

    def to_bytes(self) -> bytes:
        """As it is written."""
        return (json.dumps({**self.__dict__, "entries": sorted(self.entries)}) + "\n").encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Mark | None:
        """What was written; None for anything else."""
        try:
            found: dict[str, Any] = json.loads(payload)
            work, entries = found["work"], [str(one) for one in found["entries"]]
            given = str(found["host"]), int(found["pid"]), str(found["job"]), str(found["boot"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(work, frozenset(entries), *given) if work in ("reads", "prunes") else None


class Board(Protocol):
    """Where the marks of a store lie."""

    def put(self, name: str, payload: bytes) -> None:
        """Write a mark, or renew it.

        Raises:
            TargetError: it cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Take a mark of this process away; whatever hinders it, it ends by itself."""
        ...

    def alive(self) -> dict[str, Mark]:
        """Those that count, by name."""
        ...


class FolderBoard:
    """Marks in a store's folder; those of this process are locked.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / MARKS
        self._held: dict[str, IO[bytes]] = {}

    def put(self, name: str, payload: bytes) -> None:
        """See `Board`; a mark that somebody deleted is written again."""
        try:
            if name in self._held and (self.folder / name).is_file():
                os.utime(self.folder / name)  # by the clock of the file server
                return
            file = self._written(name, payload)
        except OSError as error:
            raise unwritable(disk_error(self.folder / name, error, len(payload))) from error
        self._unlock(name)
        self._held[name] = file

    def _written(self, name: str, payload: bytes) -> IO[bytes]:
        """A new mark; nobody sees it before it is whole and locked."""
        temporary = self.folder / f".{name}"
        file = self._opened(temporary)
        try:
            _lock(file, fcntl.LOCK_EX)
            file.write(payload)
            file.flush()
            temporary.replace(self.folder / name)
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        return file

    def _opened(self, path: Path, tries: int = _TRIES) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("wb")
        except FileNotFoundError:  # who had the last mark has taken the folder away
            if tries == 1:
                raise
            return self._opened(path, tries - 1)

    def remove(self, name: str) -> None:
        """See `Board`."""
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)
        self._unlock(name)
        with suppress(OSError):  # there are others
            self.folder.rmdir()

    def _unlock(self, name: str) -> None:
        if (file := self._held.pop(name, None)) is not None:
            file.close()

    def alive(self) -> dict[str, Mark]:
        """See `Board`."""
        if not self.folder.is_dir():
            return {}
        now, found = self._now_s(), {}
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.name.startswith("."):
                continue
            with suppress(OSError), path.open("rb") as file:
                mark = Mark.from_bytes(file.read())
                age_s = now - os.fstat(file.fileno()).st_mtime
                if mark is not None and _counts(mark, _lock(file, fcntl.LOCK_SH), age_s):
                    found[path.name] = mark
                elif mark is not None or age_s > LASTS_S:  # who left it was killed
                    path.unlink(missing_ok=True)
        return found

    def _now_s(self) -> float:
        """The time by the clock that files get; that of this machine where no file can be written."""
        path = self.folder / f"{_CLOCK}{secrets.token_hex(4)}"
        try:
            path.touch()
            return path.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class BucketBoard:
    """Marks in a store's bucket.

    Attributes:
        bucket: the store's.
    """

    bucket: Bucket

    def put(self, name: str, payload: bytes) -> None:
        """See `Board`."""
        self.bucket.write(f"{MARKS}/{name}", [payload])

    def remove(self, name: str) -> None:
        """See `Board`."""
        with suppress(TargetError):
            self.bucket.delete(f"{MARKS}/{name}")

    def alive(self) -> dict[str, Mark]:
        """See `Board`."""
        clock = f"{_CLOCK}{secrets.token_hex(4)}"
        try:
            with suppress(TargetError):  # may only be read
                self.bucket.write(f"{MARKS}/{clock}", [b"\n"])
            listed = dict(self.bucket.names(MARKS))
        finally:
            self.remove(clock)
        now = listed.pop(clock).written_s if clock in listed else time.time()
        fresh = [
            name
            for name, one in listed.items()
            if name.endswith(_SUFFIX) and now - one.written_s <= LASTS_S
        ]
        return {name: mark for name in fresh if (mark := self._read(name)) is not None}

    def _read(self, name: str) -> Mark | None:
        try:
            return Mark.from_bytes(b"".join(self.bucket.pieces(f"{MARKS}/{name}")))
        except TargetError:  # taken away meanwhile
            return None


def board_of(root: Path, remote: Remote | None) -> Board:
    """Where the marks of a store lie: in its bucket, or in its folder."""
    return FolderBoard(root) if remote is None else BucketBoard(remote.bucket)


def _lock(file: IO[bytes], kind: int) -> bool | None:
    """Whether an open file is locked by now; None where the file system has no locks."""
    try:
        fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _counts(mark: Mark, free: bool | None, age_s: float) -> bool:
    """Whether a mark counts.

    Args:
        mark: the mark.
        free: whether nobody holds its lock; None where there are no locks.
        age_s: since it was renewed.
    """
    if free is False:
        return True
    own = Mark.own("reads", (), "")
    ended = free is True and bool(mark.boot) and mark.boot == own.boot  # locks are seen here
    return not ended and age_s <= LASTS_S


@contextmanager
def hold(board: Board, mark: Mark, waiting: Callable[[Mark], None] | None = None) -> Iterator[None]:
    """Have a mark for the length of a block.

    Args:
        board: where it lies.
        mark: of this process; one that reads waits until nobody prunes.
        waiting: is told who does.

    Raises:
        TargetError: it cannot be written.
    """
    name = f"{mark.host}-{mark.pid}-{secrets.token_hex(4)}{_SUFFIX}"
    payload, over = mark.to_bytes(), threading.Event()
    board.put(name, payload)

    def renew() -> None:
        while not over.wait(_RENEWED_S):
            with suppress(TargetError):  # the next one may be written
                board.put(name, payload)

    thread = threading.Thread(target=renew, name="raykd-mark", daemon=True)
    thread.start()
    try:
        if mark.work == "reads":
            _wait_until_pruned(board, waiting)
        yield
    finally:
        over.set()
        thread.join(_RENEWED_S)
        board.remove(name)


def _wait_until_pruned(board: Board, waiting: Callable[[Mark], None] | None) -> None:
    """Return once nobody prunes; somebody who was killed is waited for until the mark is over, at most."""
    told = False
    while others := [one for one in board.alive().values() if one.work == "prunes"]:
        if waiting is not None and not told:
            waiting(others[0])
            told = True
        time.sleep(_POLL_S)


def in_use(board: Board) -> Mapping[str, Mark]:
    """Folder of each entry that a live job reads or writes -> its mark."""
    marks = [mark for mark in board.alive().values() if mark.work == "reads"]
    return {entry: mark for mark in marks for entry in mark.entries}
