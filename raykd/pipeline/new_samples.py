"""New samples for a student, read from the files that people have by the readers that training has.

Shapes: N samples, D columns of a table, L bytes of a text.
"""

from __future__ import annotations

import csv
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raykd.config.base import TEXT_BYTES
from raykd.config.sources import CsvSource, FilesSource, HfSource, ObjectSource, ParquetSource
from raykd.data.arrays import refuse_bomb
from raykd.data.decoding import index_files
from raykd.data.decoding.columns import Known
from raykd.data.decoding.layout import Index, columns_of, list_files
from raykd.data.decoding.writing import decoded_blocks
from raykd.data.objects import ROW, Arrays, Rows, rows_or_arrays
from raykd.data.texts import encode_texts
from raykd.errors import DataError, InputError, Problem
from raykd.export.description import Description, Input
from raykd.objects import hold
from raykd.pipeline.new_images import categories_of, has_images, read_images
from raykd.tasks import find_task
from raykd.types import TEXT

KEY = "DATA"
_HERE = "the table"
_ID = "id"
_TABLES = (".csv", ".tsv", ".txt")
_DELIMITERS = (",", "\t", ";", "|")
_TABLE_AXES = len(("N", "D"))
_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


_Read = tuple[np.ndarray, np.ndarray, dict[int, str]]
"""Ids and values of all rows, and row -> what is wrong with it."""


@dataclass(frozen=True, eq=False)
class NewSamples:
    """Samples that a student is asked about.

    Attributes:
        ids: [N], as the file has them; the number of the row where it has none.
        values: [N, ...] in the space of the student's source; of texts uint8 [N, L].
        left_out: rows of the file that are no sample, and why, in words.
        sizes: width and height of each image's file, where images were read for a detector; else None.
        category_of: class -> category id, where a COCO file of categories was read; else None.
    """

    ids: np.ndarray
    values: np.ndarray
    left_out: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] | None = None
    category_of: Mapping[int, int] | None = None


def read_new(about: Description, path: Path) -> NewSamples:
    """The samples of a file or folder, as a student takes them.

    Args:
        about: the student's description.
        path: `.npz`, `.npy`, `.csv`, `.tsv`, `.txt` or `.parquet`, in any case of letters; or what the student's own
            source reads, such as a folder of images.

    Raises:
        InputError: there is nothing, it is damaged or of another kind, it lacks a column, or no row is left.
    """
    if not path.exists():
        raise InputError.at(KEY, f"no file at {path}; check the path")
    suffix = path.suffix.lower()
    if find_task(about.task).settings.boxes and has_images(path):
        return _of_images(about, path)
    if suffix in (".npz", ".npy"):
        found = _of_arrays(path, suffix, acts=find_task(about.task).settings.acts)
    elif suffix == ".txt" and about.input.dtype == "uint8":
        found = _of_lines(path, about.input.shape[0])
    else:
        found = _of_source(about, _reading(about.input, path, suffix))
    return _kept(about, found, str(path))


def _of_images(about: Description, path: Path) -> NewSamples:
    """Images for a detector."""
    ids, values, bad, sizes = read_images(about, path)
    new = _kept(about, (ids, values, bad), str(path))
    own = tuple(size for place, size in enumerate(sizes) if place not in bad)
    return replace(new, sizes=own, category_of=categories_of(path, about.classes))


def _kept(about: Description, found: _Read, where: str) -> NewSamples:
    """The samples without rows that are none."""
    ids, values, bad = found
    bad = {**_gaps(values, about), **bad}
    kept = np.setdiff1d(np.arange(len(ids)), list(bad))
    left_out = tuple(_rows(bad, ids))
    if not len(kept):
        raise InputError.at(
            KEY, f"{where}: no row is left: {'; '.join(left_out[:3]) or 'it has none'}"
        )
    return NewSamples(ids[kept], values[kept], left_out)


def given_new(about: Description, given: Any) -> NewSamples:
    """The samples of a table, arrays, texts or a torch data set of this process, as a student takes them.

    Raises:
        InputError: it is none of them, it lacks a column, or no row is left.
    """
    length = about.input.shape[0] if about.input.dtype == "uint8" else TEXT_BYTES
    try:
        content = rows_or_arrays(given, length)
    except InputError as error:
        raise _about_data(error) from error
    if isinstance(content, Rows):
        names = content.table.column_names
        held = hold(secrets.token_hex(16), content)
        columns = _columns(about.input, _HERE, [name for name in names if name != ROW])
        columns["id"] = columns["id"] or next((name for name in (ROW,) if name in names), None)
        source = ObjectSource(fingerprint=held.fingerprint, describes="a table", **columns)
        _, values, bad = _of_source(about, source)
        named = columns["id"]
        ids = np.arange(len(values)) if named is None else content.table[named].to_numpy()
        return _kept(about, (ids, values, bad), _HERE)
    fields = content.fields if isinstance(content, Arrays) else vars(content)
    inputs, ids = fields["inputs"], fields.get("ids")
    if len(inputs) > 1:
        raise InputError.at(KEY, f"found inputs {', '.join(inputs)}; the student takes one")
    (values,) = inputs.values()
    return _kept(about, (np.arange(len(values)) if ids is None else ids, values, {}), "the arrays")


