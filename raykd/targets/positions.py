"""Where each sample of the data lies in the shards of one view.

Of many samples the table is made once, beside the shards, and every process that reads maps it: its pages are in
memory once on a node, whatever the number of student processes.

Shapes: N samples of the data, S rows of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from raykd.disks import TEMPORARY, new_file
from raykd.errors import DiskError
from raykd.folders import lock_file

SHARED_FROM = 2**20
"""Samples from which on a table lies in a file."""
_FILE, _LOCK = f"{TEMPORARY}positions-", f"{TEMPORARY}positions.lock"
_ABSENT = -1


class SortedIds:
    """Rows of the data by sample id, found by binary search.

    Args:
        ids_N: int64, all different; where they rise already nothing is sorted or copied.
    """

    def __init__(self, ids_N: np.ndarray) -> None:
        rising = bool((ids_N[1:] > ids_N[:-1]).all())
        self._order = None if rising else np.argsort(ids_N)
        self._ids = ids_N if self._order is None else ids_N[self._order]

    def rows(self, ids_S: np.ndarray) -> np.ndarray:
        """The row of each of some ids, int64 [S]; −1 where the data have none of that id."""
        if not len(self._ids):
            return np.full(len(ids_S), _ABSENT, np.int64)
        places_S = np.minimum(np.searchsorted(self._ids, ids_S), len(self._ids) - 1)
        rows_S = places_S if self._order is None else self._order[places_S]
        return np.where(self._ids[places_S] == ids_S, rows_S, _ABSENT)

    def answered(
        self, shard: Mapping[str, np.ndarray], hashes_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the data that a shard has an answer for, with the same content, and their places in the shard.

        Args:
            shard: its arrays.
            hashes_N: uint64, the content hashes of the data.
        """  # fmt: skip
        rows_S = self.rows(shard["ids"])
        places = np.flatnonzero(rows_S >= 0)
        places = places[shard["hashes"][places] == hashes_N[rows_S[places]]]
        return rows_S[places], places


def positions(
    folder: Path,
    files: Sequence[str],
    shards: Sequence[Mapping[str, np.ndarray]],
    ids_N: np.ndarray,
    hashes_N: np.ndarray,
) -> np.ndarray:
    """The shard of each sample and its place there, int32 [2, N]; −1 of samples without an answer.

    Whoever changes the table changes a copy of its own.

    Args:
        folder: of the entry that the shards belong to.
        files: names of the shards, which tell their contents.
        shards: the arrays of each.
        ids_N: int64, sample ids in the data's row order, all different.
        hashes_N: uint64, content hashes in the same order.
    """
    shape = (2, len(ids_N))
    if len(ids_N) < SHARED_FROM:
        return _fill(np.empty(shape, np.int32), shards, ids_N, hashes_N)
    path = folder / (_FILE + _digest(files, ids_N, hashes_N))
    try:
        with lock_file(folder / _LOCK):  # processes that start together wait for the first one
            if not path.is_file():
                with new_file(path) as temporary:
                    made = np.memmap(temporary, np.int32, "w+", shape=shape)
                    _fill(made, shards, ids_N, hashes_N).flush()  # type: ignore[attr-defined]
                    del made
            return np.memmap(path, np.int32, "c", shape=shape)
    except (OSError, DiskError):  # a store that may only be read, or whose disk is full
        return _fill(np.empty(shape, np.int32), shards, ids_N, hashes_N)


def _fill(
    table: np.ndarray,
    shards: Sequence[Mapping[str, np.ndarray]],
    ids_N: np.ndarray,
    hashes_N: np.ndarray,
) -> np.ndarray:
    table[:] = _ABSENT
    ids = SortedIds(ids_N)
    for number, shard in enumerate(shards):
        rows, places = ids.answered(shard, hashes_N)
        table[0, rows], table[1, rows] = number, places
    return table


def _digest(files: Sequence[str], ids_N: np.ndarray, hashes_N: np.ndarray) -> str:
    digest = xxhash.xxh3_128("\n".join(files).encode())
    digest.update(np.ascontiguousarray(ids_N).data)
    digest.update(np.ascontiguousarray(hashes_N).data)
    return digest.hexdigest()
