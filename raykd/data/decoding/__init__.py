"""Sources that may be larger than memory: decoded once into a file, which every process then maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.config.data import BadSamples, Data
from raykd.config.places import cache_root
from raykd.config.sources import CsvSource, FilesSource, ObjectSource, ParquetSource
from raykd.data.class_names import given_names
from raykd.data.dataset import Dataset, ids_of_texts
from raykd.data.decoding.cache import (
    HASH_BYTES,
    Decode,
    Mark,
    Target,
    check_room,
    digest_of,
    finish,
    kept_order,
    locked,
    read_manifest,
    read_mark,
)
from raykd.data.decoding.columns import Known
from raykd.data.decoding.csv_tables import index_csv
from raykd.data.decoding.images import FOLDER, index_images
from raykd.data.decoding.kept_index import forget_index, keep_index, read_index
from raykd.data.decoding.labels import (
    given_parts,
    grouping,
    joined,
    labels_of,
    read_table,
)
from raykd.data.decoding.layout import Index, Part, Required, columns_of
from raykd.data.decoding.tables import index_hf, index_parquet, index_rows
from raykd.data.decoding.webdataset import CLS, index_webdataset
from raykd.data.decoding.writing import decoded_blocks, in_process, write_part
from raykd.data.mapped import open_mapped
from raykd.data.objects import Arrays
from raykd.disks import writing
from raykd.errors import InputError
from raykd.objects import held

__all__ = [
    "Decode",
    "Mark",
    "Part",
    "Target",
    "Tell",
    "forget_index",
    "in_process",
    "index_files",
    "load_decoded",
    "load_files",
    "write_part",
]

Check = Callable[[Dataset], object]
Tell = Callable[[int, int], None]
"""Is told of samples decoded, and of all there are."""
_INDEX: Mapping[str, Callable[[Any, Required], Index]] = {
    "parquet": index_parquet,
    "csv": index_csv,
    "images": index_images,
    "webdataset": index_webdataset,
    "hf": index_hf,
    "object": index_rows,
}
SLICES = "evaluate.slices"
_OWN_LABEL = {"images": FOLDER, "webdataset": CLS}
_NAMED = 5


def load_files(source: FilesSource | ObjectSource, task: str) -> Dataset:
    """The samples of a source of files, or of an object, with all other settings of `data` at their defaults."""
    return load_decoded(Data(source=source), task)


def index_files(source: FilesSource | ObjectSource, known: Known = None) -> Index:
    """The samples of a source of files, or of a table of this process, without labels, and where each lies.

    Args:
        source: the files.
        known: of each column of a table's inputs the words that it may hold, None of one of numbers.

    Raises:
        InputError: a file is missing, damaged, or lacks a column.
    """
    if isinstance(source, CsvSource):
        return index_csv(source, {}, known)
    if isinstance(source, ObjectSource):
        return index_rows(source, {}, known)
    if isinstance(source, ParquetSource):
        return index_parquet(source, {}, known)
    return _INDEX[type(source).model_fields["type"].default](source, {})


def load_decoded(
    data: Data,
    task: str,
    decode: Decode = in_process,
    tell: Tell | None = None,
    check: Check | None = None,
    columns: Sequence[str] = (),
) -> Dataset:
    """The samples of a source of files, decoded unless they were before; or of an object of this process.

    Args:
        data: the recipe's `data`.
        task: what the labels are for.
        decode: what decodes the parts that are not there.
        tell: is told of progress.
        check: looks at the samples, all zero as yet, before decoding begins; raises what is wrong with them.
        columns: that the samples are to have beside the one they are split by.

    Raises:
        InputError: the source, its labels, or too many samples that cannot be decoded.
        DataError: samples cannot be read or written.
    """
    if isinstance(data.source, ObjectSource):
        return _of_process(data, data.source, task, columns)
    found = _found(data, task, columns)
    index = found.index
    digest = index.digest or digest_of(data.source.type, index)
    target = Target(cache_root(data) / digest, index.layout, len(index))
    bad = read_manifest(target)
    if bad is None:
        shape = (len(index), *index.layout.shape)
        blank = found.dataset(np.broadcast_to(np.uint8(0), shape), np.arange(len(index)))
        if check is not None:
            check(blank)
        with locked(target):
            bad = read_manifest(target)
            if bad is None:
                bad = _decode(target, index, data.bad_samples, decode, tell)
    _check_bad(bad, index, data.bad_samples)
    keep_index(data, found.required, found.alone, digest)
    order = kept_order(len(index), bad)
    inputs = open_mapped(target.inputs, index.layout.dtype, (len(order), *index.layout.shape))
    hashes = open_mapped(target.hashes, "<u8", (len(order),))
    return found.dataset(inputs, order, hashes=hashes, left_out=tuple(_names(index, bad)))


def _of_process(data: Data, source: ObjectSource, task: str, columns: Sequence[str]) -> Dataset:
    """The samples of an object that this process holds; a table is decoded in memory."""
    content = held(source.fingerprint, source.describes, key="data.source").value
    if isinstance(content, Dataset):
        return content
    if isinstance(content, Arrays):
        return content.dataset(task)
    found = _found(data, task, columns)
    index, row = found.index, 0
    values: list[np.ndarray] = []
    bad: dict[int, str] = {}
    for part in index.parts:
        for block, wrong in decoded_blocks(part, index.layout):
            bad |= {row + place: why for place, why in wrong.items()}
            values.append(block)
            row += len(block)
    _check_bad(bad, index, data.bad_samples)
    order = kept_order(len(index), bad)
    left_out = tuple(_names(index, bad))
    return found.dataset(np.concatenate(values)[order], order, left_out=left_out)


@dataclass(frozen=True, eq=False)
class _Found:
    """A source's samples with their labels.

    `required` are the columns that the source itself had to have, and `alone` is its index without those of a table.
    """

    index: Index
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    columns: Mapping[str, np.ndarray]
    task: str
    required: Required
    alone: Index

    def dataset(
        self,
        inputs: np.ndarray,
        order: np.ndarray,
        *,
        hashes: np.ndarray | None = None,
        left_out: tuple[str, ...] = (),
    ) -> Dataset:
        """Rows in this order (int64, the sample of each)."""
        return Dataset(
            inputs={self.index.layout.input: inputs},
            labels=None if self.labels is None else self.labels[order],
            ids=self._ids[order],
            splits=given_parts(self.index.splits, order),
            classes=self.classes,
            task=self.task,
            columns={name: column[order] for name, column in self.columns.items()},
            hashes=hashes,
            left_out=left_out,
            features=self._features,
            words=self._words,
            unused=self.index.unused,
            user_ids=self.index.ids.take(pa.array(order)),
            notes=self.index.notes,
        )

    @cached_property
    def _ids(self) -> np.ndarray:
        """Sample ids, int64."""
        numbers = self.index.numbers
        return ids_of_texts(self.index.ids.to_pylist()) if numbers is None else numbers

    @property
    def _words(self) -> dict[str, tuple[str, ...]]:
        pairs = zip(self._features, self.index.layout.words, strict=False)
        return {name: words for name, words in pairs if words is not None}

    @property
    def _features(self) -> tuple[str, ...]:
        numbers, parts = self.index.layout.kind == "numbers", self.index.parts
        names: tuple[str, ...] = getattr(parts[0].place, "columns", ()) if numbers and parts else ()
        return names if (len(names),) == self.index.layout.shape else ()


def _found(data: Data, task: str, more: Sequence[str]) -> _Found:
    source = data.source
    assert isinstance(source, FilesSource | ObjectSource), "other sources are small enough to load"
    asked = _asked(data, more)
    index, alone, label, required = _index(data, asked)
    labels, classes = labels_of(index, source, label, task, given_names(data.classes))
    columns = {name: grouping(index.columns[name], name, key) for name, key in asked.items()}
    return _Found(index, labels, classes, columns, task, required, alone)


def _asked(data: Data, more: Sequence[str]) -> dict[str, str]:
    """Column that samples are split or sliced by -> the key that names it."""
    by = {} if data.splits.by is None else {data.splits.by.column: "data.splits.by.column"}
    return dict.fromkeys(more, SLICES) | by


def _index(data: Data, asked: Mapping[str, str]) -> tuple[Index, Index, tuple[str, ...], Required]:
    """The samples with all columns, the same without those of a table, the label's columns, and the source's own.

    Args:
        data: of a source of files.
        asked: column beside those of the label -> the key that names it.
    """
    source: Any = data.source
    table = None if source.labels is None else read_table(source.labels)
    label = columns_of(source.label or _OWN_LABEL.get(source.type))
    required = {} if table is not None else dict.fromkeys(label, "data.source.label")
    in_table = [] if table is None else [name for name in asked if name in table.column_names]
    required |= {name: key for name, key in asked.items() if name not in in_table}
    index = read_index(data, required) or _INDEX[source.type](source, required)
    if table is None:
        return index, index, label, required
    label = columns_of(source.labels.column)
    names = tuple(dict.fromkeys([*label, *in_table]))
    return joined(index, source.labels, table, names), index, label, required


def _decode(
    target: Target, index: Index, tolerated: BadSamples, decode: Decode, tell: Tell | None
) -> dict[int, str]:
    """Decode the parts that are not there; index in the source -> why a sample cannot be."""
    marks = {part.number: read_mark(target, part) for part in index.parts}
    there = [mark for mark in marks.values() if mark is not None]
    done = sum(mark.count for mark in there)
    check_room(target, done)
    for path, size in ((target.inputs, target.layout.row_bytes), (target.hashes, HASH_BYTES)):
        with writing(path, target.count * size), path.open("ab") as file:
            file.truncate(target.count * size)
    bad = {index: why for mark in there for index, why in mark.bad.items()}
    lacking = [part for part in index.parts if marks[part.number] is None]
    if tell is not None:
        tell(done, target.count)
    if lacking:
        for mark in decode(target, lacking):
            bad |= mark.bad
            done += mark.count
            _check_bad(bad, index, tolerated)
            if tell is not None:
                tell(done, target.count)
    assert done == target.count, f"{done} of {target.count} samples were decoded"
    finish(target, bad)
    return bad


def _names(index: Index, bad: Mapping[int, str]) -> list[str]:
    return [f"{index.ids[row].as_py()} ({bad[row]})" for row in sorted(bad)]


def _check_bad(bad: Mapping[int, str], index: Index, tolerated: BadSamples) -> None:
    allowed = int(tolerated.max_fraction * len(index)) if tolerated.policy == "skip" else 0
    if len(bad) <= allowed:
        return
    names = _names(index, bad)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise InputError.at(
        f"data.bad_samples.{'max_fraction' if tolerated.policy == 'skip' else 'policy'}",
        f"{len(bad)} of {len(index):,} samples cannot be decoded, allowed are {allowed}: "
        f"{', '.join(names[:_NAMED])}{more}; mend or remove them, or allow more",
    )
