"""Rows of Parquet files, Arrow streams and tables that this process holds: opened, read in stretches, decoded.

Shapes: B samples of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raykd.data.decoding.columns import by_name
from raykd.data.decoding.layout import KEY, Decoded, File, Groups, Layout
from raykd.errors import DataError, InputError
from raykd.objects import held

HELD = "object:"
"""Before the fingerprint of a table that this process holds, in place of a path."""


@dataclass(frozen=True)
class Table:
    """A file with its columns and the rows of each of its groups."""

    file: File
    schema: Any
    groups: list[int]

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Name -> type of each column, in order."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))


def _held_table(path: str) -> Any:
    """The table that this process holds under a path that is none; None for the path of a file."""
    if not path.startswith(HELD):
        return None
    return held(path.removeprefix(HELD), "a table", key="data.source").value.table


def open_table(file: File) -> Table:
    """The columns of a file, and how many rows each of its groups has.

    Raises:
        InputError: it is damaged.
    """
    if (rows := _held_table(file.path)) is not None:
        return Table(file, rows.schema, [rows.num_rows])
    try:
        if file.path.endswith(".parquet"):
            with pq.ParquetFile(file.path) as opened:
                about = opened.metadata
                rows = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
                return Table(file, opened.schema_arrow, rows)
        with _stream(file.path) as stream:
            return Table(file, stream.schema, [batch.num_rows for batch in stream])
    except (pa.ArrowException, OSError) as error:
        raise InputError.at(
            KEY, f"{file.path} is damaged, or of another kind: {error}; fetch it again"
        ) from error


def _stream(path: str) -> Any:
    return pa.ipc.open_stream(pa.memory_map(path))


def read_column(table: Table, name: str) -> Any:
    """A whole column, for what is small: ids, labels."""
    if (rows := _held_table(table.file.path)) is not None:
        return plain_column(rows, name)
    if table.file.path.endswith(".parquet"):
        return plain_column(pq.read_table(table.file.path, columns=[name]), name)
    with _stream(table.file.path) as stream:
        return plain_column(stream.read_all(), name)


def plain_column(table: Any, name: str) -> Any:
    """A column of a pyarrow table as one array of its values, also where it is categorical."""
    column = table[name].combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def read_groups(groups: Groups, most_rows: int) -> Iterator[list[Any]]:
    """Stretches of rows in order, as one pyarrow array for each column; a column that the file lacks is null.

    Raises:
        DataError: the file cannot be read.
    """
    names = list(groups.columns)
    required = range(groups.first, groups.first + groups.count)

    def of_batch(batch: Any) -> list[Any]:
        cells = by_name(batch)
        return [cells[n] if n in cells else pa.nulls(batch.num_rows) for n in names]

    if (rows := _held_table(groups.path)) is not None:
        for batch in rows.combine_chunks().to_batches(max_chunksize=most_rows):
            yield of_batch(batch)
        return
    try:
        if groups.path.endswith(".parquet"):
            with pq.ParquetFile(groups.path) as opened:
                for batch in opened.iter_batches(
                    most_rows, row_groups=list(required), columns=names
                ):
                    yield of_batch(batch)
            return
        with _stream(groups.path) as stream:
            for number, batch in enumerate(stream):
                if number in required:
                    for start in range(0, batch.num_rows, most_rows):
                        yield of_batch(batch.slice(start, most_rows))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{groups.path} cannot be read here: {error}; every node needs to see data.source.path"
        ) from error


def encoded_of(column: Any) -> list[Any]:
    """Encoded images of a column, or its lists."""
    return [one["bytes"] if isinstance(one, dict) else one for one in column.to_pylist()]


def decode_lists(column: Any, layout: Layout) -> Decoded:
    """Samples of one column of lists or tensors, a pyarrow array."""
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused below
        values, bad = _nested(column, layout)
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for index in np.flatnonzero(~finite).tolist():
            place = int(np.flatnonzero(~np.isfinite(values[index].reshape(-1)))[0])
            why = f"has NaN, infinity, a number too large for float32 or no value at place {place}, from 0"
            bad.setdefault(index, why)
            values[index] = 0
    return values, bad


def _nested(column: Any, layout: Layout) -> Decoded:
    """Lists of one length, or tensors."""
    column = getattr(column, "storage", column)
    width = int(np.prod(layout.shape))
    flat = column.flatten()
    if not column.null_count and len(flat) == width * len(column) and _even(column, width):
        numbers = flat.to_numpy(zero_copy_only=False).astype(layout.dtype)
        return numbers.reshape(len(column), *layout.shape), {}
    values, bad = np.zeros((len(column), width), dtype=layout.dtype), {}
    for index, row in enumerate(column):
        found = row.as_py()
        if found is not None and len(found) == width:
            values[index] = found
        else:
            bad[index] = (
                "has no value" if found is None else f"has {len(found)} numbers, not {width}"
            )
    return values.reshape(len(column), *layout.shape), bad


def _even(column: Any, width: int) -> bool:
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    return bool((lengths == width).all())
