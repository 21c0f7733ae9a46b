"""Data that the user's own process holds: tables of any library, arrays, torch data sets; nothing is imported for them.

An object is told by the library that its class is from. What comes of it is `Rows`, a table of pyarrow, or `Arrays`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from raykd.config.base import TEXT_BYTES
from raykd.data.dataset import PARTS, Dataset
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.objects import Held, digest_of, hold, is_of, library_of, named
from raykd.types import TEXT

ROW = "__row__"
"""Column with the number of a row, where a table has neither ids nor an index."""
_KEY = "data.source"
_NAMES = ("inputs", "labels", "ids", "splits", "classes", "weights", "columns")
_ALLOWED = (
    "a raykd.data.Dataset, a table of pandas, polars, pyarrow or datasets, (inputs, labels), {inputs: ..., labels: ...}, a "
    "torch Dataset, or {train: ONE, test: ONE}"
)
_LABEL, _ID = "label", "id"


@dataclass(frozen=True, eq=False)
class Rows:
    """A table.

    Attributes:
        table: of pyarrow, with plain columns.
        splits: [N], pyarrow array of `train`, `validation`, `test`; None = to be drawn.
    """

    table: Any
    splits: Any = None


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays of numpy as `Dataset` takes them, by the names of its fields, all but the task."""

    fields: Mapping[str, Any]

    def dataset(self, task: str) -> Dataset:
        """Checked; see `Dataset`."""
        return Dataset(**self.fields, task=task)


def hold_source(given: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Held]:
    """Settings of type `object` for data of this process, and the data, held.

    Args:
        given: a table, arrays, a torch data set, or one of these for each part.
        settings: what the user says beside the object.

    Raises:
        InputError: it is something else, or has no samples.
    """
    content = rows_or_arrays(given, settings.get("length", TEXT_BYTES))
    words, plain = _in_words(given), dict(settings)
    if isinstance(content, Rows):
        for key, name in (("label", _LABEL), ("id", _ID), ("id", ROW)):
            if key not in plain and name in content.table.column_names:
                plain[key] = name
        if plain.get("id") != ROW and ROW in content.table.column_names:
            content = Rows(content.table.drop_columns([ROW]), content.splits)
        fingerprint, count = _digest(content), content.table.num_rows
    elif extra := sorted(set(plain) - {"length"}):
        raise InputError.at(f"{_KEY}.{extra[0]}", f"is for tables; found {words}: leave it out")
    else:
        if isinstance(content, Dataset):
            fields = {name: getattr(content, name) for name in _NAMES}
        else:
            fields = dict(content.fields)
        fingerprint, count = digest_of(fields), len(_first(fields["inputs"]))
    held = hold(fingerprint, content)
    return {**plain, "type": "object", "fingerprint": fingerprint,
            "describes": f"{words}, {count:,} samples"}, held  # fmt: skip


def _in_words(given: Any) -> str:
    """The class of what was given; of arrays, and of parts, that of the first one."""
    if isinstance(given, tuple) and given:
        return _in_words(given[0])
    if isinstance(given, Mapping) and given:
        parts = f" ({', '.join(given)})" if set(given) <= set(PARTS) else ""
        return _in_words(given.get("inputs", next(iter(given.values())))) + parts
    return named(type(given))


def rows_or_arrays(given: Any, length: int = TEXT_BYTES) -> Rows | Arrays | Dataset:
    """What the user's data are, whichever library they are of.

    Args:
        given: a table, arrays, texts, a torch data set, or one of these for each part.
        length: bytes that are kept of each text that is in no table.

    Raises:
        InputError: they are of none that is known.
    """
    if isinstance(given, Dataset):
        return given
    if isinstance(given, Mapping) and given and set(given) <= set(PARTS):
        return _of_parts({part: rows_or_arrays(one, length) for part, one in given.items()})
    if is_table(given):
        return Rows(arrow_table(given))
    if isinstance(given, Mapping) and "inputs" in given:
        if unknown := sorted(set(given) - set(_NAMES)):
            raise InputError.at(
                f"{_KEY}.{unknown[0]}", f"is unknown; known are {', '.join(_NAMES)}"
            )
        return _of_arrays(**given, length=length)
    if isinstance(given, tuple) and 1 <= len(given) <= 2:
        return _of_arrays(*given, length=length)
    if hasattr(given, "__array__") or _is_texts(given):
        return _of_arrays(given, length=length)
    if is_of(given, "torch") and hasattr(given, "__getitem__"):
        return _of_torch(given, length)
    raise InputError.at(_KEY, f"found an object of {named(type(given))}; give {_ALLOWED}")


