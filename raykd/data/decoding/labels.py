"""Labels, splits and columns of an index, as a `Dataset` wants them.

Shapes: N samples, K labels of a sample.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raykd.config.sources import FilesSource, LabelTable, ObjectSource
from raykd.data.class_names import check_known
from raykd.data.dataset import PARTS
from raykd.data.decoding.csv_tables import inferred, read_texts
from raykd.data.decoding.layout import Index, columns_of
from raykd.data.decoding.rows import plain_column
from raykd.data.joining import match
from raykd.data.labels import BOOLEANS, gaps_of
from raykd.errors import InputError
from raykd.tasks import find_task
from raykd.types import UNLABELLED

TABLE = "data.source.labels"
_WRITTEN = (".csv", ".tsv", ".txt")
Labels = tuple[np.ndarray | None, tuple[str, ...] | None]
"""Labels and names of the outputs, where there are some."""


def read_table(table: LabelTable) -> Any:
    """A table of labels, as a pyarrow table whose keys are texts; of a text file all cells are.

    Raises:
        InputError: it is missing, damaged, lacks a column, or has a key twice.
    """
    path = Path(table.path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (*_WRITTEN, ".parquet") or not path.is_file():
        raise _problem(
            "path",
            f"found {path} (in {Path.cwd()}); needs a .csv, .tsv, .txt or .parquet file that is there",
        )
    try:
        found = read_texts(path) if suffix in _WRITTEN else pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _problem("path", f"{path} cannot be read: {error}") from error
    for field, names in (("key", (table.key,)), ("column", columns_of(table.column))):
        if lacking := [name for name in names if name not in found.column_names]:
            there = ", ".join(found.column_names)
            raise _problem(field, f"{path} has no column {lacking[0]!r}; it has {there}")
    found = found.filter(pc.is_valid(found[table.key]))
    keys = found[table.key].cast(pa.string())
    if (twice := len(keys) - pc.count_distinct(keys).as_py()) > 0:
        counts = pc.value_counts(keys.combine_chunks())
        worst = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise _problem("key", f"{path} has {twice} keys twice (e.g. {worst}); each needs one row")
    return found.set_column(found.column_names.index(table.key), table.key, keys)


def joined(index: Index, table: LabelTable, rows: Any, names: tuple[str, ...]) -> Index:
    """The samples with columns of a table; null where it lacks a sample.

    Args:
        index: the samples.
        table: for the names of its file and its keys.
        rows: what `read_table` found.
        names: of the columns.

    Raises:
        InputError: it knows none of the samples.
    """
    keys = rows[table.key].combine_chunks()
    found = match(index.ids, keys)
    if (found.key_N < 0).all():
        there = repr(keys[0].as_py()) if len(keys) else "no row"
        raise _problem(
            "key",
            f"no sample's id is in the column {table.key!r}: samples are called e.g. {index.ids[0].as_py()!r}, the table has "
            f"{there}; take the column with the samples' ids",
        )
    indices = pa.array(found.key_N, mask=found.key_N < 0)
    cells = {name: plain_column(rows, name) for name in names}
    texts = cells if Path(table.path).suffix.lower() in _WRITTEN else {}
    columns = {
        name: inferred(column) if name in texts else column for name, column in cells.items()
    }
    return replace(
        index,
        columns={
            **index.columns,
            **{name: column.take(indices) for name, column in columns.items()},
        },
        texts={**index.texts, **{name: column.take(indices) for name, column in texts.items()}},
        notes=(*index.notes, *found.in_words(table.path)),
    )


def labels_of(
    index: Index,
    source: FilesSource | ObjectSource,
    names: tuple[str, ...],
    task: str,
    given: tuple[str, ...] | None,
) -> Labels:
    """Labels in the order of the samples.

    Args:
        index: the samples with their columns.
        source: for the keys of errors.
        names: columns of the label.
        task: what the labels are for.
        given: names of the classes, by which texts become labels; None = the texts themselves, sorted.

    Raises:
        InputError: the columns are of another kind than the task needs, or a value is not among the names.
    """
    key = f"{TABLE}.column" if source.labels is not None else "data.source.label"
    if not names:
        return None, None
    labels = find_task(task).labels
    if labels.columns:
        return _marks(index, names, key), names
    if len(names) > 1:
        raise InputError.at(
            key, f"found {len(names)} columns; `task: {task}` needs one, `task: multilabel` several"
        )
    column = index.columns[names[0]]
    if labels.measured:
        return _numbers(column, names[0], key), names
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _texts(column, names[0], given)
    if pa.types.is_boolean(column.type):
        return _booleans(column, names[0], given)
    if given is not None and names[0] not in index.names:
        cells = _words(column, index.texts.get(names[0]))
        if pc.all(pc.is_in(cells.drop_null(), pa.array(given, cells.type)), min_count=0).as_py():
            return _texts(cells, names[0], given)
    numbers = _whole(column, names[0], key)
    if wrong := gaps_of(numbers):
        raise InputError.at(key, f"{names[0]!r} has {wrong}")
    return numbers, index.names.get(names[0])


def _words(column: Any, cells: Any) -> Any:
    """Labels that are numbers or times as texts, none where they are −1 or NaN.

    Args:
        column: typed.
        cells: the same as they are written, where that is known.
    """
    texts = column.cast(pa.string()) if cells is None else cells
    if pa.types.is_temporal(column.type):
        return texts
    numbers = column.cast(pa.float64())
    known = pc.and_not(pc.not_equal(numbers, float(UNLABELLED)), pc.is_nan(numbers))
    return pc.if_else(known, texts, pa.scalar(None, texts.type))


def _booleans(column: Any, name: str, given: tuple[str, ...] | None) -> Labels:
    """False and True in this order, or in that of the names, which have to be these two words."""
    if given is None:
        names = BOOLEANS
    else:
        word_of = {word.casefold(): word for word in given}
        if not word_of.keys() >= {word.casefold() for word in BOOLEANS}:
            check_known(given, BOOLEANS, name)
        names = tuple(word_of[word.casefold()] for word in BOOLEANS)
    texts = pc.if_else(column, names[1], names[0])
    return _texts(texts, name, given or names)


def _marks(index: Index, names: tuple[str, ...], key: str) -> np.ndarray:
    return np.stack([_whole(index.columns[name], name, key) for name in names], axis=1)


def _numbers(column: Any, name: str, key: str) -> np.ndarray:
    try:
        found = column.cast("float64")
    except pa.ArrowException as error:
        raise InputError.at(
            key, f"{name!r} has {column.type}: {error}; a regression needs numbers"
        ) from error
    values: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _whole(column: Any, name: str, key: str) -> np.ndarray:
    """Whole numbers, −1 where there is none."""
    if pa.types.is_temporal(column.type):
        first = column.drop_null()
        shown = f", e.g. {first[0].as_py()}" if len(first) else ""
        raise InputError.at(
            key, f"{name!r} has times ({column.type}{shown}); a label is a whole number or a text: take another column, or "
            "name each of its values in data.classes"
        )  # fmt: skip
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        filled = pc.fill_null(column.cast("int64"), UNLABELLED)
    except pa.ArrowException as error:
        raise InputError.at(
            key, f"{name!r} has {column.type}: {error}; needs whole numbers, or texts for classes (for values set "
            "`task: regression`)"
        ) from error  # fmt: skip
    values: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return values


def _texts(column: Any, name: str, given: tuple[str, ...] | None) -> Labels:
    found = sorted(pc.unique(column.drop_null()).to_pylist())
    if given is not None:
        check_known(given, found, name)
    classes = tuple(found) if given is None else given
    indices = pc.fill_null(
        pc.index_in(column, value_set=pa.array(classes, column.type)), UNLABELLED
    )
    return indices.to_numpy(zero_copy_only=False).astype(np.int64), classes


def grouping(column: Any, name: str, key: str) -> np.ndarray:
    """A column that samples are split or sliced by [N]: numbers, texts or times.

    Args:
        column: as it was read.
        name: its name.
        key: of the recipe, that names it.

    Raises:
        InputError: a sample has none, or it is something else.
    """
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if column.null_count:
        raise InputError.at(
            key,
            f"{column.null_count} of {len(column)} samples have no {name!r}; every sample needs one",
        )
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise InputError.at(key, f"{name!r} has {column.type}; needs numbers, texts or times")
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype(str) if values.dtype.kind == "O" else values


def given_parts(splits: Any, order: np.ndarray) -> dict[str, np.ndarray] | None:
    """Rows of each part that a source brings.

    Args:
        splits: [N] texts, or None.
        order: int64, the sample of each row.
    """
    if splits is None:
        return None
    names = splits.to_numpy(zero_copy_only=False)[order]
    return {part: np.flatnonzero(names == part) for part in PARTS if (names == part).any()}


def _problem(field: str, message: str) -> InputError:
    return InputError.at(f"{TABLE}.{field}", message)
