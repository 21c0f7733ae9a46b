"""Where things lie: the run folder (a fixed layout) and raykd's own home; how files are written there and locked."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from raykd.disks import TEMPORARY, disk_error, is_full, why_unwritable, write_whole
from raykd.errors import InputError, Problem, RaykdError

STAGES = "stages"
STUDENTS = "students"
_BUSY_POLL_S = 0.5
_OTHERS = "wandb"
"""The folder in which W&B keeps runs: links in these lead to its logs, and raykd opens none of their files."""


def home() -> Path:
    """`$RAYKD_HOME`, else `.raykd` in the working directory: fitted teachers and stored targets."""
    return Path(os.environ.get("RAYKD_HOME", ".raykd")).expanduser().absolute()


def refuse_links(folder: Path) -> None:
    """Whoever reads or writes a run, an export, a store or a sweep asks this first: all of it lies in its folder.

    The folder itself may be a link, since the user named it; so may what leads to another place in it.

    Args:
        folder: what is not there, or is a file, is right.

    Raises:
        InputError: a link leads out of it, or it holds a pipe or a device, which would be waited for.
    """
    root = folder.resolve()
    refused = [(Path(path), why) for path in _inside(root) if (why := _why_refused(path, root))]
    if refused:
        path, why = refused[0]
        more = f"; {len(refused) - 1} more such" if refused[1:] else ""
        raise InputError.at(
            str(folder / path.relative_to(root)), f"{why}{more}; nothing was read or written: put the file itself there, "
            "or delete it"
        )  # fmt: skip


def _inside(root: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder and in those below it, but for what W&B keeps of each of its runs; follows no link.

    Raises:
        InputError: one of the folders cannot be listed.
    """
    folders = [root] if root.is_dir() else []
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:  # another process has moved it away
            continue
        except OSError as error:
            raise InputError.at(str(folder), f"cannot be listed: {error.strerror}") from None
        yield from entries
        if folder.name != _OTHERS:
            folders += [Path(one.path) for one in entries if one.is_dir(follow_symlinks=False)]


def _why_refused(entry: os.DirEntry[str], root: Path) -> str | None:
    """What is wrong with one thing in a folder; None where nothing is."""
    if entry.is_symlink():
        return (
            None
            if _leads_into(Path(entry.path), root)
            else "is a link that leads out of the folder"
        )
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:  # a temporary file of another process
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is neither a file nor a folder"


def _leads_into(link: Path, root: Path) -> bool:
    """Whether a link ends in a folder, and not at its root; one that goes in a circle ends nowhere."""
    try:
        end = link.resolve()
    except (OSError, RuntimeError):
        return False
    return end != root and end.is_relative_to(root)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A new folder beside `output`, which takes its place if the block ends without an error.

    Raises:
        InputError: the folder cannot be made.
        DiskError: the disk is full.
        RaykdError: another process took the place meanwhile.
    """
    beside = f".{output.name}.{secrets.token_hex(8)}"
    fresh, old = output.with_name(f"{beside}.tmp"), output.with_name(f"{beside}.old")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        if is_full(error):
            raise disk_error(output, error) from error
        raise InputError.at("--output", f"{output} cannot be made: {error}") from error
    try:
        yield fresh
        _swap(fresh, output, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, output: Path, old: Path) -> None:
    there = os.path.lexists(output)
    if there:
        output.rename(old)
    try:
        fresh.rename(output)
    except OSError as error:
        if there and not output.exists():
            old.rename(output)
        raise RaykdError(f"{output} could not be replaced: {error}; try again") from error
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


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


_CLAIMED: dict[Path, tuple[IO[str], list[Path]]] = {}
"""Folders that this process has claimed -> the open lock file, and the folders that were made for it."""
_LOCK = ".lock"
_BEGUN = (f"{TEMPORARY}config.json.", f"{TEMPORARY}stages.json.")
"""What a recipe is called while it is being written, the first file of a job."""


def claim(path: Path) -> bool:
    """Make a job's folder, if need be, and lock it against all other processes until `release`, or this one's end.

    Returns:
        Whether it is claimed now; False where this process had done so before.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    path = path.absolute()
    if path in _CLAIMED:
        return False
    own = (path, *path.parents)
    made = (
        [folder for folder in own if not folder.exists()]
        if is_taken(path) or not path.exists()
        else [path]
    )
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / _LOCK).open("a+")
    except OSError as error:
        raise InputError.at("--output", f"{path} cannot be made or written: {error}") from None
    if not _locks(file) or not _is_at(file, path / _LOCK):
        file.close()
        raise InputError(
            Problem("--output", f"{path} is in use: another raykd is working in it; wait until that has ended, or name "
                    "another folder")
        )  # fmt: skip
    _CLAIMED[path] = file, made
    return True


