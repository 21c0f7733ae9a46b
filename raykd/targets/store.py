"""The target store: what each teacher says of each sample and view, computed once.

A store is a folder of entries. An entry belongs to one (teacher fingerprint, views, taps, codec) and
holds shards of rows keyed by (sample id, content hash, view) and a manifest, which is written last. Labels
and splits are not part of any key: the same teacher's answers serve every budget, objective and trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raykd.errors import TargetError
from raykd.targets import codec
from raykd.targets.entries import MANIFEST, ORIGINAL, Entry, EntryKey, append, read_manifest
from raykd.targets.shards import KEYS, Shard, check_shard, map_shard
from raykd.types import ORIGINAL_VIEW, TeacherOutputs


@dataclass(frozen=True)
class Report:
    """Result of `verify`.

    Attributes:
        shards: shards read.
        rows: rows in them.
        bytes: size of their files.
        problems: what is wrong, naming entry and shard; empty when all is well.
    """

    shards: int
    rows: int
    bytes: int
    problems: tuple[str, ...]


@dataclass
class _Index:
    """Where each row of the data lies in the shards of one view."""

    shards: list[dict[str, np.ndarray]]
    shard_N: np.ndarray
    position_N: np.ndarray


@dataclass
class TargetStore:
    """Reads the targets of several teachers for one data set: one gather answers a whole batch.

    Attributes:
        root: the store's folder.
        entries: teacher name -> its entry for augmented views.
        originals: teacher name -> its entry for the untransformed samples.
        ids_N: int64, sample ids in the data's row order.
        hashes_N: uint64, content hashes in the same order.
        temperatures: teacher name -> at which its logits are going to be used, 1 where none is given; it
            matters where classes were left out.
    """

    root: Path
    entries: Mapping[str, Entry]
    originals: Mapping[str, Entry]
    ids_N: np.ndarray
    hashes_N: np.ndarray
    temperatures: Mapping[str, float] = field(default_factory=dict)
    _indices: dict[tuple[str, int], _Index] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | Path,
        keys: Mapping[str, tuple[EntryKey, EntryKey]],
        ids_N: np.ndarray,
        hashes_N: np.ndarray,
        temperatures: Mapping[str, float] | None = None,
    ) -> TargetStore:
        """Open the entries of some teachers; `keys` gives (views, originals) for each name.

        Raises:
            TargetError: a manifest is damaged or belongs to other targets.
        """
        root = Path(path)
        return cls(
            root=root,
            entries={name: Entry(root, views) for name, (views, _) in keys.items()},
            originals={name: Entry(root, originals) for name, (_, originals) in keys.items()},
            ids_N=ids_N,
            hashes_N=hashes_N,
            temperatures=temperatures or {},
        )

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the data that have these sample ids.

        Raises:
            TargetError: an id is not in the data.
        """
        order = np.argsort(self.ids_N)
        places = np.searchsorted(self.ids_N[order], ids)
        rows = order[np.minimum(places, len(order) - 1)]
        if (unknown := ids[self.ids_N[rows] != ids]).size:
            raise TargetError(
                f"{unknown.size} sample ids are not in the data, {unknown[0]} among them"
            )
        return np.asarray(rows, np.int64)

    def gather(self, rows: np.ndarray, view: int | np.ndarray) -> TeacherOutputs:
        """What every teacher says of these rows in this view (or in one view per row).

        Raises:
            TargetError: the store lacks an answer, or a shard is damaged.
        """
        return {
            name: codec.decode(
                self.gather_arrays(name, rows, view), self.temperatures.get(name, 1.0)
            )
            for name in self.entries
        }

    def gather_arrays(self, name: str, rows: np.ndarray, view: int | np.ndarray) -> codec.Arrays:
        """The encoded answer of one teacher, in the order of `rows`."""
        views = np.unique(view)
        if views.size == 1:
            return self._gather_view(name, rows, int(views[0]))
        parts = [(np.flatnonzero(view == v), int(v)) for v in views]
        answers = [self._gather_view(name, rows[places], v) for places, v in parts]
        if any(answer.keys() != answers[0].keys() for answer in answers):
            raise TargetError(
                f"store {self.root}: what teacher {name!r} says of views and of untransformed samples is encoded "
                "differently; ask for them apart"
            )
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        return {key: np.concatenate([a[key] for a in answers])[order] for key in answers[0]}

    def _gather_view(self, name: str, rows: np.ndarray, view: int) -> codec.Arrays:
        index = self._index(name, view)
        position_N = index.position_N[rows]
        if (absent := position_N < 0).any():
            raise TargetError(
                f"store {self.root}: teacher {name!r} has no answer for {int(absent.sum())} of {rows.size} "
                f"rows in view {view} (sample id {self.ids_N[rows[absent][0]]} among them)"
            )
        names = [
            key
            for key in index.shards[0]
            if key not in KEYS and all(key in shard for shard in index.shards)
        ]
        if len(index.shards) == 1:
            return {key: np.asarray(index.shards[0][key][position_N]) for key in names}
        shard_N = index.shard_N[rows]
        arrays = {}
        for key in names:
            first = index.shards[0][key]
            out = np.empty((rows.size, *first.shape[1:]), first.dtype)
            for number in np.unique(shard_N):
                here = shard_N == number
                out[here] = index.shards[number][key][position_N[here]]
            arrays[key] = out
        return arrays

    def _index(self, name: str, view: int) -> _Index:
        if (name, view) not in self._indices:
            entry = self.originals[name] if view == ORIGINAL_VIEW else self.entries[name]
            shards = [entry.arrays(shard) for shard in entry.shards if shard.view == view]
            if not shards:
                raise TargetError(
                    f"store {self.root}: teacher {name!r} has no targets for view {view}"
                )
            row_of_id = {int(key): row for row, key in enumerate(self.ids_N)}
            shard_N = np.full(len(self.ids_N), -1, np.int32)
            position_N = np.full(len(self.ids_N), -1, np.int64)
            for number, arrays in enumerate(shards):
                rows = np.array(
                    [row_of_id.get(key, -1) for key in arrays["ids"].tolist()], np.int64
                )
                ours = np.flatnonzero(rows >= 0)
                ours = ours[arrays["hashes"][ours] == self.hashes_N[rows[ours]]]
                shard_N[rows[ours]], position_N[rows[ours]] = number, ours
            self._indices[name, view] = _Index(shards, shard_N, position_N)
        return self._indices[name, view]

    def size_bytes(self) -> int:
        """Bytes of all shards of these teachers."""
        return sum(
            (entry.folder / shard.file).stat().st_size
            for entry in (*self.entries.values(), *self.originals.values())
            for shard in entry.shards
        )

    def verify(self) -> Report:
        """Read every shard wholly and hold it against its checksum and its entry."""
        return verify_entries([*self.entries.values(), *self.originals.values()])


