"""Entries of the target store: one folder for each (teacher, views, outputs or tap, codec), with its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raykd.disks import disk_error
from raykd.errors import TargetError
from raykd.folders import lock_file, read_json
from raykd.targets import codec
from raykd.targets.packing import FEATURE, SCALE, Arrays, without_features
from raykd.targets.positions import SortedIds
from raykd.targets.shards import Shard, check_shard, map_shard, unwritable, write_file
from raykd.targets.verified import to_verify

MANIFEST = "manifest.json"
LOCK = ".lock"
_ANEW = "delete the folder to score it anew"
_GONE = (
    "this entry of the target store is gone: `raykd targets prune`, or somebody by hand, has deleted it while it was "
    "needed; resume the job, and it is scored anew"
)
SCHEMA = 2
ORIGINAL = "original"


@dataclass(frozen=True)
class EntryKey:
    """What an entry's targets were made from; any difference is another entry.

    Outputs and each tapped feature are entries of their own: a reader opens those that it wants, and one
    that wants a further tap adds that one alone.

    Attributes:
        teacher: fingerprint of weights, preprocessing, label map, dtype and spec.
        views: canonical text of the view policy and its seed, or `original`.
        tap: the feature that is kept; None = the outputs.
        codec: encoding of the arrays.
    """

    teacher: str
    views: str
    tap: str | None = None
    codec: str = codec.VERSION

    @property
    def folder(self) -> str:
        """Name of the entry's folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.teacher[:16]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def of(self, arrays: Arrays) -> Arrays:
        """What of a teacher's encoded answer this entry keeps."""
        if self.tap is None:
            return without_features(arrays)
        return {
            name: arrays[name] for name in (FEATURE + self.tap, SCALE + self.tap) if name in arrays
        }


class TeacherKeys(NamedTuple):
    """All entries of one teacher that a reader wants.

    Attributes:
        views: its outputs in training views; the folder holds its quarantine too.
        originals: its outputs of untransformed samples.
        features: its tapped features in training views.
    """

    views: EntryKey
    originals: EntryKey
    features: tuple[EntryKey, ...] = ()

    @property
    def augmented(self) -> tuple[EntryKey, ...]:
        """What is kept of training views, outputs first."""
        return (self.views, *self.features)

    @property
    def every(self) -> tuple[EntryKey, ...]:
        """All of them."""
        return (*self.augmented, self.originals)


class Entry:
    """The shards of one entry; reads by memory map, never writes."""

    def __init__(self, root: Path, key: EntryKey) -> None:
        self.key = key
        self.folder = root / key.folder
        self.shards = _read_manifest(self.folder, key)
        self._maps: dict[str, dict[str, np.ndarray]] = {}

    def arrays(self, shard: Shard) -> dict[str, np.ndarray]:
        """A shard's arrays; its origin is verified the first time, its checksum as of `to_verify`.

        Raises:
            TargetError: the file is missing, damaged or of other targets; names the shard.
        """
        if shard.file not in self._maps:
            self._verify([shard])
        return self._mapped(shard)

    def of_view(self, view: int) -> list[dict[str, np.ndarray]]:
        """The arrays of all shards of a view, verified together; raises as of `arrays`."""
        shards = [shard for shard in self.shards if shard.view == view]
        self._verify([shard for shard in shards if shard.file not in self._maps])
        return [self._mapped(shard) for shard in shards]

    def _verify(self, shards: Sequence[Shard]) -> None:
        for shard in to_verify(self.folder, shards):
            if problem := check_shard(self.folder, shard):
                raise TargetError(f"{self.folder}: {self.why_gone() or f'{problem}; {_ANEW}'}")

    def _mapped(self, shard: Shard) -> dict[str, np.ndarray]:
        if shard.file not in self._maps:
            try:
                found = map_shard(self.folder, shard, self.key.to_json())
            except TargetError as error:
                raise TargetError(f"{self.folder}: {error}; {_ANEW}") from None
            if self.key.tap is not None and FEATURE + self.key.tap not in found:
                what = f"shard {shard.file!r} lacks the feature {self.key.tap!r}"
                raise TargetError(f"{self.folder}: {what}; {_ANEW}")
            self._maps[shard.file] = found
        return self._maps[shard.file]

    def why_gone(self) -> str | None:
        """In words, where somebody has deleted the entry, or never filled it; None where it is there."""
        return None if (self.folder / MANIFEST).is_file() else _GONE

    def missing(self, ids_N: np.ndarray, hashes_N: np.ndarray, view: int) -> np.ndarray:
        """Positions in `ids_N`, which are all different, that no shard answers for this view with the same content."""
        return np.flatnonzero(~self.answered(SortedIds(ids_N), hashes_N, view))

    def answered(self, ids: SortedIds, hashes_N: np.ndarray, view: int) -> np.ndarray:
        """Whether some shard has an answer for each sample in this view with the same content, bool [N].

        Args:
            ids: of the samples.
            hashes_N: uint64, their content hashes.
            view: number of the view.
        """
        found_N = np.zeros(len(hashes_N), bool)
        for arrays in self.of_view(view):
            found_N[ids.answered(arrays, hashes_N)[0]] = True
        return found_N


def _read_manifest(folder: Path, key: EntryKey) -> tuple[Shard, ...]:
    path = folder / MANIFEST
    if not path.is_file():
        return ()
    written, shards = read_manifest(path)
    required = asdict(key)
    if differing := [n for n, value in required.items() if getattr(written, n) != value]:
        found = ", ".join(f"{getattr(written, name)!r}" for name in differing)
        asked = ", ".join(f"{required[name]!r}" for name in differing)
        raise TargetError(
            f"{path} belongs to other targets: {', '.join(differing)} differ (found {found}; asked for {asked})"
        )
    return shards


def read_manifest(path: Path) -> tuple[EntryKey, tuple[Shard, ...]]:
    """The key of an entry and its shards.

    Raises:
        TargetError: it is damaged, or of another version.
    """
    try:
        manifest = read_json(path)
        schema = manifest["schema"]
        if schema != SCHEMA:
            raise TargetError(f"{path} has schema {schema}, this version reads {SCHEMA}; {_ANEW}")
        key = EntryKey(**manifest["key"])
        shards = tuple(Shard(**shard) for shard in manifest["shards"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TargetError(
            f"{path} is damaged ({error!r}); delete its folder to score it anew"
        ) from None
    return key, shards


def append(root: Path, key: EntryKey, shards: Sequence[Shard]) -> None:
    """Add finished shards to an entry's manifest, which makes them visible to readers.

    Several runs may fill one entry at a time: none loses what another has added. The order in which they
    come does not show.

    Raises:
        TargetError: the manifest is damaged or cannot be written.
    """
    with locked(root / key.folder):
        entry = Entry(root, key)
        every = {shard.file: shard for shard in (*entry.shards, *shards)}
        write_file(entry.folder / MANIFEST, [manifest_text(key, every.values()).encode()])


def manifest_text(key: EntryKey, shards: Iterable[Shard]) -> str:
    """The manifest of an entry that holds these shards."""
    manifest = {
        "schema": SCHEMA,
        "key": key.to_json(),
        "shards": [shard.to_json() for shard in sorted(shards, key=lambda s: (s.view, s.file))],
    }
    return json.dumps(manifest, indent=2, allow_nan=False) + "\n"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among all processes that write this entry's manifest; the lock ends with the process."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(folder / LOCK))
        except OSError as error:
            raise unwritable(disk_error(folder, error)) from error
        yield