def claim_new(base: Path) -> Path:
    """Claim a folder of that name that nobody has; with a number behind it where it is taken.

    Raises:
        InputError: no folder can be made there.
    """
    if why := why_unwritable(base.parent):
        message = f"is not given, and {base.parent.absolute()} cannot be written: {why}; name a folder that can"
        raise InputError.at("--output", message)
    for number in count(1):
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        with suppress(InputError):
            if not path.exists() and claim(path):
                return path
    raise AssertionError("there is always another number")


def release(path: Path) -> None:
    """Let others have a folder that this process claimed; one into which nothing was written is removed."""
    path = path.absolute()
    file, made = _CLAIMED.pop(path)
    if not is_taken(path):
        begun = [file for name in _BEGUN for file in path.glob(f"{name}*")]
        for left in (*begun, path / _LOCK):
            left.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else uses the next one
            for folder in made:
                folder.rmdir()
    file.close()


def release_all() -> None:
    """Let others have every folder that this process claimed."""
    for path in list(_CLAIMED):
        release(path)


def is_taken(path: Path) -> bool:
    """Whether something is there, other than what a job leaves that has not begun, or was killed when it had just."""
    if not path.is_dir():
        return path.exists()
    names = {one.name for one in path.iterdir()}
    return _LOCK not in names or not all(name.startswith(_BEGUN) for name in names - {_LOCK})


def is_worked_in(path: Path) -> bool:
    """Whether a living process has claimed a folder."""
    return path.absolute() in _CLAIMED or is_locked(path)


def is_locked(path: Path) -> bool:
    """Whether another living process has claimed a folder."""
    if path.absolute() in _CLAIMED or not (path / _LOCK).is_file():
        return False
    with (path / _LOCK).open() as file:
        return not _locks(file)


def _locks(file: IO[str]) -> bool:
    """Lock an open file, unless another process has; a file system without locks counts as locked by us."""
    try:
        return _try_lock(file.fileno())
    except OSError:
        return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path: who locked it before may have removed it."""
    return path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write JSON.

    Raises:
        DiskError: as of `raykd.disks.write_whole`.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_whole(path, [text.encode()], durable=durable)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: it cannot be read, is damaged, or holds something else.
    """
    try:
        value = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.at(str(path), f"cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError.at(str(path), f"must hold a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong in the block does so because of what a file of somebody's folder holds.

    Args:
        path: the file; RAYKD_DEBUG=1 shows where its content was not as expected.

    Raises:
        InputError: names the file.
    """
    try:
        yield
    except RaykdError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        found = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError.at(
            str(path), f"does not hold what raykd writes there ({found}); it is damaged, or of another version: restore it, "
            "or make the folder anew"
        ) from error  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.json"

    @property
    def stages(self) -> Path:
        """The whole recipe of a run with stages; `config` is then that of its last one."""
        return self.path / "stages.json"

    @property
    def recipe(self) -> Path:
        """The recipe that the run was started with."""
        return self.stages if self.stages.is_file() else self.config

    def stage(self, name: str) -> RunFolder:
        """The folder of a stage before the last one, or of a control of the chain."""
        return RunFolder(self.path / STAGES / name)

    def of_student(self, name: str) -> RunFolder:
        """What there is of one of the run's other students."""
        return RunFolder(self.path / STUDENTS / name)

    @property
    def run_of_student(self) -> RunFolder | None:
        """The run, where this is the folder of one of its other students; None where it is a run's own."""
        place = self.path.absolute().parent
        run = RunFolder(place.parent)
        return run if place.name == STUDENTS and run.config.is_file() else None

    @property
    def environment(self) -> Path:
        """Versions, devices, git, seeds."""
        return self.path / "environment.json"

    @property
    def summary(self) -> Path:
        """The numbers."""
        return self.path / "summary.json"

    @property
    def rollouts(self) -> Path:
        """Folder of states that students visited while the run was under way."""
        return self.path / "rollouts"

    @property
    def logs(self) -> Path:
        """The workers' logs of a job that failed on a cluster of its own, secrets masked."""
        return self.path / "logs"

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

    @property
    def returns(self) -> Path:
        """Episodes of models that were rolled to be evaluated, and the frames of one of them."""
        return self.path / "returns"

    @property
    def frames(self) -> Path:
        """Frames of one episode of the student and the best teacher."""
        return self.returns / "frames.npz"

    def card(self, teacher: str) -> Path:
        """The card of one teacher."""
        return self.path / "teachers" / f"{teacher}.json"

    def checkpoints(self, fit_id: str) -> Path:
        """Folder of one fit's checkpoints, e.g. of `labels/replica3`."""
        return self.path / "checkpoints" / fit_id
