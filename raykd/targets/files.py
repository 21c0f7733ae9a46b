"""How the target store writes: a file is there wholly or not at all, whenever the writer ends."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import xxhash

from raykd.errors import TargetError

TEMPORARY = "."
"""What the names of files begin with that are not finished yet."""
_CHUNK = 1 << 20


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it, sync its folder.

    A reader sees the old file or the new one, also after a crash of the machine.

    Raises:
        TargetError: the disk is full or cannot be written; what was there before is as it was.
    """
    write_pieces(path, [payload])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """As `write_whole`, piece by piece; where making the pieces raises, nothing is written.

    Raises:
        TargetError: the disk is full or cannot be written; what was there before is as it was.
    """
    temporary, size = path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}"), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for piece in pieces:
                size += len(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise TargetError(
            f"the target store cannot be written: {path}, at byte {size:,}: {error.strerror or error}; "
            "make room (`raykd targets prune` deletes what is not used), or set targets.store to a folder on "
            "another disk; all that was finished before is kept"
        ) from error
    except TargetError:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; nothing where the file system knows no such thing."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest_of(path: Path) -> str:
    """XXH3 (128 bits, hexadecimal) of a file, read in pieces of 1 MiB."""
    digest = xxhash.xxh3_128()
    for chunk in read_pieces(path):
        digest.update(chunk)
    return digest.hexdigest()


def read_pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in pieces of 1 MiB."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