def verify_entries(entries: Sequence[Entry]) -> Report:
    """Read every shard of some entries wholly; what is wrong names entry and shard."""
    problems, shards, rows, size = [], 0, 0, 0
    for entry in entries:
        for shard in entry.shards:
            shards, rows = shards + 1, rows + shard.rows
            if problem := _problem_of(entry, shard):
                problems.append(f"{entry.folder.name}: {problem}")
            else:
                size += (entry.folder / shard.file).stat().st_size
    return Report(shards, rows, 0 if problems else size, tuple(problems))


def _problem_of(entry: Entry, shard: Shard) -> str | None:
    if problem := check_shard(entry.folder, shard):
        return problem
    try:
        map_shard(entry.folder, shard, entry.key.to_json())
    except TargetError as error:
        return str(error)
    return None


def describe(root: Path) -> list[dict[str, Any]]:
    """The key and size of every entry in a store.

    Raises:
        TargetError: a manifest is damaged.
    """
    found = []
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        key, shards = read_manifest(path)
        rows = sum(shard.rows for shard in shards)
        found.append({**key.to_json(), "folder": path.parent.name, "rows": rows})
    return found


__all__ = [
    "ORIGINAL",
    "Entry",
    "EntryKey",
    "Report",
    "TargetStore",
    "append",
    "describe",
    "verify_entries",
]
