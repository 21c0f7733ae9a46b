"""Shard files of the target store: safetensors, read by memory map, checked by xxh3.

A shard is written under a temporary name, synced and renamed, so that no reader sees a part of one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save

from raykd.errors import TargetError

_DTYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "U64": np.uint64}
_LONGEST_HEADER = 1 << 20


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


def write_shard(folder: Path, view: int, arrays: Mapping[str, np.ndarray]) -> Shard:
    """Write `arrays` (all with the same number of rows, `ids` among them) as one shard.

    The name is that of the content, so that writing the same rows twice gives one file.
    """
    payload = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    digest = xxhash.xxh3_128_hexdigest(payload)
    name = f"view{view:+06d}-{digest[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / name)
    return Shard(file=name, view=view, rows=len(arrays["ids"]), xxh3=digest)


def check_shard(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a shard's file, or None when its checksum holds."""
    path = folder / shard.file
    if path.name != shard.file or not path.is_file():
        return f"shard {shard.file!r} is missing"
    if xxhash.xxh3_128_hexdigest(path.read_bytes()) != shard.xxh3:
        return f"shard {shard.file!r} is damaged: its checksum is not the manifest's {shard.xxh3}"
    return None


def map_shard(folder: Path, shard: Shard) -> dict[str, np.ndarray]:
    """The arrays of a shard as read-only memory maps.

    Raises:
        TargetError: the header is not that of a shard with this many rows.
    """
    path = folder / shard.file
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            raise TargetError(f"shard {shard.file!r}: header of {size} bytes is refused")
        raw = file.read(size)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        arrays = {n: _map(path, 8 + size, entry, shard.rows) for n, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise TargetError(f"shard {shard.file!r}: its header is refused ({error})") from error
    if missing := {"ids", "hashes"} - arrays.keys():
        raise TargetError(f"shard {shard.file!r} lacks {', '.join(sorted(missing))}")
    return arrays


def _map(path: Path, base: int, entry: Mapping[str, Any], rows: int) -> np.ndarray:
    shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if not shape or shape[0] != rows or begin < 0 or end - begin != size:
        raise ValueError(f"{entry['dtype']} {list(shape)} for {rows} rows at {begin} to {end}")
    return np.memmap(path, dtype=dtype, mode="r", offset=base + begin, shape=shape)