def _of_arrays(path: Path, suffix: str, *, acts: bool) -> _Read:
    try:
        ids, values = _read_npz(path, acts=acts) if suffix == ".npz" else _read_npy(path)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError.at(KEY, f"{path} cannot be read as plain arrays: {error}") from error
    if values.ndim < _TABLE_AXES or not len(values) or len(ids) != len(values):
        shapes = f"{list(values.shape)} values and {list(ids.shape)} ids"
        raise InputError.at(KEY, f"{path} holds {shapes}; needs [N, ...] and [N]")
    return ids, values, {}


def _read_npz(path: Path, *, acts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids and values; those of a student that acts may be the observations of a transitions file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            refuse_bomb(packed, path, key=KEY)
    with np.load(path, allow_pickle=False) as archive:
        known = ("inputs", "observations") if acts else ("inputs",)
        name = next((one for one in known if one in archive), None)
        if name is None:
            raise KeyError(f"no array {' or '.join(map(repr, known))} in {archive.files}")
        values = archive[name]
        return (archive["ids"] if "ids" in archive else np.arange(len(values))), values


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if zipfile.is_zipfile(path):
        raise ValueError("it is an archive of several arrays; call it .npz")
    values = np.load(path, allow_pickle=False)
    return np.arange(len(values)), values


def _of_lines(path: Path, length: int) -> _Read:
    """A text in each line."""
    try:
        with path.open(
            encoding="utf-8-sig"
        ) as file:  # `splitlines` also breaks at U+2028 and others
            texts = [line.rstrip("\n") for line in file]
    except (OSError, ValueError) as error:
        raise InputError.at(KEY, f"{path} cannot be read as texts: {error}") from error
    if not texts:
        raise InputError.at(KEY, f"{path} holds no text")
    return np.arange(len(texts)), encode_texts(texts, length), {}


def _reading(taken: Input, path: Path, suffix: str) -> FilesSource:
    """The settings by which a file or folder is read: those of the student's own source where it is of its kind."""
    own = taken.source
    if suffix in _TABLES or (path.is_dir() and isinstance(own, CsvSource)):
        return _csv(taken, path)
    if suffix == ".parquet" or (path.is_dir() and isinstance(own, ParquetSource)):
        return _parquet(taken, path)
    if own is None or isinstance(own, CsvSource | ParquetSource):
        raise InputError.at(KEY, f"found {path}; needs .npz, .npy, .csv, .tsv, .txt or .parquet")
    return own.model_copy(update={"path": str(path), "label": None, "labels": None})


def _of_source(about: Description, source: FilesSource | ObjectSource) -> _Read:
    """Everything that a source of files, or a table of this process, has, decoded here and now."""
    try:
        index = index_files(source, _known_words(about, source))
        values, bad = _decoded(index)
    except (InputError, DataError) as error:
        raise _about_data(error) from error
    ids = np.array(index.ids.cast(pa.string()).to_pylist())
    if isinstance(source, CsvSource | ParquetSource) and source.id is None:
        ids = np.arange(len(ids))
    return ids, values, bad


def _about_data(error: InputError | DataError) -> InputError:
    if isinstance(error, DataError):
        return InputError.at(KEY, str(error))
    return InputError([Problem(KEY, problem.message) for problem in error.problems])


def _decoded(index: Index) -> tuple[np.ndarray, dict[int, str]]:
    """All samples in memory, and place -> what is wrong with one."""
    blocks: list[np.ndarray] = []
    bad: dict[int, str] = {}
    row = 0
    for part in index.parts:
        for values, wrong in decoded_blocks(part, index.layout):
            blocks.append(values)
            bad |= {row + place: why for place, why in wrong.items()}
            row += len(values)
    return np.concatenate(blocks), bad


def _rows(bad: Mapping[int, str], ids: np.ndarray) -> Iterator[str]:
    for row in sorted(bad):
        name = "" if ids.dtype.kind in "iu" else f" (id {ids[row]})"
        yield f"row {row + 1:,}{name}: {bad[row]}"


def _csv(taken: Input, path: Path) -> CsvSource:
    own = taken.source if isinstance(taken.source, CsvSource) else None
    names, delimiter = _header(path, _trained(taken), "," if own is None else own.delimiter)
    return CsvSource(path=str(path), delimiter=delimiter, **_columns(taken, path, names))


def _parquet(taken: Input, path: Path) -> ParquetSource:
    own = taken.source
    names = _schema_names(path)
    if len(taken.shape) > 1 and isinstance(own, ParquetSource | HfSource):
        shown = {"size": own.size, "mode": own.mode, "inputs": own.inputs}
        return ParquetSource(path=str(path), id=_id_column(taken, names), **shown)
    return ParquetSource(path=str(path), **_columns(taken, path, names))


def _trained(taken: Input) -> tuple[str, ...]:
    """The columns that it was trained on; none where no table brought them."""
    text = getattr(taken.source, "text", None)
    return taken.columns if text is None else (text,)


def _id_column(taken: Input, names: Sequence[str]) -> str | None:
    """That of the training data, or one called `id`, where the file has it."""
    own = getattr(taken.source, "id", None)
    inputs = _trained(taken)
    return next((name for name in (own, _ID) if name in names and name not in inputs), None)


def _columns(taken: Input, path: Path | str, names: Sequence[str]) -> dict[str, Any]:
    """What of a table's columns is the sample, and what its id, as settings of its source.

    Raises:
        InputError: a column that the student takes is not there.
    """
    key, trained = _id_column(taken, names), _trained(taken)
    others = tuple(name for name in names if name != key)
    if taken.dtype == "uint8":
        return {"id": key, "text": _text_column(path, trained, others), "length": taken.shape[0]}
    if lacking := [name for name in trained if name not in names]:
        raise InputError.at(
            KEY, f"{path} lacks the columns {', '.join(lacking)}; it has {', '.join(names)}, and the student takes "
            f"{', '.join(trained)}"
        )  # fmt: skip
    return {"id": key, "inputs": trained or others}


def _text_column(path: Path | str, trained: Sequence[str], names: Sequence[str]) -> str:
    """The column that was trained on; else the only one; where none is known, the one called `text`."""
    for name in trained or (TEXT,):
        if name in names:
            return name
    if len(names) != 1:
        wanted = trained[0] if trained else TEXT
        raise InputError.at(
            KEY, f"{path} has the columns {', '.join(names)}; call that of the texts {wanted!r}"
        )
    return names[0]


def _header(path: Path, wanted: Sequence[str], trained: str) -> tuple[list[str], str]:
    """Names of a text file's columns, and what stands between its cells: what makes most of the columns wanted."""
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix.lower() in _TABLES)
    )
    if not files:
        raise InputError.at(KEY, f"{path} has no .csv, .tsv or .txt file")
    try:
        with files[0].open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
    except (OSError, ValueError) as error:
        raise InputError.at(KEY, f"{files[0]} cannot be read: {error}") from error
    found = [
        (next(csv.reader([first], delimiter=one), []), one)
        for one in dict.fromkeys((trained, *_DELIMITERS))
    ]
    return max(
        found, key=lambda pair: (len(set(wanted) & set(pair[0])), not wanted and len(pair[0]))
    )


