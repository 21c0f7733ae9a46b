"""Tar shards: samples whose images are stretches of bytes in files."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.config.sources import WebdatasetSource
from raykd.data.decoding.images import span_layout
from raykd.data.decoding.layout import (
    IMAGES,
    KEY,
    File,
    Index,
    Required,
    Spans,
    list_files,
    span_parts,
)
from raykd.errors import InputError

CLS = "cls"
"""Column of tar shards: what is in a sample's `.cls`."""
_FIELDS = (CLS, "json")
_MOST_FIELD_BYTES = 16 * 2**20
_KINDS = {
    tarfile.LNKTYPE: "hard link", tarfile.SYMTYPE: "symbolic link", tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe", tarfile.GNUTYPE_SPARSE: "sparse file",
}  # fmt: skip


def index_webdataset(source: WebdatasetSource, required: Required) -> Index:
    """Every sample of some tar shards that has an image.

    Raises:
        InputError: a shard is damaged, there is no sample, or a column is asked for that none has.
    """
    files = list_files(source.path, ("tar",))
    ids: list[str] = []
    spans_of: list[tuple[int, int, int]] = []
    rows: list[Mapping[str, Any]] = []
    for number, file in enumerate(files):
        for key, offset, length, fields in _samples(file):
            ids.append(f"{file.name}/{key}")
            spans_of.append((number, offset, length))
            rows.append({name: fields.get(name) for name in required})
    if not ids:
        raise InputError.at(
            KEY, f"no sample of {len(files)} shards has an image ({', '.join(IMAGES)})"
        )
    columns = {
        name: _column([one[name] for one in rows], name, key) for name, key in required.items()
    }
    file_N, offset_N, length_N = np.array(spans_of, np.int64).T
    spans = Spans(tuple(file.path for file in files), file_N, offset_N, length_N)
    layout = span_layout(source, spans)
    return Index(pa.array(ids), files, layout, span_parts(spans, layout), columns)


def _samples(file: File) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Key, offset and length of the image, and fields of each sample of a shard."""
    key, image, fields = "", None, dict[str, Any]()
    try:
        with tarfile.open(file.path, "r:") as shard:
            for member in shard:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                suffix = suffix.lower()
                if suffix in (*IMAGES, *_FIELDS):
                    _check_member(member, file, suffix)
                if not member.isfile():
                    continue
                own = f"{folder}/{stem}" if folder else stem
                if own != key:
                    if image is not None:
                        yield key, *image, fields
                    key, image, fields = own, None, {}
                if suffix in IMAGES:
                    image = (member.offset_data, member.size)
                elif suffix in _FIELDS:
                    payload = shard.extractfile(member)
                    assert payload is not None, "a regular file has a payload"
                    fields |= _fields(suffix, payload.read(), f"{file.name}/{own}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError.at(
            KEY, f"{file.path} is no whole tar file ({error}); fetch it again. Compressed ones have to be unpacked"
        ) from error  # fmt: skip
    if image is not None:
        yield key, *image, fields


def _check_member(member: tarfile.TarInfo, file: File, suffix: str) -> None:
    """Whether a part of a sample has its own bytes in the shard, and not without end.

    Raises:
        InputError: it is a link, a device, a sparse file, or too long.
    """
    kind = "sparse file" if member.issparse() else _KINDS.get(member.type)
    where = f"{file.name} has {member.name!r}"
    if kind is not None:
        raise InputError.at(
            KEY, f"{where}, which is a {kind}; a sample's parts are plain files: pack the shard again with tar's options "
            "--dereference and --hard-dereference, or without it"
        )  # fmt: skip
    if suffix in _FIELDS and member.size > _MOST_FIELD_BYTES:
        raise InputError.at(
            KEY, f"{where} of {member.size:,} bytes; .{CLS} and .json have up to {_MOST_FIELD_BYTES:,}: take it out"
        )  # fmt: skip


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
