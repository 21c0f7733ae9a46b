"""Files of Debian's packages, read as data: out of a `.deb`, or where a package was unpacked or installed.

A `.deb` is an archive of `ar` with a compressed tar in it. Nothing of a package is run, and links are not followed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raykd.data.named import PATH_KEY
from raykd.errors import InputError

_MAGIC = b"!<arch>\n"
_HEADER, _SIZE, _END = 60, slice(48, 58), b"`\n"
_MOST_BYTES = 2**28
"""Unpacked bytes of a package, at most; those that are read have far fewer."""
_OPEN: dict[str, Callable[[io.BytesIO], io.IOBase]] = {
    "": lambda file: file,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


def deb_files(path: Path, wanted: re.Pattern[str]) -> dict[str, bytes]:
    """Name within a package (`usr/share/...`) -> content, of its plain files whose names match.

    Raises:
        InputError: it is no package, damaged, packed in a way that Python does not know, or far larger than it says.
    """
    try:
        members = dict(_members(path.read_bytes()))
        name = next((name for name in members if name.startswith("data.tar")), None)
        if name is None:
            raise _unfit(path, "is no package of Debian: it has no data.tar")
        suffix = name.removeprefix("data.tar")
        if suffix not in _OPEN:
            raise _unfit(
                path,
                f"is packed as {suffix}; unpack it (`dpkg -x FILE FOLDER`) and give the folder",
            )
        with _OPEN[suffix](io.BytesIO(members[name])) as packed:
            plain = packed.read(_MOST_BYTES + 1)
        if len(plain) > _MOST_BYTES:
            raise _unfit(path, f"would take more than {_MOST_BYTES:,} bytes in memory")
        return dict(_plain_files(plain, wanted))
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise _unfit(path, f"cannot be read as a package of Debian ({error})") from error


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    if not content.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    at = len(_MAGIC)
    while at < len(content):
        header = content[at : at + _HEADER]
        if len(header) < _HEADER or not header.endswith(_END):
            raise ValueError(f"damaged at byte {at}")
        size, at = int(header[_SIZE]), at + _HEADER
        if size < 0 or at + size > len(content):
            raise ValueError(f"it ends before byte {at + size}")
        yield header[:16].decode("ascii").strip().rstrip("/"), content[at : at + size]
        at += size + size % 2


def _plain_files(content: bytes, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isreg() and wanted.search(name):
                file = archive.extractfile(member)
                assert file is not None, "a plain file has a content"
                yield name, file.read()


def folder_files(folder: Path, below: Sequence[str], wanted: re.Pattern[str]) -> dict[str, bytes]:
    """The same of files that lie below a folder as they would below `/`.

    Args:
        folder: `/`, or where packages were unpacked.
        below: folders in it that are searched.
        wanted: what names (from `folder`) have to match.
    """
    files = (file for part in below for file in sorted((folder / part).rglob("*")))
    named = ((file.relative_to(folder).as_posix(), file) for file in files)
    return {
        name: file.read_bytes()
        for name, file in named
        if wanted.search(name) and file.is_file() and not file.is_symlink()
    }


def _unfit(path: Path, why: str) -> InputError:
    return InputError.at(PATH_KEY, f"{path} {why}; get it again with `apt-get download`")
