"""Archives that are small on disk and fill the memory."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from raykd.errors import InputError, Problem

_HARMLESS_BYTES = 2**28
_MOST_TIMES = 100
"""How much larger than its file an archive may get that is not harmless: arrays of numbers get a few times."""


def refuse_bomb(archive: ZipFile, path: Path, *, key: str) -> None:
    """Refuse an archive that says it would get far larger than it is; nothing of it is unpacked.

    Args:
        archive: opened.
        path: its file.
        key: dotted key of the recipe, or the argument, that names it.

    Raises:
        InputError: it would take more than 256 MiB and 100 times its size.
    """
    size = sum(member.file_size for member in archive.infolist())
    packed = path.stat().st_size
    if size > max(_HARMLESS_BYTES, _MOST_TIMES * packed):
        raise InputError(
            Problem(
                key,
                f"{path} has {packed:,} bytes and would take {size:,} in memory; an archive may take up to "
                f"{_MOST_TIMES} times its size; where you trust it, save its arrays unpacked (numpy.savez)",
            )
        )
