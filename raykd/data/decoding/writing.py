"""Decode one part of a source into the file, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from raykd.data.decoding.cache import HASH_BYTES, Mark, Target
from raykd.data.decoding.columns import decode_cells
from raykd.data.decoding.csv_tables import read_lines
from raykd.data.decoding.images import decode_images, read_span
from raykd.data.decoding.layout import Decoded, Layout, Lines, Part, Spans
from raykd.data.decoding.rows import decode_lists, encoded_of, read_groups
from raykd.data.hashing import content_hashes
from raykd.data.texts import encode_texts
from raykd.disks import disk_error
from raykd.errors import DataError, DiskError
from raykd.folders import write_json


def in_process(target: Target, parts: Sequence[Part]) -> Iterator[Mark]:
    """One part after the other, here."""
    for part in parts:
        yield write_part(target, part)


def write_part(target: Target, part: Part) -> Mark:
    """Decode the samples of a part, block by block, each to its own place; then leave its mark.

    Raises:
        DataError: a file cannot be read, or the decoded samples cannot be written.
    """
    bad: dict[int, str] = {}
    row, size = part.first, target.layout.row_bytes
    try:
        inputs, hashes = (_open(path) for path in (target.inputs, target.hashes))
        try:
            for values, wrong in decoded_blocks(part, target.layout):
                bad |= {row + place: why for place, why in wrong.items()}
                _write(inputs, values, row * size)
                _write(hashes, content_hashes({target.layout.input: values}), row * HASH_BYTES)
                row += len(values)
            for descriptor in (inputs, hashes):
                os.fsync(descriptor)
        finally:
            os.close(inputs)
            os.close(hashes)
        if row != part.first + part.count:
            raise DataError(f"part {part.number} has {row - part.first} samples, not {part.count}: its files were "
                            "changed meanwhile; start again")  # fmt: skip
        named = {str(index): why for index, why in bad.items()}
        write_json(target.mark(part.number), {"bad": named}, durable=True)
    except (OSError, DiskError) as error:
        what = (
            error.what
            if isinstance(error, DiskError)
            else disk_error(target.folder, error, part.count * size).what
        )
        raise DataError(
            f"decoded samples cannot be written: {what}; set data.cache to a folder on another "
            "disk, or make room; parts that are finished are kept"
        ) from error
    return Mark(part.number, part.count, bad)


def decoded_blocks(part: Part, layout: Layout) -> Iterator[Decoded]:
    """The samples of a part in order, so many at a time as `layout` says."""
    place, step = part.place, layout.block_rows
    if isinstance(place, Spans):
        for start in range(0, part.count, step):
            rows = range(start, min(part.count, start + step))
            yield decode_images([read_span(place, row) for row in rows], layout)
        return
    of_table = read_lines(place, step) if isinstance(place, Lines) else read_groups(place, step)
    for columns in of_table:
        if layout.kind == "image":
            yield decode_images(encoded_of(columns[0]), layout)
        elif layout.kind == "text":
            yield encode_texts([one or "" for one in columns[0].to_pylist()], *layout.shape), {}
        elif layout.words:
            yield decode_cells(columns, place.columns, layout)
        else:
            yield decode_lists(columns[0], layout)


def _open(path: os.PathLike[str]) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _write(descriptor: int, values: np.ndarray, offset: int) -> None:
    payload = memoryview(np.ascontiguousarray(values).data).cast("B")
    while payload:
        written = os.pwrite(descriptor, payload, offset)
        payload, offset = payload[written:], offset + written
