"""Image folders and tar shards: samples that are stretches of bytes in files."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.config.sources import FilesSource, ImagesSource, WebdatasetSource
from raykd.data.decoding.layout import File, Index, Layout, Spans, span_parts
from raykd.data.decoding.listing import IMAGES, KEY, list_files
from raykd.data.decoding.pixels import BREAKS, decode_image
from raykd.errors import DataError, InputError, Problem

FOLDER = "folder"
"""Column of an image folder: the first folder of each path."""
CLS = "cls"
"""Column of tar shards: what is in a sample's `.cls`."""
_TRIED = 16
_CHANNELS = {"RGB": 3, "L": 1}
Wanted = Mapping[str, str]
"""Column that a source is to have -> the dotted key that asks for it."""


def index_images(source: ImagesSource, wanted: Wanted) -> Index:
    """Every image below a folder.

    Raises:
        InputError: there is none, none can be decoded, or a column is asked for that a folder has not.
    """
    _check_columns(wanted, [FOLDER], "an image folder has the column")
    files = list_files(source.path, IMAGES)
    count = len(files)
    spans = Spans(
        tuple(file.path for file in files),
        np.arange(count),
        np.zeros(count, np.int64),
        np.full(count, -1),
    )
    names = [file.name for file in files]
    loose = [name for name in names if "/" not in name]
    if FOLDER in wanted and loose:
        raise InputError.at(
            wanted[FOLDER], f"{len(loose)} images lie in no sub-folder (e.g. {loose[0]}), which would be "
            "their class; move them, or give data.source.labels"
        )  # fmt: skip
    folders = pa.array([name.partition("/")[0] for name in names])
    layout = _layout(source, spans)
    return Index(pa.array(names), files, layout, span_parts(spans, layout), {FOLDER: folders})


def index_webdataset(source: WebdatasetSource, wanted: Wanted) -> Index:
    """Every sample of some tar shards that has an image.

    Raises:
        InputError: a shard is damaged, there is no sample, or a column is asked for that none has.
    """
    files = list_files(source.path, ("tar",))
    ids: list[str] = []
    places: list[tuple[int, int, int]] = []
    told: list[Mapping[str, Any]] = []
    for number, file in enumerate(files):
        for key, offset, length, fields in _samples(file):
            ids.append(f"{file.name}/{key}")
            places.append((number, offset, length))
            told.append({name: fields.get(name) for name in wanted})
    if not ids:
        raise InputError.at(
            KEY, f"no sample of {len(files)} shards has an image ({', '.join(IMAGES)})"
        )
    columns = {
        name: _column([one[name] for one in told], name, key) for name, key in wanted.items()
    }
    file_N, offset_N, length_N = np.array(places, np.int64).T
    spans = Spans(tuple(file.path for file in files), file_N, offset_N, length_N)
    layout = _layout(source, spans)
    return Index(pa.array(ids), files, layout, span_parts(spans, layout), columns)


def _check_columns(wanted: Wanted, there: Sequence[str], what: str) -> None:
    problems = [
        Problem(
            key, f"found {name!r}; {what} {', '.join(there)}; give others by data.source.labels"
        )
        for name, key in wanted.items()
        if name not in there
    ]
    if problems:
        raise InputError(problems)


def _samples(file: File) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Key, offset and length of the image, and fields of each sample of a shard."""
    key, image, fields = "", None, dict[str, Any]()
    try:
        with tarfile.open(file.path, "r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                own = f"{folder}/{stem}" if folder else stem
                if own != key:
                    if image is not None:
                        yield key, *image, fields
                    key, image, fields = own, None, {}
                suffix = suffix.lower()
                if suffix in IMAGES:
                    image = (member.offset_data, member.size)
                elif suffix in (CLS, "json"):
                    payload = shard.extractfile(member)
                    assert payload is not None, "a regular file has a payload"
                    fields |= _fields(suffix, payload.read(), f"{file.name}/{own}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError.at(
            KEY, f"{file.path} is no whole tar file ({error}); fetch it again. Compressed ones have to be unpacked"
        ) from error  # fmt: skip
    if image is not None:
        yield key, *image, fields


def _fields(suffix: str, payload: bytes, name: str) -> dict[str, Any]:
    try:
        if suffix == CLS:
            text = payload.decode().strip()
            return {CLS: int(text) if text.lstrip("-").isdecimal() else text}
        found = json.loads(payload)
    except ValueError as error:
        raise InputError.at(KEY, f"{name}.{suffix} cannot be read: {error}; mend it") from error
    return found if isinstance(found, dict) else {}


def _column(values: Sequence[Any], name: str, key: str) -> Any:
    if all(value is None for value in values):
        raise InputError.at(
            key, f"no sample has {name!r}; a shard's samples have .{CLS}, and the fields of their .json"
        )  # fmt: skip
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError.at(
            key, f"{name!r} is of several kinds ({error}); make it numbers or texts"
        ) from error


def _layout(source: FilesSource, spans: Spans) -> Layout:
    return image_layout(source, (read_span(spans, row) for row in range(len(spans.file_N))))


def image_layout(source: FilesSource, encoded: Iterator[bytes | None]) -> Layout:
    """How images are decoded; where no size is given, that of the first one which can be.

    Raises:
        InputError: none of the first ones can be decoded.
    """
    if source.size is not None:
        shape = (_CHANNELS[source.mode], source.size, source.size)
        return Layout("image", shape, "|u1", source.mode, source.size)
    why = "there is none"
    for payload, _ in zip(encoded, range(_TRIED), strict=False):
        try:
            shape = decode_image(payload, source.mode, None).shape
        except BREAKS as error:
            why = str(error)
            continue
        return Layout("image", shape, "|u1", source.mode)
    raise InputError.at(
        KEY, f"none of the first {_TRIED} images can be decoded ({why}); mend them, or set data.source.size"
    )  # fmt: skip


def read_span(spans: Spans, row: int) -> bytes:
    """The bytes of a sample.

    Raises:
        DataError: its file cannot be read, or ends before it.
    """
    path = Path(spans.paths[spans.file_N[row]])
    offset, length = int(spans.offset_N[row]), int(spans.length_N[row])
    try:
        with path.open("rb") as file:
            file.seek(offset)
            payload = file.read(length)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read here: {error}; every node needs to see data.source.path"
        ) from error
    if len(payload) < length:
        raise DataError(
            f"{path} ends before byte {offset + length:,}; it was changed meanwhile: start again"
        )
    return payload
