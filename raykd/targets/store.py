"""The target store: what each teacher says of each sample and view, computed once.

A store is a folder of entries. An entry belongs to one (teacher fingerprint, views, outputs or one tap,
codec) and holds shards of rows keyed by (sample id, content hash, view) and a manifest, which is written last. Labels
and splits are not part of any key: the same teacher's answers serve every budget, objective and trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from raykd.errors import TargetError
from raykd.folders import RunFolder, read_json
from raykd.targets import codec
from raykd.targets.entries import ORIGINAL, Entry, EntryKey, TeacherKeys, append
from raykd.targets.positions import SortedIds, positions
from raykd.targets.ragged import UNIT_OFFSETS, joined, taken
from raykd.targets.remote import Remote
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
    """Where each row of the data lies in the shards of one view.

    Attributes:
        shards: arrays of each.
        names: the arrays that all of them have, keys apart.
        shard_N, position_N: int32, see `positions`.
    """

    shards: list[dict[str, np.ndarray]]
    names: tuple[str, ...]
    shard_N: np.ndarray
    position_N: np.ndarray

    def add(self, shard: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """A shard more, whose rows are these rows of the data."""
        self.shard_N[rows] = len(self.shards)
        self.position_N[rows] = np.arange(len(rows))
        self.names = tuple(name for name in self.names if name in shard)
        self.shards.append(shard)


@dataclass
class TargetStore:
    """Reads the targets of several teachers for one data set: one gather answers a whole batch.

    Attributes:
        root: the store's folder.
        entries: teacher name -> its outputs in augmented views.
        features: teacher name -> its features in augmented views, an entry for each tap.
        originals: teacher name -> its entry for the untransformed samples.
        ids_N: int64, sample ids in the data's row order.
        hashes_N: uint64, content hashes in the same order.
        temperatures: teacher name -> at which its logits are going to be used, 1 where none is given; it
            matters where classes were left out.
        remote: the bucket that the folder is a mirror of.
    """

    root: Path
    entries: Mapping[str, Entry]
    features: Mapping[str, tuple[Entry, ...]]
    originals: Mapping[str, Entry]
    ids_N: np.ndarray
    hashes_N: np.ndarray
    temperatures: Mapping[str, float] = field(default_factory=dict)
    remote: Remote | None = None
    _indices: dict[tuple[str, int], _Index] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | Path,
        keys: Mapping[str, TeacherKeys] | None = None,
        ids_N: np.ndarray | None = None,
        hashes_N: np.ndarray | None = None,
        temperatures: Mapping[str, float] | None = None,
    ) -> TargetStore:
        """Open the entries of some teachers, or those that a run has read.

        Args:
            path: the store's folder; without `keys` that of a run. Rows are then places among the sample ids
                of its targets in ascending order, and of an id that stands for several contents one is taken.
            keys: teacher name -> what is wanted of it.
            ids_N: int64, sample ids in the data's row order.
            hashes_N: uint64, content hashes in the same order.
            temperatures: as the attribute.

        Raises:
            TargetError: a manifest is damaged or belongs to other targets, or the run has noted no targets.
        """
        root = Path(path)
        if keys is None:
            root, keys = _noted_in(root)
        if ids_N is None or hashes_N is None:
            ids_N, hashes_N = _scored(root, keys)
        return cls(
            root=root,
            entries={name: Entry(root, one.views) for name, one in keys.items()},
            features={
                name: tuple(Entry(root, key) for key in one.features) for name, one in keys.items()
            },
            originals={name: Entry(root, one.originals) for name, one in keys.items()},
            ids_N=ids_N,
            hashes_N=hashes_N,
            temperatures=temperatures or {},
        )

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the data that have these sample ids.

        Raises:
            TargetError: an id is not in the data.
        """
        rows = SortedIds(self.ids_N).rows(ids)
        if (unknown := ids[rows < 0]).size:
            raise TargetError(
                f"{unknown.size} sample ids are not in the data, {unknown[0]} among them"
            )
        return rows

    def holds(self, name: str, rows: np.ndarray, view: int) -> np.ndarray:
        """Of which rows it has all that a teacher says in an augmented view, its features included; bool [B]."""
        found = np.ones(len(rows), bool)
        for entry in (self.entries[name], *self.features[name]):
            if not any(shard.view == view for shard in entry.shards):
                return np.zeros(len(rows), bool)
            found &= self._index(entry, name, view).position_N[rows] >= 0
        return found

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
        return taken(joined(answers), order)

    def _gather_view(self, name: str, rows: np.ndarray, view: int) -> codec.Arrays:
        if view == ORIGINAL_VIEW:
            return self._gather_entry(self.originals[name], name, rows, view)
        found: codec.Arrays = {}
        for entry in (self.entries[name], *self.features[name]):
            found |= self._gather_entry(entry, name, rows, view)
        return found

    def _gather_entry(self, entry: Entry, name: str, rows: np.ndarray, view: int) -> codec.Arrays:
        index = self._index(entry, name, view)
        position_N = index.position_N[rows]
        if (absent := position_N < 0).any():
            raise TargetError(
                f"store {self.root}: teacher {name!r} has no {_what(entry)} for {int(absent.sum())} of {rows.size} "
                f"rows in view {view} (sample id {self.ids_N[rows[absent][0]]} among them){_lack(entry)}"
            )
        if len(index.shards) == 1:
            return taken({key: index.shards[0][key] for key in index.names}, position_N)
        return _of_shards(index.shards, index.names, index.shard_N[rows], position_N)

    def _index(self, entry: Entry, name: str, view: int) -> _Index:
        key = (entry.key.folder, view)
        if key not in self._indices:
            shards = entry.of_view(view)
            if not shards:
                raise TargetError(
                    f"store {self.root}: teacher {name!r} has no {_what(entry)} for view {view}{_lack(entry)}"
                )
            files = [shard.file for shard in entry.shards if shard.view == view]
            found = positions(entry.folder, files, shards, self.ids_N, self.hashes_N)
            shared = [key for key in shards[0] if all(key in shard for shard in shards)]
            names = tuple(key for key in shared if key not in KEYS)
            self._indices[key] = _Index(shards, names, *found)
        return self._indices[key]

    def enter(self, entry: Entry, shard: Shard, rows: np.ndarray) -> None:
        """Make a shard of one of the entries visible, to this reader and to all that come.

        Args:
            entry: one of these.
            shard: written for it.
            rows: int64, the rows of the data that the shard's rows are of.
        """
        if self.remote is None:
            append(self.root, entry.key, [shard])
        else:
            self.remote.keep(entry.key, [shard])
        entry.shards = (*entry.shards, shard)
        if (index := self._indices.get((entry.key.folder, shard.view))) is not None:
            index.add(entry.arrays(shard), rows)

    @property
    def keys(self) -> dict[str, TeacherKeys]:
        """What `open` was given."""
        return {
            name: TeacherKeys(
                entry.key, self.originals[name].key, tuple(f.key for f in self.features[name])
            )
            for name, entry in self.entries.items()
        }

    @property
    def every(self) -> list[Entry]:
        """All entries of these teachers."""
        features = [entry for several in self.features.values() for entry in several]
        return [*self.entries.values(), *features, *self.originals.values()]

    def note(self) -> dict[str, Any]:
        """What a run writes down of its targets, for `open`: the store, and of each teacher what it holds."""
        named = {
            entry.key: name for name, entry in (*self.entries.items(), *self.originals.items())
        }
        named |= {entry.key: name for name, several in self.features.items() for entry in several}
        entries = [
            {"name": named[entry.key], "folder": entry.folder.name, **entry.key.to_json()}
            for entry in self.every
            if entry.shards
        ]
        return {"store": str(self.root), "entries": entries}

    def size_bytes(self) -> int:
        """Bytes of all shards of these teachers."""
        return sum(
            (entry.folder / shard.file).stat().st_size
            for entry in self.every
            for shard in entry.shards
        )

    def verify(self) -> Report:
        """Read every shard wholly and hold it against its checksum and its entry."""
        return verify_entries(self.every)