def is_table(given: Any) -> bool:
    """Whether it is a table of pandas, polars, pyarrow or datasets."""
    kind = type(given).__name__
    tables = ("DataFrame", "LazyFrame", "Table", "RecordBatch", "Dataset")
    return library_of(given) in ("pandas", "polars", "pyarrow", "datasets") and kind in tables


def arrow_table(given: Any) -> Any:
    """A table of any library as one of pyarrow, with columns of plain types and its index as a column.

    Raises:
        InputError: a column is of a type that Arrow does not know.
    """
    import pyarrow as pa

    library = library_of(given)
    try:
        if library == "pandas":
            table = _of_pandas(given)
        elif library == "polars":
            table = (given.collect() if hasattr(given, "collect") else given).to_arrow()
        elif library == "datasets":
            table = _of_datasets(given)
        else:
            table = given if isinstance(given, pa.Table) else pa.Table.from_batches([given])
    except (pa.ArrowException, TypeError) as error:
        raise InputError.at(_KEY, f"{named(type(given))} cannot be read: {error}") from error
    plain = [_plain(table[name]) for name in table.column_names]
    names = [str(name) for name in table.column_names]
    found = pa.table(plain, names=names)
    if _ID not in names and ROW not in names:
        found = found.append_column(ROW, pa.array(np.arange(len(found))))
    about = (table.schema.metadata or {}).get(b"huggingface")
    return found.replace_schema_metadata(None if about is None else {b"huggingface": about})


def _of_pandas(frame: Any) -> Any:
    """With an index that somebody has made as ids."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    own = type(frame.index).__name__ != "RangeIndex" and frame.index.is_unique
    if own and frame.index.nlevels == 1 and _ID not in table.column_names:
        return table.append_column(ROW, pa.Array.from_pandas(frame.index))
    return table


def _of_datasets(dataset: Any) -> Any:
    """With the names of its classes."""
    table = dataset.with_format("arrow")[:]
    names = {
        name: {"names": list(feature.names), "_type": "ClassLabel"}
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    about = json.dumps({"info": {"features": names}}).encode()
    return table.replace_schema_metadata({b"huggingface": about})


def _plain(column: Any) -> Any:
    """A column of values, not of codes, views or decimals."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    return column.cast(pa.float64()) if pa.types.is_decimal(kind) else column


def _digest(rows: Rows) -> str:
    """Hash of a table's content and the names of its columns and classes."""
    import pyarrow as pa

    digest = xxhash.xxh3_128()
    named_table = rows.table if rows.splits is None else rows.table.append_column("", rows.splits)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, named_table.schema) as stream:
        stream.write_table(named_table.combine_chunks())
    digest.update(memoryview(sink.getvalue()))
    return digest.hexdigest()


def _of_parts(parts: Mapping[str, Rows | Arrays | Dataset]) -> Rows | Arrays:
    """One after the other, with the part that each sample is of."""
    import pyarrow as pa

    tables = [one.table for one in parts.values() if isinstance(one, Rows)]
    if len(tables) == len(parts):
        if all(ROW in one.column_names for one in tables):
            tables = _numbered(tables)
        try:
            whole = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            raise InputError.at(_KEY, f"the parts have other columns: {error}") from error
        splits = [part for part, one in zip(parts, tables, strict=True) for _ in range(len(one))]
        return Rows(whole, pa.array(splits))
    every = [one.fields for one in parts.values() if isinstance(one, Arrays)]
    if len(every) < len(parts) or any(set(one) != set(every[0]) for one in every):
        raise InputError.at(
            _KEY, "the parts are of different kinds; give tables, arrays or torch data sets in all"
        )
    sizes = np.cumsum([0, *(len(_first(one["inputs"])) for one in every)])
    merged = {name: _merged(name, [one[name] for one in every]) for name in every[0]}
    rows = zip(parts, sizes[:-1], sizes[1:], strict=True)
    return Arrays({**merged, "splits": {part: np.arange(low, high) for part, low, high in rows}})


def _numbered(tables: Sequence[Any]) -> list[Any]:
    """Rows counted over all parts, where each part counted from 0."""
    import pyarrow as pa

    found, first = [], 0
    for one in tables:
        place = one.column_names.index(ROW)
        counted = one[ROW].to_pylist() == list(range(len(one)))
        numbers = pa.array(np.arange(first, first + len(one)))
        found.append(one.set_column(place, ROW, numbers) if counted else one)
        first += len(one)
    return found


def _merged(name: str, values: Sequence[Any]) -> Any:
    if name == "classes":
        if any(one != values[0] for one in values):
            raise InputError.at(
                f"{_KEY}.classes", f"differ from part to part: {values[0]} and others"
            )
        return values[0]
    if isinstance(values[0], Mapping):
        return {key: np.concatenate([one[key] for one in values]) for key in values[0]}
    return np.concatenate(values)


