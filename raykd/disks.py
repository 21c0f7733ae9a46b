"""Files that are there wholly or not at all, and one clear error where a disk is full or cannot be written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from raykd.errors import DiskError

TEMPORARY = "."
"""What the names of files begin with that are not finished yet."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_WORDS = tuple(os.strerror(number) for number in _FULL)
"""As libraries say it that are not written in Python."""
_TRIAL_BYTES = 4096
_CHUNK = 1 << 20


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: of the disk, of a quota, or of what one file may have."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or (number is None and any(words in str(error) for words in _IN_WORDS))


def disk_error(path: Path, error: BaseException, needed: int = 0) -> DiskError:
    """What went wrong with a place, in words.

    Args:
        path: what was to be written, a file or a folder.
        error: what the system said.
        needed: bytes that were to be written there; 0 = it is not known.
    """
    why = _meaning(error)
    if is_full(error):
        wanted = f"{needed:,} bytes are needed, " if needed else ""
        why += f" ({wanted}{_free_bytes(path):,} are free there)"
    return DiskError(f"{path} cannot be written: {why}")


def _meaning(error: BaseException) -> str:
    if said := next((words for words in _IN_WORDS if words in str(error)), None):
        return said  # libraries put more around it, and a tree that was copied a line for each file
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _free_bytes(path: Path) -> int:
    """Bytes that are free on the disk that a file would lie on."""
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return 0


@contextmanager
def writing(path: Path, needed: int = 0, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What the system refuses in the block is the error of one place.

    Args:
        path: what is written.
        needed: its bytes, where they are known.
        also: errors of a library that writes by itself.

    Raises:
        DiskError: names the place, what is needed and what is free.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        raise disk_error(path, error, needed) from error


@contextmanager
def new_file(path: Path, needed: int = 0, also: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """The name of a temporary file beside a file, whose place it takes if the block ends without an error.

    A reader sees the old file or the new one, never a part; what the block leaves behind by an error is removed.

    Args:
        path: the file; its folder is made.
        needed: as of `writing`.
        also: as of `writing`.

    Raises:
        DiskError: the disk is full or cannot be written; what was there before is as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}")
    with writing(path, needed, also):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_whole(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> None:
    """Write a file as of `new_file`.

    Where making the pieces raises, what was there before is as it was.

    Args:
        path: the file; its folder is made.
        pieces: its bytes, in order.
        durable: sync the file and its folder, so that it also lasts through a crash of the machine.

    Raises:
        DiskError: as of `new_file`.
    """
    needed = sum(map(len, pieces)) if isinstance(pieces, Sequence) else 0
    with new_file(path, needed) as temporary, temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; nothing where the file system knows no such thing."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with all that is in it; the copy is there wholly or not at all.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a copy that was killed
    needed = sum(one.stat().st_size for one in source.rglob("*") if one.is_file())
    try:
        with writing(target, needed):
            shutil.copytree(source, temporary)
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in pieces of 1 MiB.

    Raises:
        DiskError: it cannot be read, which is no fault of what the pieces are written into.
    """
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise DiskError(f"{path} cannot be read: {error.strerror or error}") from error


def why_unwritable(folder: Path) -> str | None:
    """Why files cannot be written below a folder, which need not exist yet, in words; None where they can.

    It is tried, since permissions alone do not tell of read-only mounts, full disks, `/dev/null` or names that are too
    long. What is missing is made, beside where it would lie, and removed again: nobody else sees a folder come and go.
    """
    folder = folder.absolute()
    try:
        there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
        if there == folder:
            _try_write(folder)
            return None
        trial = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}raykd-", dir=there))
        try:
            (trial / folder.relative_to(there)).mkdir(parents=True)
            _try_write(trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a name with a NUL
        return str(error)
    return None


def _try_write(folder: Path) -> None:
    """An empty file is made on a full disk, too."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_TRIAL_BYTES))
        file.flush()