def _noted_in(run: Path) -> tuple[Path, dict[str, TeacherKeys]]:
    """Store and keys of a run; of a teacher without views in the store its answers to untransformed samples."""
    found: dict[str, list[EntryKey]] = {}
    try:
        noted = read_json(RunFolder(run).targets)
        for entry in noted["entries"]:
            key = EntryKey(*(entry[part.name] for part in fields(EntryKey)))
            found.setdefault(entry["name"], []).append(key)
    except (OSError, KeyError) as error:
        what = f"{run} has noted no targets ({error!r})"
        raise TargetError(f"{what}; give the folder of a run of this version") from None
    keys = {}
    for name, several in found.items():
        original = next(key for key in several if key.views == ORIGINAL)
        views = [key for key in several if key.views != ORIGINAL and key.tap is None]
        taps = tuple(key for key in several if key.tap is not None)
        keys[name] = TeacherKeys((views or [original])[0], original, taps)
    return Path(noted["store"]), keys


def _scored(root: Path, keys: Mapping[str, TeacherKeys]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all samples that any of these teachers was asked about, ascending, and their content hashes."""
    entries = [Entry(root, key) for one in keys.values() for key in (one.views, one.originals)]
    shards = [entry.arrays(shard) for entry in entries for shard in entry.shards]
    if not shards:
        raise TargetError(f"store {root} holds nothing of {', '.join(keys) or 'any teacher'}")
    ids = np.concatenate([arrays["ids"] for arrays in shards])
    hashes = np.concatenate([arrays["hashes"] for arrays in shards])
    ids_N, first_N = np.unique(ids, return_index=True)
    return ids_N, hashes[first_N]


def _lack(entry: Entry) -> str:
    """What more is to be said of an entry that lacks an answer."""
    why = entry.why_gone()
    return "" if why is None else f"; {entry.folder.name}: {why}"


def _of_shards(
    shards: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    shard_N: np.ndarray,
    position_N: np.ndarray,
) -> codec.Arrays:
    """Answers of several shards, in the order of what is asked for; looks at no shard that has none of them."""
    order = np.argsort(shard_N, kind="stable")
    numbers, begins = np.unique(shard_N[order], return_index=True)
    places = np.split(order, begins[1:])
    parts = (
        taken({name: shards[number][name] for name in names}, position_N[here])
        for number, here in zip(numbers.tolist(), places, strict=True)
    )
    if UNIT_OFFSETS in names:
        return taken(joined(list(parts)), np.argsort(order))
    first = shards[0]
    arrays = {n: np.empty((len(order), *first[n].shape[1:]), first[n].dtype) for n in names}
    for here, part in zip(places, parts, strict=True):
        for name, array in part.items():
            arrays[name][here] = array
    return arrays


def _what(entry: Entry) -> str:
    return "answer" if entry.key.tap is None else f"feature {entry.key.tap!r}"


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


__all__ = [
    "ORIGINAL",
    "Entry",
    "EntryKey",
    "Report",
    "TargetStore",
    "TeacherKeys",
    "append",
    "verify_entries",
]
