"""The files of a source: found, ordered by name, with what tells them from changed ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from raykd.data.decoding.layout import File
from raykd.errors import InputError

KEY = "data.source.path"
IMAGES = ("jpg", "jpeg", "png", "bmp", "gif", "ppm", "pgm", "tif", "tiff", "webp")
_MAGIC = set("*?[")


def list_files(path: str | Sequence[str], suffixes: Sequence[str]) -> tuple[File, ...]:
    """Every file with one of these suffixes, sorted by name; hidden ones apart.

    Args:
        path: folder, file or pattern, or several; names begin below the folder, or below the part of a
            pattern that has no wildcard; with the folder's own name where there are several.
        suffixes: without the dot, in lower case.

    Raises:
        InputError: there is no such folder or file, none of these in it, or one cannot be looked at.
    """
    several = not isinstance(path, str)
    found: list[File] = []
    for one in (path,) if isinstance(path, str) else path:
        if "://" in one:
            raise _problem(
                f"found {one}; files are read from a folder: mount the bucket, or copy it"
            )
        root, paths = _matching(Path(one).expanduser())
        wanted = [file for file in paths if file.suffix[1:].lower() in suffixes]
        if not wanted:
            raise _problem(
                f"{one} (in {Path.cwd()}) has no {_any_of(suffixes)} file{_instead(paths)}"
            )
        before = f"{root.name}/" if several else ""
        found += [_file(file, before + file.relative_to(root).as_posix()) for file in wanted]
    return tuple(sorted(found))


def _matching(path: Path) -> tuple[Path, list[Path]]:
    """The folder that names begin below, and the files."""
    if path.is_dir():
        return path, list(_below(path))
    if path.is_file():
        return path.parent, [path]
    if not _MAGIC.intersection(str(path)):
        raise _problem(f"there is no file or folder {path} (in {Path.cwd()})")
    plain = [part for part in path.parts if not _MAGIC.intersection(part)]
    depth = next(i for i, part in enumerate(path.parts) if _MAGIC.intersection(part))
    root = Path(*plain[:depth]) if depth else Path()
    found = root.glob(str(Path(*path.parts[depth:])))
    return root, [one for one in found if one.is_file()]


def _below(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base) / name for name in files if not name.startswith("."))


def _file(path: Path, name: str) -> File:
    try:
        about = path.stat()
    except OSError as error:
        raise _problem(f"{path} cannot be read: {error}; mend it or take it away") from error
    return File(name, str(path.absolute()), about.st_size, about.st_mtime_ns)


def _any_of(suffixes: Sequence[str]) -> str:
    return " or ".join(f".{suffix}" for suffix in suffixes)


def _instead(paths: Sequence[Path]) -> str:
    kinds = sorted({path.suffix or path.name for path in paths})[:5]
    return (
        f"; it has {', '.join(kinds)}: name another one, or another data.source.type"
        if kinds
        else ""
    )


def _problem(message: str) -> InputError:
    return InputError.at(KEY, message)
