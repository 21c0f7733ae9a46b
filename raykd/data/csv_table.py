"""A CSV file as samples: texts, or columns of numbers; labels, ids, and what samples are split by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from raykd.config.data import CsvSource
from raykd.config.tasks import TaskName
from raykd.data.dataset import Dataset
from raykd.data.decoding.labels import columns_of, labels_of, read_csv
from raykd.data.texts import encode_texts
from raykd.errors import InputError, Problem
from raykd.types import TEXT

_KEY = "data.source"


def load_csv(source: CsvSource, task: TaskName) -> Dataset:
    """Rows in the file's order; every other column that has a value in each row can be split by.

    Raises:
        InputError: the file is missing or damaged, or lacks a column, or a column is of another kind.
    """
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise _problem("path", f"there is no file {path} (in {Path.cwd()})")
    named = {
        "text": columns_of(source.text),
        "inputs": columns_of(source.inputs),
        "label": columns_of(source.label),
        "id": columns_of(source.id),
    }
    # A text may look like a number, and an id like one with leading zeros.
    texts = [*named["text"], *named["id"]]
    try:
        table = read_csv(path, texts=texts)
    except (pa.ArrowException, OSError) as error:
        raise _problem("path", f"{path} cannot be read as CSV with a header: {error}") from error
    _check(table, named, path)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    labels, classes = labels_of(columns, {}, named["label"], task, key=f"{_KEY}.label")
    taken = {name for names in named.values() for name in names}
    return Dataset(
        inputs=_inputs(columns, source),
        labels=labels,
        ids=None if source.id is None else _ids(columns[source.id]),
        classes=classes,
        task=task,
        columns={
            name: _plain(column)
            for name, column in columns.items()
            if name not in taken and not column.null_count
        },
    )


def _check(table: Any, named: dict[str, tuple[str, ...]], path: Path) -> None:
    there = ", ".join(table.column_names)
    problems = [
        Problem(f"{_KEY}.{field}", f"{path} has no column {name!r}; it has {there}")
        for field, names in named.items()
        for name in names
        if name not in table.column_names
    ]
    if not table.num_rows:
        problems.append(Problem(f"{_KEY}.path", f"{path} has no row below its header"))
    if problems:
        raise InputError(problems)


def _inputs(columns: dict[str, Any], source: CsvSource) -> dict[str, np.ndarray]:
    if source.text is not None:
        given = [text or "" for text in columns[source.text].to_pylist()]
        return {TEXT: encode_texts(given, source.length)}
    names = columns_of(source.inputs)
    return {"inputs": np.stack([_numbers(columns[name], name) for name in names], axis=1)}


def _numbers(column: Any, name: str) -> np.ndarray:
    if column.null_count:
        raise _problem(
            "inputs",
            f"{column.null_count} cells of {name!r} are empty; fill them, or leave them out",
        )
    try:
        found: np.ndarray = column.cast("float32").to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise _problem(
            "inputs",
            f"{name!r} has {column.type} ({error}); inputs are numbers, a text goes into `text`",
        ) from error
    return found


def _ids(column: Any) -> np.ndarray | Sequence[str]:
    """Whole numbers where all are, else texts."""
    if column.null_count:
        raise _problem("id", f"{column.null_count} rows have no id; each needs its own")
    texts: list[str] = column.to_pylist()
    plain = all(text.isascii() and text.isdecimal() and str(int(text)) == text for text in texts)
    return np.array([int(text) for text in texts]) if plain else texts


def _plain(column: Any) -> np.ndarray:
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype(str) if values.dtype.kind == "O" else values


def _problem(field: str, message: str) -> InputError:
    return InputError(Problem(f"{_KEY}.{field}", message))
