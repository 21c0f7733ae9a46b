"""Labels, splits and columns of an index, as a `Dataset` wants them.

Shapes: N samples, K labels of a sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raykd.config.sources import FilesSource, LabelTable, ObjectSource
from raykd.data.class_names import check_known
from raykd.data.dataset import PARTS
from raykd.data.decoding.csv_tables import read_csv
from raykd.data.decoding.layout import Index, columns_of
from raykd.data.decoding.tables import plain_column
from raykd.errors import InputError
from raykd.tasks import find_task
from raykd.types import UNLABELLED

TABLE = "data.source.labels"
Labels = tuple[np.ndarray | None, tuple[str, ...] | None]
"""Labels and names of the outputs, where there are some."""


def read_table(table: LabelTable) -> Any:
    """A table of labels, as a pyarrow table whose keys are texts.

    Raises:
        InputError: it is missing, damaged, lacks a column, or has a key twice.
    """
    path = Path(table.path).expanduser()
    if path.suffix not in (".csv", ".parquet") or not path.is_file():
        raise _problem(
            "path", f"found {path} (in {Path.cwd()}); needs a .csv or .parquet file that is there"
        )
    try:
        found = pq.read_table(path) if path.suffix == ".parquet" else read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise _problem("path", f"{path} cannot be read: {error}") from error
    for field, names in (("key", (table.key,)), ("column", columns_of(table.column))):
        if lacking := [name for name in names if name not in found.column_names]:
            there = ", ".join(found.column_names)
            raise _problem(field, f"{path} has no column {lacking[0]!r}; it has {there}")
    found = found.filter(pc.is_valid(found[table.key]))
    keys = found[table.key].cast("string")
    if (twice := len(keys) - pc.count_distinct(keys).as_py()) > 0:
        counts = pc.value_counts(keys.combine_chunks())
        worst = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise _problem("key", f"{path} has {twice} keys twice (e.g. {worst}); each needs one row")
    return found.set_column(found.column_names.index(table.key), table.key, keys)


def joined(table: Any, key: str, names: tuple[str, ...], ids: Any) -> dict[str, Any]:
    """Columns of a table in the order of the samples; null where it lacks one.

    Raises:
        InputError: it knows none of the samples.
    """
    indices = pc.index_in(ids.cast("string"), value_set=table[key].combine_chunks())
    if indices.null_count == len(indices):
        raise _problem(
            "key",
            f"no sample's id is in the column {key!r}: samples are called e.g. {ids[0].as_py()!r}, the table has "
            f"{table[key][0].as_py()!r}; take the column with the samples' ids",
        )
    return {name: plain_column(table, name).take(indices) for name in names}


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
        InputError: the columns are of another kind than the task needs, or a text is not among the names.
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
    return _whole(column, names[0], key), index.names.get(names[0])


def _marks(index: Index, names: tuple[str, ...], key: str) -> np.ndarray:
    return np.stack([_whole(index.columns[name], name, key) for name in names], axis=1)


def _numbers(column: Any, name: str, key: str) -> np.ndarray:
    try:
        found = column.cast("float32")
    except pa.ArrowException as error:
        raise InputError.at(
            key, f"{name!r} has {column.type}: {error}; a regression needs numbers"
        ) from error
    values: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.float32)
    return values


def _whole(column: Any, name: str, key: str) -> np.ndarray:
    """Whole numbers, −1 where there is none."""
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