def _of_arrays(inputs: Any, labels: Any = None, *, length: int = TEXT_BYTES, **more: Any) -> Arrays:
    """Arrays, tensors or lists; labels that are texts become classes in the order of the alphabet."""
    fields: dict[str, Any] = {"inputs": _inputs(inputs, length)}
    if labels is not None:
        fields |= _labels(_array(labels))
    for name, value in more.items():
        if value is not None:
            fields[name] = _field(name, value)
    return Arrays(fields)


def _field(name: str, value: Any) -> Any:
    if name == "classes":
        return tuple(str(one) for one in value)
    if name == "columns":
        return {key: _array(one) for key, one in value.items()}
    if name != "splits":
        return _array(value)
    if isinstance(value, Mapping):
        return {part: _array(rows) for part, rows in value.items()}
    parts = _array(value).astype(str)
    return {part: np.flatnonzero(parts == part) for part in PARTS if (parts == part).any()}


def _inputs(given: Any, length: int) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping):
        return {name: _array(one) for name, one in given.items()}
    if _is_texts(given):
        return {TEXT: encode_texts([str(one) for one in given], length)}
    return {"inputs": _known(_array(given))}


def _is_texts(given: Any) -> bool:
    """Whether it is a sequence of texts, such as a column of a table."""
    if isinstance(given, str) or not hasattr(given, "__len__") or not len(given):
        return False
    first = next(iter(given))
    return isinstance(first, str)


def _array(given: Any) -> np.ndarray:
    if is_of(given, "torch"):
        return np.asarray(given.detach().cpu())
    return np.asarray(given)


def _known(array: np.ndarray) -> np.ndarray:
    """Numbers of a dtype that samples may have."""
    if array.dtype.kind in ("b", "u") and array.dtype != np.uint8:
        return array.astype(np.float32)
    return array.astype(np.int32) if array.dtype.kind == "i" and array.dtype.itemsize < 4 else array


def _labels(labels: np.ndarray) -> dict[str, Any]:
    if labels.dtype.kind not in ("O", "U", "b") or (
        labels.dtype.kind == "O" and not _is_texts(labels)
    ):
        return {"labels": labels}
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    return {"labels": numbers.astype(np.int64), "classes": tuple(names.tolist())}


def _first(inputs: Any) -> Any:
    return next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs


def _of_torch(dataset: Any, length: int) -> Arrays:
    """Every sample of a map-style torch data set: (input, label), or an input alone.

    Raises:
        InputError: it is empty or without a length, its samples are no arrays, or differ when they are read again.
    """
    what = named(type(dataset))
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise InputError.at(_KEY, f"{what} has no length, or no sample; give a map-style data set")
    samples = [dataset[index] for index in range(len(dataset))]
    pairs = [one if isinstance(one, tuple | list) else (one,) for one in samples]
    if any(len(one) not in (1, 2) for one in pairs):
        raise InputError.at(
            _KEY, f"a sample of {what} has {len(pairs[0])} parts; needs (input, label), or an input"
        )
    inputs = [_sample(one[0], what) for one in pairs]
    again = dataset[0]
    again = again[0] if isinstance(again, tuple | list) else again
    if not isinstance(again, str) and not np.array_equal(_sample(again, what), inputs[0]):
        raise InputError.at(
            _KEY, f"the first sample of {what} differs when it is read again, so that teachers and student would see "
            "different ones; take random transforms out, and set data.views.policy instead"
        )  # fmt: skip
    shapes = {np.shape(one) for one in inputs}
    if len(shapes) > 1:
        raise InputError.at(
            _KEY, f"samples of {what} have shapes {sorted(shapes)[:3]}; make them one"
        )
    labels = [_label(one[1]) for one in pairs if len(one) > 1] or None
    whole = inputs if isinstance(inputs[0], str) else np.stack(inputs)
    found = dict(_of_arrays(whole, labels, length=length).fields)
    classes = getattr(dataset, "classes", None)
    if classes is not None and "classes" not in found:
        found["classes"] = tuple(str(name) for name in classes)
    return Arrays(found)


def _sample(value: Any, what: str) -> Any:
    """A text, or an array; an image of Pillow with its channels first."""
    if isinstance(value, str):
        return value
    pixels = library_of(value) == "PIL"
    array = _array(value)
    if array.dtype.kind not in ("b", "i", "u", "f"):
        raise InputError.at(
            _KEY,
            f"a sample of {what} is {named(type(value))}; needs an array, a tensor or an image",
        )
    if pixels:
        return array[None] if array.ndim == len("HW") else array.transpose(2, 0, 1)
    return array


def _label(value: Any) -> Any:
    return value if isinstance(value, str) else _array(value)
