"""Text files of rows: samples that are vectors of their columns of numbers and words, or texts."""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from raykd.config.sources import CsvSource
from raykd.data.decoding.columns import (
    Block,
    Choice,
    Known,
    by_name,
    check_categories,
    choose,
    survey,
)
from raykd.data.decoding.layout import (
    KEY,
    File,
    Index,
    Layout,
    Lines,
    Required,
    columns_of,
    ids_of,
    list_files,
    parts_of,
)
from raykd.errors import DataError, InputError, Problem, refuse

_INPUTS, _TEXT = "data.source.inputs", "data.source.text"
_SUFFIXES = ("csv", "tsv", "txt")
_DELIMITERS = (",", ";", "\t", "|")
_BLOCK_BYTES = 16 * 2**20
_READ = pa_csv.ReadOptions(block_size=_BLOCK_BYTES)


def index_csv(source: CsvSource, required: Required, known: Known = None) -> Index:
    """Every row of some text files; all cells of their inputs are looked at once, to be sure of them.

    Args:
        source: the files.
        required: columns that they have to have beside the inputs.
        known: of each column of `source.inputs`, where a student knows it.

    Raises:
        InputError: a file is damaged, or lacks a column; a column that the recipe names cannot be an input.
    """
    key = _INPUTS if source.text is None else _TEXT
    files = list_files(source.path, _SUFFIXES)
    heads = [_head(file, source.delimiter) for file in files]
    asked = {**required, **({} if source.id is None else {source.id: "data.source.id"})}
    names = _inputs(source, heads, asked, files)
    named = {} if source.text is None and source.inputs is None else dict.fromkeys(names, key)
    refuse(_lacking(files, heads, {**named, **asked}))
    check_categories(source.categories, names, asked)
    lines = [Lines(file.path, names, source.delimiter) for file in files]
    sizes = [0] * len(files)
    blocks = _blocks(files, lines, heads, sizes, key)
    if source.text is not None or known is not None:
        found = {}
        deque(blocks, maxlen=0)
    else:
        found = survey(blocks, names, named, source.categories)
    if not sum(sizes):
        raise InputError.at(KEY, f"{files[0].path} has no row below its header; add samples")
    choice = Choice(names, tuple(known or ()), {})
    if found:
        choice = choose(found, source.categories, named=bool(named), key=_INPUTS)
        _check_any(choice, files[0])
        lines = [replace(one, columns=choice.names) for one in lines]
    texts = _texts(files, asked, source.delimiter)
    counts = list(zip([file.name for file in files], sizes, strict=True))
    ids = ids_of(None if source.id is None else texts[source.id], counts, written=True)
    columns = {name: inferred(texts[name]) for name in required}
    layout = (
        Layout("numbers", (len(choice.names),), "<f4", words=choice.words)
        if source.text is None
        else Layout("text", (source.length,), "|u1")
    )
    parts = parts_of(zip(sizes, lines, strict=True))
    written = {name: texts[name] for name in required}
    return Index(
        ids.texts,
        files,
        layout,
        parts,
        columns,
        texts=written,
        numbers=ids.numbers,
        unused=choice.unused,
    )


