"""Text files of rows: samples that are vectors of their columns of numbers, or texts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from raykd.config.sources import CsvSource
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


def index_csv(source: CsvSource, required: Required) -> Index:
    """Every row of some text files; all of their input columns are read once, to be sure of them.

    Raises:
        InputError: a file is damaged, lacks a column, or has something else than numbers in an input.
    """
    key = _INPUTS if source.text is None else _TEXT
    files = list_files(source.path, _SUFFIXES)
    heads = [_head(file, source.delimiter) for file in files]
    asked = {**required, **({} if source.id is None else {source.id: "data.source.id"})}
    inputs = _inputs(source, heads[0], asked, files[0])
    refuse(_lacking(files, heads, {**dict.fromkeys(inputs, key), **asked}))
    lines = [Lines(file.path, inputs, source.delimiter, source.text is not None) for file in files]
    sizes = [_rows(one, key) for one in lines]
    if not sum(sizes):
        raise InputError.at(KEY, f"{files[0].path} has no row; add samples")
    texts = _texts(files, asked, source.delimiter)
    counts = list(zip([file.name for file in files], sizes, strict=True))
    ids = ids_of(None if source.id is None else texts[source.id], counts, written=True)
    columns = {name: inferred(texts[name]) for name in required}
    layout = (
        Layout("numbers", (len(inputs),), "<f4")
        if source.text is None
        else Layout("text", (source.length,), "|u1")
    )
    parts = parts_of(zip(sizes, lines, strict=True))
    written = {name: texts[name] for name in required}
    return Index(ids.texts, files, layout, parts, columns, texts=written, numbers=ids.numbers)


def read_lines(lines: Lines, most_rows: int) -> Iterator[list[Any]]:
    """Stretches of rows in order, as one pyarrow array of float64, or of texts, for each column.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        for batch in _batches(lines):
            for start in range(0, batch.num_rows, most_rows):
                rows = batch.slice(start, most_rows)
                yield [rows.column(name) for name in lines.columns]
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
    names = list(lines.columns)
    kind = pa.string() if lines.texts else pa.float64()
    convert = pa_csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, kind))
    with pa_csv.open_csv(lines.path, _READ, _parsing(lines.delimiter), convert) as stream:
        yield from stream


def _head(file: File, delimiter: str) -> Any:
    """The schema, with types as the first rows have them."""
    try:
        with pa_csv.open_csv(file.path, _READ, _parsing(delimiter)) as stream:
            schema = stream.schema
    except (pa.ArrowException, OSError) as error:
        raise InputError.at(
            KEY, f"{file.path} cannot be read: {error}; it needs a first line with the names of its columns, and "
            "as many cells in every row"
        ) from error  # fmt: skip
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError.at(
            KEY, f"{file.path} has columns of one name: {', '.join(map(repr, twice))}; rename them"
        )
    return schema


def _inputs(source: CsvSource, head: Any, asked: Mapping[str, str], file: File) -> tuple[str, ...]:
    if source.text is not None:
        return (source.text,)
    if source.inputs is not None:
        return columns_of(source.inputs)
    found = tuple(
        field.name
        for field in head
        if _is_number(field.type) and field.name.strip() and field.name not in asked
    )
    if not found and all(pa.types.is_null(field.type) for field in head):
        raise InputError.at(KEY, f"{file.path} has no row below its header; mend the file")
    if not found:
        there = ", ".join(f"{field.name} ({field.type})" for field in head)
        raise InputError.at(
            _INPUTS, f"{file.path} has no column of numbers beside label and id; it has {there}; another "
            "data.source.delimiter?"
        )  # fmt: skip
    return found


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _lacking(
    files: Sequence[File], heads: Sequence[Any], asked: Mapping[str, str]
) -> Iterator[Problem]:
    """Columns that a file has not."""
    for name, key in asked.items():
        lacking = [pair for pair in zip(files, heads, strict=True) if name not in pair[1].names]
        for file, head in lacking[:1]:
            there = ", ".join(head.names)
            yield Problem(key, f"{file.path} has no column {name!r}; it has {there}")


def _rows(lines: Lines, key: str) -> int:
    """Rows of a file whose inputs are all texts, or all numbers or missing."""
    try:
        return sum(batch.num_rows for batch in _batches(lines))
    except (pa.ArrowException, OSError) as error:
        what = "UTF-8" if lines.texts else "numbers; a text goes into `text`"
        raise InputError.at(
            key, f"{lines.path}: {error}; inputs have to be {what}: mend the file, or name other columns"
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