def _schema_names(path: Path) -> list[str]:
    """Names of the columns of Parquet files."""
    try:
        return list(pq.read_schema(list_files(str(path), ("parquet",))[0].path).names)
    except InputError as error:
        raise _about_data(error) from error
    except (pa.ArrowException, OSError) as error:
        raise InputError.at(KEY, f"{path} cannot be read: {error}") from error


def _known_words(about: Description, source: FilesSource | ObjectSource) -> Known:
    """Of each column of a table the words that the student knows; None of one of numbers."""
    if not isinstance(source, CsvSource | ParquetSource | ObjectSource) or source.text is not None:
        return None
    table = about.preprocessing.table
    words = {} if table is None else {one.column: one.words for one in table.words}
    return [
        words.get(index, ()) if name in about.input.words else None
        for index, name in enumerate(columns_of(source.inputs))
    ]


def _gaps(values: np.ndarray, about: Description) -> dict[int, str]:
    """Rows of a table whose gaps the student does not fill -> what is empty."""
    filled = about.preprocessing.table is not None
    if filled or values.ndim != _TABLE_AXES or values.dtype.kind != "f":
        return {}
    gaps_ND = np.isnan(values)
    names = about.input.columns or tuple(map(str, range(values.shape[1])))
    return {
        row: f"{names[int(gaps_ND[row].argmax())]!r} is empty, and no training sample had a gap"
        for row in np.flatnonzero(gaps_ND.any(axis=1)).tolist()
    }