def read_lines(lines: Lines, most_rows: int) -> Iterator[list[Any]]:
    """Stretches of rows in order, as one pyarrow array of texts for each column; null where a cell is empty.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        for batch in _batches(lines):
            for start in range(0, batch.num_rows, most_rows):
                rows = batch.slice(start, most_rows)
                cells = by_name(rows)
                yield [cells[name] for name in lines.columns]
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{lines.path} cannot be read here: {error}; every node needs to see data.source.path"
        ) from error


def read_texts(
    path: str | Path, columns: Sequence[str] | None = None, delimiter: str | None = None
) -> Any:
    """Some columns of a text file, or all, as a pyarrow table of texts: the cells as they are written.

    Only an empty cell is none at all: a class, or a sample, may be called NA.

    Args:
        path: the file.
        columns: None = all.
        delimiter: between two cells; None = what is most frequent in the first line.

    Raises:
        pa.ArrowException: it is damaged.
        OSError: it cannot be read.
    """
    parsing = _parsing(_delimiter_of(path) if delimiter is None else delimiter)
    if columns is None:
        with pa_csv.open_csv(path, _READ, parsing) as stream:
            columns = stream.schema.names
    convert = pa_csv.ConvertOptions(
        null_values=[""],
        strings_can_be_null=True,
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
    )
    return pa_csv.read_csv(path, _READ, parsing, convert)


def _delimiter_of(path: str | Path) -> str:
    """What stands between two cells of the first line."""
    with Path(path).open("rb") as file:
        first = file.readline()
    return max(_DELIMITERS, key=lambda one: first.count(one.encode()))


def inferred(cells: Any) -> Any:
    """A column of a text file with the type that all of its cells have: numbers, booleans, times or texts.

    Args:
        cells: pyarrow array of texts, of all files.
    """
    written = io.BytesIO()
    pa_csv.write_csv(pa.table({"cells": cells}), written)
    written.seek(0)
    parse = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    convert = pa_csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    found = pa_csv.read_csv(written, _READ, parse, convert)
    return found["cells"].combine_chunks()


def _parsing(delimiter: str) -> Any:
    return pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _batches(lines: Lines) -> Iterator[Any]:
    """Rows in order; a column that the file lacks is null."""
    names = list(lines.columns)
    convert = pa_csv.ConvertOptions(
        include_columns=names,
        include_missing_columns=True,
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    with pa_csv.open_csv(lines.path, _READ, _parsing(lines.delimiter), convert) as stream:
        yield from stream


def _head(file: File, delimiter: str) -> dict[str, None]:
    """The names of the columns, in order."""
    try:
        with pa_csv.open_csv(file.path, _READ, _parsing(delimiter)) as stream:
            names = Counter(stream.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise InputError.at(
            KEY, f"{file.path} cannot be read: {error}; it needs a first line with the names of its columns, and "
            "as many cells in every row"
        ) from error  # fmt: skip
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise InputError.at(
            KEY, f"{file.path} has columns of one name: {', '.join(map(repr, twice))}; rename them"
        )
    return dict.fromkeys(names)


def _inputs(
    source: CsvSource,
    heads: Sequence[Mapping[str, None]],
    asked: Mapping[str, str],
    files: Sequence[File],
) -> tuple[str, ...]:
    """The columns that may be inputs: those that the recipe names, or all of all files that are nothing else."""
    if source.text is not None:
        return (source.text,)
    if source.inputs is not None:
        return columns_of(source.inputs)
    every = dict.fromkeys(name for head in heads for name in head)
    found = tuple(name for name in every if name.strip() and name not in asked)
    if not found:
        raise _no_input(files[0], f"it has {', '.join(every)}")
    return found


def _no_input(file: File, why: str) -> InputError:
    return InputError.at(
        _INPUTS, f"{file.path} has no column of numbers or words beside label and id; {why}; another "
        "data.source.delimiter?"
    )  # fmt: skip


def _check_any(choice: Choice, file: File) -> None:
    if not choice.names:
        raise _no_input(file, "; ".join(f"{name!r} {why}" for name, why in choice.unused.items()))


def _lacking(
    files: Sequence[File], heads: Sequence[Mapping[str, None]], asked: Mapping[str, str]
) -> Iterator[Problem]:
    """Columns that a file has not."""
    for name, key in asked.items():
        lacking = [pair for pair in zip(files, heads, strict=True) if name not in pair[1]]
        for file, head in lacking[:1]:
            there = ", ".join(head)
            yield Problem(key, f"{file.path} has no column {name!r}; it has {there}")


def _blocks(
    files: Sequence[File],
    lines: Sequence[Lines],
    heads: Sequence[Mapping[str, None]],
    sizes: list[int],
    key: str,
) -> Iterator[Block]:
    """All rows of all files, without the columns that a file lacks; counts the rows of each in `sizes`."""
    for number, (file, one, head) in enumerate(zip(files, lines, heads, strict=True)):
        there = [name for name in one.columns if name in head]
        try:
            for batch in _batches(one):
                first = sizes[number] + 1
                cells = by_name(batch)
                yield file.name, first, {name: cells[name] for name in there}
                sizes[number] += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise InputError.at(
                key, f"{one.path}: {error}; inputs have to be UTF-8: mend the file, or name other columns"
            ) from error  # fmt: skip


def _texts(files: Sequence[File], asked: Mapping[str, str], delimiter: str) -> dict[str, Any]:
    """What is small, as it is written: labels, ids, what samples are split by."""
    if not asked:
        return {}
    tables = []
    for file in files:
        try:
            tables.append(read_texts(file.path, list(asked), delimiter))
        except (pa.ArrowException, OSError) as error:
            names = ", ".join(map(repr, asked))
            raise InputError.at(
                KEY, f"{file.path}: {error}; the columns {names} have to be UTF-8: mend the file"
            ) from error
    whole = pa.concat_tables(tables)
    return {name: whole[name].combine_chunks() for name in asked}
