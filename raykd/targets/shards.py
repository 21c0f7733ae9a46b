"""Shard files of the target store: safetensors, read by memory map, checked by xxh3.

A shard is written under a temporary name, synced and renamed, so that no reader sees a part of one. It
carries the key of the entry that it was made for, so that it is known also in a wrong place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save

from raykd.disks import read_pieces, write_whole
from raykd.errors import DiskError, TargetError
from raykd.targets.packing import Arrays
from raykd.targets.ragged import UNIT_OFFSETS, joined, samples_in, taken

KEYS = ("ids", "hashes")
"""Arrays of a shard that say which samples its rows are of."""
SHARD_ROWS = 16_384
"""Rows of a shard, at most."""
SHARD_BYTES = 256 * 2**20
"""Of a shard's answers, at most; a single row may have more."""
_DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "I8": np.int8,
    "U16": np.uint16,
    "U32": np.uint32,
    "I64": np.int64,
    "U64": np.uint64,
}
_LONGEST_HEADER = 1 << 20
_ORIGIN = "raykd"  # one entry of metadata: safetensors writes several in no fixed order


@dataclass(frozen=True)
class Shard:
    """One file of targets, as the manifest lists it.

    Attributes:
        file: name inside the entry's folder.
        view: the view that all its rows belong to.
        rows: number of rows.
        xxh3: checksum of the whole file, hexadecimal.
    """

    file: str
    view: int
    rows: int
    xxh3: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def write_shard(
    folder: Path,
    view: int,
    arrays: Mapping[str, np.ndarray],
    origin: Mapping[str, Any] | None = None,
) -> Shard:
    """Write `arrays` (all with the same number of rows, `ids` among them) as one shard.

    The name is that of the content, so that writing the same rows twice gives one file.

    Args:
        folder: the entry's.
        view: of all rows.
        arrays: name -> [rows, ...].
        origin: the entry's key as plain values, written into the file.

    Raises:
        TargetError: the disk is full or cannot be written.
    """
    metadata = None if origin is None else metadata_of(origin, view)
    payload = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    digest = xxhash.xxh3_128_hexdigest(payload)
    name = file_name(view, digest)
    write_file(folder / name, [payload])
    return Shard(file=name, view=view, rows=len(arrays["ids"]), xxh3=digest)


def in_shards(parts: Iterable[Arrays]) -> Iterator[Arrays]:
    """Answers that come piece by piece as answers for one shard each, of at most `SHARD_ROWS` and `SHARD_BYTES`.

    How large a row is follows from the first piece.
    """
    held: list[Arrays] = []
    count = most = 0
    for arrays in parts:
        held.append(arrays)
        count += samples_in(arrays)
        size = sum(array.nbytes for array in arrays.values())
        most = most or rows_of_a_shard(size / max(1, samples_in(arrays)))
        while count >= most:
            whole = joined(held)
            yield taken(whole, np.arange(most))
            held = [taken(whole, np.arange(most, count))]
            count -= most
    if count:
        yield joined(held)


def rows_of_a_shard(row_bytes: float) -> int:
    """How many rows of so many bytes go into a shard."""
    return max(1, min(SHARD_ROWS, int(SHARD_BYTES / max(1.0, row_bytes))))


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of the store, which is there wholly or not at all, whenever the writer ends.

    Raises:
        TargetError: the disk is full or cannot be written; what was there before is as it was.
    """
    try:
        write_whole(path, pieces)
    except DiskError as error:
        raise unwritable(error) from error


def unwritable(error: DiskError) -> TargetError:
    """The error of a store whose disk is full, or cannot be written."""
    return TargetError(
        f"the target store cannot be written: {error.what}; make room (`raykd targets prune` deletes what is not used), or set "
        "targets.store to a folder on another disk; all that was finished before is kept, and --resume goes on from it"
    )


def metadata_of(origin: Mapping[str, Any], view: int) -> dict[str, str]:
    """What a shard's file says of itself, beside its arrays."""
    return {_ORIGIN: json.dumps({**origin, "view": view})}


def file_name(view: int, digest: str) -> str:
    """Name of a shard's file, from the view and the checksum of its content."""
    return f"{_prefix(view)}{digest[:16]}.safetensors"


def _prefix(view: int) -> str:
    return f"view{view:+06d}-"


def check_shard(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a shard's file, or None when its checksum holds; reads all of it."""
    path = folder / shard.file
    if path.name != shard.file or not path.is_file():
        return f"shard {shard.file!r} is missing"
    digest = xxhash.xxh3_128()
    for chunk in read_pieces(path):
        digest.update(chunk)
    if (found := digest.hexdigest()) == shard.xxh3:
        return None
    return (
        f"shard {shard.file!r} is damaged: its {path.stat().st_size:,} bytes have the checksum {found}, "
        f"not the manifest's {shard.xxh3}"
    )


def map_shard(
    folder: Path, shard: Shard, origin: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a shard as read-only memory maps.

    Args:
        folder: the entry's.
        shard: as the manifest lists it.
        origin: the entry's key as plain values, which is held against what the file says.

    Raises:
        TargetError: the header is not that of a shard with this many rows, or of this view and entry.
    """
    path = folder / shard.file
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            raise TargetError(f"shard {shard.file!r}: header of {size} bytes is refused")
        raw = file.read(size)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", None) or {}
        whole = np.memmap(path, np.uint8, "r")[8 + size :]
        arrays = {name: _part(whole, entry) for name, entry in header.items()}
        _check_rows(arrays, shard.rows)
        written = json.loads(metadata[_ORIGIN]) if _ORIGIN in metadata else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise TargetError(f"shard {shard.file!r}: its header is refused ({error})") from error
    if missing := {*KEYS} - arrays.keys():
        raise TargetError(f"shard {shard.file!r} lacks {', '.join(sorted(missing))}")
    _check_origin(shard, origin, written)
    return arrays


def _check_origin(
    shard: Shard, origin: Mapping[str, Any] | None, written: Mapping[str, Any] | None
) -> None:
    if not shard.file.startswith(_prefix(shard.view)):
        raise TargetError(
            f"shard {shard.file!r} is not of view {shard.view}, which the manifest lists it under"
        )
    if origin is None or written is None:  # written by an early version
        return
    expected = {**origin, "view": shard.view}
    differing = [
        f"{name} is {written.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if written.get(name) != value
    ]
    if differing:
        raise TargetError(
            f"shard {shard.file!r} was made for other targets: {'; '.join(differing)}"
        )


def _check_rows(arrays: Mapping[str, np.ndarray], rows: int) -> None:
    """Each array has as many rows as there are samples, or units of them."""
    offsets = arrays.get(UNIT_OFFSETS)
    units = rows
    if offsets is not None:
        if offsets.shape != (rows + 1,) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets {list(offsets.shape)} of {rows} rows do not rise from 0")
        units = int(offsets[-1])
    for name, array in arrays.items():
        if name != UNIT_OFFSETS and len(array) != (rows if name in KEYS else units):
            raise ValueError(f"{name} {list(array.shape)} for {rows} rows of {units} units")


def _part(whole: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """One array of a file, whose data are mapped once: a process may have so many maps and no more."""
    shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if not shape or begin < 0 or end - begin != size or end > len(whole):
        raise ValueError(f"{entry['dtype']} {list(shape)} at {begin} to {end}")
    return whole[begin:end].view(dtype).reshape(shape)
