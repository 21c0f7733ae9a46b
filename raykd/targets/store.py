"""The target store: what each teacher says of each sample and view, computed once.

A store is a folder of entries. An entry belongs to one (teacher fingerprint, views, taps, codec) and
holds shards of rows keyed by (sample id, content hash, view) and a manifest, which is written last. Labels
and splits are not part of any key: the same teacher's answers serve every budget, objective and trial.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raykd.errors import TargetError
from raykd.folders import read_json, write_json
from raykd.targets import codec
from raykd.targets.shards import Shard, check_shard, map_shard
from raykd.types import ORIGINAL_VIEW, TeacherOutputs

SCHEMA = 1
ORIGINAL = "original"


@dataclass(frozen=True)
class EntryKey:
    """What an entry's targets were made from; any difference is another entry.

    Attributes:
        teacher: fingerprint of weights, preprocessing, label map, dtype and spec.
        views: canonical text of the view policy and its seed, or `original`.
        taps: features kept beside the logits.
        codec: encoding of the arrays.
    """

    teacher: str
    views: str
    taps: tuple[str, ...] = ()
    codec: str = codec.VERSION

    @property
    def folder(self) -> str:
        """Name of the entry's folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.teacher[:16]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


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


class Entry:
    """The shards of one teacher and view policy; reads by memory map, never writes."""

    def __init__(self, root: Path, key: EntryKey) -> None:
        self.key = key
        self.folder = root / key.folder
        self.shards = _read_manifest(self.folder, key)
        self._maps: dict[str, dict[str, np.ndarray]] = {}

    def arrays(self, shard: Shard) -> dict[str, np.ndarray]:
        """A shard's arrays; its checksum is verified the first time.

        Raises:
            TargetError: the file is missing or damaged; names the shard.
        """
        if shard.file not in self._maps:
            if problem := check_shard(self.folder, shard):
                raise TargetError(f"{self.folder}: {problem}; delete the folder to score it anew")
            self._maps[shard.file] = map_shard(self.folder, shard)
        return self._maps[shard.file]

    def missing(self, ids_N: np.ndarray, hashes_N: np.ndarray, view: int) -> np.ndarray:
        """Positions in `ids_N` that no shard answers for this view with the same content."""
        known: set[tuple[int, int]] = set()
        for shard in self.shards:
            if shard.view == view:
                arrays = self.arrays(shard)
                known.update(zip(arrays["ids"].tolist(), arrays["hashes"].tolist(), strict=True))
        wanted = zip(ids_N.tolist(), hashes_N.tolist(), strict=True)
        return np.array([i for i, pair in enumerate(wanted) if pair not in known], np.int64)


def _read_manifest(folder: Path, key: EntryKey) -> tuple[Shard, ...]:
    path = folder / "manifest.json"
    if not path.is_file():
        return ()
    try:
        manifest = read_json(path)
        written = manifest["key"] | {"taps": tuple(manifest["key"]["taps"])}
        shards = tuple(Shard(**shard) for shard in manifest["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(
            f"{path} is damaged ({error!r}); delete its folder to score it anew"
        ) from None
    if manifest.get("schema") != SCHEMA:
        raise TargetError(
            f"{path} has schema {manifest.get('schema')}, this version reads {SCHEMA}"
        )
    if differing := [name for name, value in asdict(key).items() if written.get(name) != value]:
        raise TargetError(f"{path} belongs to other targets: {', '.join(differing)} differ")
    return shards


def append(root: Path, key: EntryKey, shards: Sequence[Shard]) -> None:
    """Add finished shards to an entry's manifest, which makes them visible to readers.

    Several runs may fill one entry at a time: none loses what another has added.
    """
    with _locked(root / key.folder):
        entry = Entry(root, key)
        known = {shard.file for shard in entry.shards}
        every = (*entry.shards, *(shard for shard in shards if shard.file not in known))
        manifest = {
            "schema": SCHEMA,
            "key": asdict(key),
            "shards": [shard.to_json() for shard in every],
        }
        write_json(entry.folder / "manifest.json", manifest)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among all processes that write this entry's manifest; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    """

    root: Path
    entries: Mapping[str, Entry]
    originals: Mapping[str, Entry]
    ids_N: np.ndarray
    hashes_N: np.ndarray
    _indices: dict[tuple[str, int], _Index] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | Path,
        keys: Mapping[str, tuple[EntryKey, EntryKey]],
        ids_N: np.ndarray,
        hashes_N: np.ndarray,
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
        return {name: codec.decode(self.gather_arrays(name, rows, view)) for name in self.entries}

    def gather_arrays(self, name: str, rows: np.ndarray, view: int | np.ndarray) -> codec.Arrays:
        """The encoded answer of one teacher, in the order of `rows`."""
        views = np.unique(view)
        if views.size == 1:
            return self._gather_view(name, rows, int(views[0]))
        parts = [(np.flatnonzero(view == v), int(v)) for v in views]
        answers = [self._gather_view(name, rows[places], v) for places, v in parts]
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
        names = [key for key in index.shards[0] if key not in ("ids", "hashes")]
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
        """Read every shard and hold it against its checksum."""
        problems, shards, rows = [], 0, 0
        for entry in (*self.entries.values(), *self.originals.values()):
            for shard in entry.shards:
                shards, rows = shards + 1, rows + shard.rows
                if problem := check_shard(entry.folder, shard):
                    problems.append(f"{entry.folder.name}: {problem}")
        return Report(shards, rows, 0 if problems else self.size_bytes(), tuple(problems))


def describe(root: Path) -> list[dict[str, Any]]:
    """The key and size of every entry in a store."""
    found = []
    for path in sorted(root.glob("*/manifest.json")):
        manifest = read_json(path)
        rows = sum(shard["rows"] for shard in manifest["shards"])
        found.append({**manifest["key"], "folder": path.parent.name, "rows": rows})
    return found
