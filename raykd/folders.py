"""Where things lie: the run folder (a fixed layout) and raykd's own home; how files are written there and locked."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPORARY = "."
"""What the names of files begin with that are not finished yet."""
_BUSY_POLL_S = 0.5


def home() -> Path:
    """`$RAYKD_HOME`, else `.raykd` in the working directory: fitted teachers and stored targets."""
    return Path(os.environ.get("RAYKD_HOME", ".raykd")).absolute()


def write_whole(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> None:
    """Write a file under a temporary name and rename it: a reader sees the old file or the new one, never a part.

    Where making the pieces or writing them raises, what was there before is as it was.

    Args:
        path: the file; its folder is made.
        pieces: its bytes, in order.
        durable: sync the file and its folder, so that it also lasts through a crash of the machine.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; nothing where the file system knows no such thing."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_file(path: Path, busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Alone among all processes that lock this file; the lock ends with the process.

    Args:
        path: the file; it and its folder are made.
        busy: called again and again while another process holds it, and may raise; None = wait in silence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while busy is not None and not _try_lock(file.fileno()):
            busy()
            time.sleep(_BUSY_POLL_S)
        fcntl.flock(file, fcntl.LOCK_EX)  # at once, where it is ours by now
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write JSON; see `write_whole`."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_whole(path, [text.encode()], durable=durable)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Versions, devices, git, seeds."""
        return self.path / "environment.json"

    @property
    def summary(self) -> Path:
        """The numbers."""
        return self.path / "summary.json"

    @property
    def evaluation(self) -> Path:
        """Every model's outputs on validation and test."""
        return self.path / "evaluation.safetensors"

    @property
    def predictions(self) -> Path:
        """Every model's prediction for each sample of validation and test, by the user's ids."""
        return self.path / "predictions.parquet"

    @property
    def student(self) -> Path:
        """The student's weights and description, for `raykd.load_student`."""
        return self.path / "student"

    @property
    def variants(self) -> Path:
        """What the methods of a comparison, or of an ablation, are."""
        return self.path / "variants.json"

    @property
    def choice(self) -> Path:
        """Which target of the menu validation chose, and why."""
        return self.path / "choice.json"

    @property
    def targets(self) -> Path:
        """Which entries of which store this run's targets are."""
        return self.path / "targets.json"

    def card(self, teacher: str) -> Path:
        """The card of one teacher."""
        return self.path / "teachers" / f"{teacher}.json"

    def checkpoints(self, fit_id: str) -> Path:
        """Folder of one fit's checkpoints, e.g. of `labels/replica3`."""
        return self.path / "checkpoints" / fit_id
