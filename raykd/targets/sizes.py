"""How many bytes the target store will take, to the byte, before anything is written.

Names, digests and fingerprints have fixed lengths, so the size of a file follows from its shapes alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np

from raykd.targets.entries import EntryKey, manifest_text
from raykd.targets.packing import Arrays
from raykd.targets.ragged import UNIT_OFFSETS
from raykd.targets.shards import KEYS, Shard, file_name, metadata_of

_DIGEST = "0" * 32
_LENGTH = 8
_ALIGNED = 8
_IN_ORDER = {
    "uint64": "U64",
    "int64": "I64",
    "float32": "F32",
    "uint32": "U32",
    "float16": "F16",
    "uint16": "U16",
    "int8": "I8",
}
"""The kinds of numbers as safetensors orders and names them; arrays of one kind go by their names."""


def shard_bytes(
    key: EntryKey, view: int, rows: int, answer: Arrays, units: int | None = None
) -> int:
    """Bytes of a shard's file, header included.

    Args:
        key: of the entry that it belongs to.
        view: of all its rows.
        rows: how many.
        answer: a teacher's encoded answer for one unit, name -> [1, ...].
        units: of all rows; None where each sample is one.
    """
    ids, hashes = KEYS
    kept = {ids: np.zeros(1, np.int64), hashes: np.zeros(1, np.uint64), **key.of(answer)}
    counts = {ids: rows, hashes: rows}
    if units is not None:
        kept[UNIT_OFFSETS] = np.zeros(1, np.int64)
        counts[UNIT_OFFSETS] = rows + 1
    begin = 0
    header: dict[str, Mapping[str, object]] = {"__metadata__": metadata_of(key.to_json(), view)}
    kinds = list(_IN_ORDER)
    for name in sorted(kept, key=lambda name: (kinds.index(kept[name].dtype.name), name)):
        array = kept[name]
        count = counts.get(name, rows if units is None else units)
        end = begin + count * array.nbytes
        header[name] = {
            "dtype": _IN_ORDER[array.dtype.name],
            "shape": [count, *array.shape[1:]],
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return _LENGTH + math.ceil(len(text.encode()) / _ALIGNED) * _ALIGNED + begin


def manifest_bytes(key: EntryKey, shards: Iterable[tuple[int, int]]) -> int:
    """Bytes of the manifest of an entry.

    Args:
        key: the entry's.
        shards: view and rows of each.
    """
    listed = [Shard(file_name(view, _DIGEST), view, rows, _DIGEST) for view, rows in shards]
    return len(manifest_text(key, listed).encode())
