"""What is known of a source before anything of it is decoded: its samples in order, and where each lies.

Shapes: N samples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raykd.errors import InputError
from raykd.types import TEXT

KEY = "data.source.path"
IMAGES = ("jpg", "jpeg", "png", "bmp", "gif", "ppm", "pgm", "tif", "tiff", "webp")
Decoded = tuple[np.ndarray, dict[int, str]]
"""Samples [B, ...], and index in the block -> what is wrong with a sample."""
Required = Mapping[str, str]
"""Column that a source has to have -> the dotted key that asks for it."""

PART_BYTES = 64 * 2**20
BLOCK_BYTES = 8 * 2**20
_MOST_PARTS = 64  # of data that fits into fewer, unless they get too small
_LEAST_ROWS = 16
_MAGIC = set("*?[")
_WHOLE = r"^\d+(\.0*)?$"


class File(NamedTuple):
    """A file of a source: its name below the source's folder, its path, its size and when it was changed."""

    name: str
    path: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Layout:
    """How a decoded sample looks.

    Attributes:
        kind: what it is decoded from: an encoded image, numbers, or a text.
        shape: of one sample, [C, H, W], [D] or [L].
        dtype: uint8 (`|u1`) or float32 (`<f4`).
        mode: of images, `RGB` or `L`.
        size: to which images are resized and cropped, pixels; None = they have it already.
        words: of a table's columns, of each the words that its codes stand for, None of a column of numbers; empty
            where samples are something else.
    """

    kind: Literal["image", "numbers", "text"]
    shape: tuple[int, ...]
    dtype: str
    mode: str | None = None
    size: int | None = None
    words: tuple[tuple[str, ...] | None, ...] = ()

    @property
    def input(self) -> str:
        """Name of the one input."""
        return TEXT if self.kind == "text" else "inputs"

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def block_rows(self) -> int:
        """Samples that a worker holds in memory at a time."""
        return max(1, BLOCK_BYTES // self.row_bytes)


@dataclass(frozen=True, eq=False)
class Spans:
    """Encoded samples by their places in files.

    Attributes:
        paths: the files.
        file_N: int64, the number of each sample's file.
        offset_N: int64, where it begins, in bytes.
        length_N: int64, its bytes; −1 = the whole file.
    """

    paths: tuple[str, ...]
    file_N: np.ndarray
    offset_N: np.ndarray
    length_N: np.ndarray

    def part(self, first: int, count: int) -> Spans:
        """Some of them, with no more paths than they need."""
        here = slice(first, first + count)
        used, file_N = np.unique(self.file_N[here], return_inverse=True)
        paths = tuple(self.paths[number] for number in used)
        return Spans(paths, file_N, self.offset_N[here], self.length_N[here])


@dataclass(frozen=True)
class Groups:
    """Neighbouring row groups of a Parquet file, or record batches of an Arrow stream.

    Attributes:
        path: the file.
        first: number of the first group.
        count: of groups.
        columns: the columns that inputs are made of.
    """

    path: str
    first: int
    count: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """All rows of a text file.

    Attributes:
        path: the file.
        columns: the columns that inputs are made of.
        delimiter: between two cells.
    """

    path: str
    columns: tuple[str, ...]
    delimiter: str


@dataclass(frozen=True, eq=False)
class Part:
    """Neighbouring samples that are decoded as a whole, or, after a kill, again.

    Attributes:
        number: of the part.
        first: place of its first sample in the decoded file.
        count: of samples.
        place: where they are.
    """

    number: int
    first: int
    count: int
    place: Spans | Groups | Lines


@dataclass(frozen=True, eq=False)
class Ids:
    """What the samples of a source are called.

    Attributes:
        texts: [N], pyarrow array of texts, as the source writes them.
        numbers: int64 [N], where all are different whole numbers, from which random numbers are made then.
    """

    texts: Any
    numbers: np.ndarray | None = None

    @classmethod
    def of_texts(cls, texts: Any) -> Ids:
        """Of the cells of a text file, where numbers are texts, too."""
        trimmed = pc.utf8_trim_whitespace(texts)
        if not pc.all(pc.match_substring_regex(trimmed, _WHOLE)).as_py():
            return cls(texts)
        return cls(texts, _different(pc.replace_substring_regex(trimmed, r"\.0*$", "")))

    @classmethod
    def of_values(cls, values: Any) -> Ids:
        """Of a typed column: numbers by their digits.

        Raises:
            pa.ArrowException: they cannot be written as texts.
        """
        texts = values.cast(pa.string())
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return cls.of_texts(texts)
        return cls(texts)


def _different(digits: Any) -> np.ndarray | None:
    """The numbers, int64, where no two are the same."""
    try:
        numbers: np.ndarray = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # more than 63 bits
        return None
    return numbers if len(np.unique(numbers)) == len(numbers) else None


@dataclass(frozen=True, eq=False)
class Index:
    """A source's samples.

    Attributes:
        ids: [N], pyarrow array of texts: what samples are called.
        files: what is decoded, for its fingerprint.
        layout: how decoded samples look.
        parts: all samples in order.
        columns: name -> [N], pyarrow array: labels, and what samples are split by.
        texts: name -> [N], pyarrow array of texts: the cells of these columns as they are written, where a text
            file brought them.
        names: column -> names of its classes, where the source has them.
        splits: [N], pyarrow array of `train`, `validation`, `test`, where the source has them.
        unused: column of a table that is left out -> why.
        notes: what a reader should know of the source, in plain words.
        numbers: as of `Ids`.
        digest: what identifies the decoded samples, where it was kept; None = still to be found out.
    """

    ids: Any
    files: tuple[File, ...]
    layout: Layout
    parts: tuple[Part, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: Any = None
    unused: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    numbers: np.ndarray | None = None
    digest: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


def part_rows(count: int, layout: Layout) -> int:
    """Samples of a part: 64 MiB of them, fewer where that would leave too few parts to share out."""
    shared = max(_LEAST_ROWS, -(-count // _MOST_PARTS))
    return max(1, min(PART_BYTES // layout.row_bytes, shared))


def parts_of(pieces: Iterable[tuple[int, Spans | Groups | Lines]]) -> tuple[Part, ...]:
    """Parts in order; each piece is the count of its samples, and where they are."""
    parts: list[Part] = []
    first = 0
    for count, place in pieces:
        if count:
            parts.append(Part(len(parts), first, count, place))
        first += count
    return tuple(parts)


def span_parts(spans: Spans, layout: Layout) -> tuple[Part, ...]:
    """All samples in parts."""
    count = len(spans.file_N)
    step = part_rows(count, layout)
    sizes = ((first, min(step, count - first)) for first in range(0, count, step))
    return parts_of((size, spans.part(first, size)) for first, size in sizes)


def group_parts(
    groups: Mapping[str, list[int]], columns: tuple[str, ...], layout: Layout
) -> tuple[Part, ...]:
    """All samples in parts; a row group is never split.

    Args:
        groups: path -> rows of each of its groups.
        columns: that inputs are made of.
        layout: of a sample.
    """
    step = part_rows(sum(map(sum, groups.values())), layout)
    pieces: list[tuple[int, Groups]] = []
    for path, sizes in groups.items():
        begin, rows = 0, 0
        for number, size in enumerate(sizes, start=1):
            rows += size
            if rows and (rows >= step or number == len(sizes)):
                pieces.append((rows, Groups(path, begin, number - begin, columns)))
                begin, rows = number, 0
    return parts_of(pieces)


def columns_of(setting: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The columns that a setting names."""
    return (setting,) if isinstance(setting, str) else setting or ()


def ids_of(column: Any, counts: Sequence[tuple[str, int]], *, written: bool) -> Ids:
    """Ids of the rows of some files: a column's, or `file#row` of each.

    Args:
        column: pyarrow array; None = there is none.
        counts: each file's name, and its rows.
        written: whether the column has the cells of text files as they are written.

    Raises:
        InputError: a row has no id, or one that is no text.
    """
    if column is None:
        return Ids(pa.array([f"{file}#{row}" for file, count in counts for row in range(count)]))
    if column.null_count:
        first = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError.at(
            "data.source.id", f"{column.null_count} of {len(column):,} rows have no id, the first is row "
            f"{_row_of(first, counts)}; give each its own, or name another column (null = file#row)"
        )  # fmt: skip
    try:
        return Ids.of_texts(column) if written else Ids.of_values(column)
    except pa.ArrowException as error:
        raise InputError.at(
            "data.source.id", f"the column has {column.type}: {error}; ids are texts or numbers"
        ) from error


def _row_of(row: int, counts: Sequence[tuple[str, int]]) -> str:
    """A row's place in its file, from 1, in words."""
    firsts = accumulate((count for _, count in counts), initial=0)
    places = [(file, first) for (file, _), first in zip(counts, firsts, strict=False)]
    file, first = next((file, first) for file, first in reversed(places) if first <= row)
    return f"{row - first + 1} of {file}"


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
        required = [file for file in paths if file.suffix[1:].lower() in suffixes]
        if not required:
            raise _problem(
                f"{one} (in {Path.cwd()}) has no {_any_of(suffixes)} file{_instead(paths)}"
            )
        before = f"{root.name}/" if several else ""
        found += [_file(file, before + file.relative_to(root).as_posix()) for file in required]
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
