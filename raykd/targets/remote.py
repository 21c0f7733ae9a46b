"""A target store in a bucket, of which each node keeps a mirror on its own disk.

In the bucket an entry is a folder of `<shard>` and, written after it, `<shard>.json`: the record that says
it is whole, with the entry's key. There is no shared manifest, so no lock: writers never lose each other's
shards. Samples that break a teacher are objects of their own, `gap-<id>-<hash>-<view>.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from raykd.config.places import mirrors_root
from raykd.disks import read_pieces
from raykd.errors import InputError, TargetError
from raykd.targets.buckets import Bucket
from raykd.targets.entries import SCHEMA, Entry, EntryKey, append, locked
from raykd.targets.quarantine_log import (
    QuarantinedView,
    add_quarantined,
    read_quarantined,
    to_json,
)
from raykd.targets.shards import Shard, check_shard, map_shard, write_file

RECORD = ".json"
SHARD_NAME = re.compile(r"view[+-]\d{5,9}-[0-9a-f]{16}\.safetensors")
_QUARANTINE_NAME = re.compile(r"gap-(-?\d{1,19})-(\d{1,20})-(\d{1,9})\.json")
_AT_ONCE = 8
_LONGEST_RECORD = 1 << 16
Moved = Callable[[int], None]
"""Is record of bytes that were uploaded."""


@dataclass(frozen=True)
class Remote:
    """A store in a bucket and this node's mirror of it.

    Attributes:
        uri: where the bucket's objects lie.
        root: folder of the mirror, a target store like any other.
    """

    uri: str
    root: Path

    @property
    def bucket(self) -> Bucket:
        """Its objects."""
        return Bucket(self.uri)

    def check(self, key: str = "targets.store", *, writes: bool = True) -> None:
        """Try the bucket, before anything starts.

        Args:
            key: what names it.
            writes: it is to be written to; else it has to be there.

        Raises:
            InputError: it cannot be listed or written.
        """
        try:
            self.bucket.probe() if writes else self.bucket.look()
        except TargetError as error:
            raise InputError.at(key, str(error)) from error

    def keep(self, key: EntryKey, shards: Sequence[Shard], moved: Moved | None = None) -> None:
        """Enter finished shards in the mirror, then upload them.

        Raises:
            TargetError: the mirror or the bucket cannot be written; what is finished is in the mirror, and
                `sync` uploads it.
        """
        append(self.root, key, shards)
        for shard in shards:
            if self.bucket.size(f"{key.folder}/{shard.file}{RECORD}") is None:
                self._upload(key, shard, moved)

    def sync(self, keys: Iterable[EntryKey]) -> None:
        """Make mirror and bucket alike in these entries; one process of a node at a time.

        Raises:
            TargetError: an object is damaged or of other targets, or one side cannot be read or written.
        """
        with locked(self.root):
            for key in keys:
                names = self.bucket.names(key.folder)
                self._pull(key, names)
                for shard in Entry(self.root, key).shards:
                    if shard.file + RECORD not in names:
                        self._upload(key, shard)
                for view in read_quarantined(self.root / key.folder) - quarantined_in(names):
                    text = json.dumps(to_json(view)) + "\n"
                    self.bucket.write(f"{key.folder}/{quarantine_name(view)}", [text.encode()])

    def pull(self, keys: Iterable[EntryKey]) -> None:
        """Bring what the bucket has of these entries and the mirror lacks; one process of a node at a time.

        Raises:
            TargetError: an object is damaged or of other targets, the bucket cannot be read, or the disk is
                full; what was whole is kept.
        """
        with locked(self.root):
            for key in keys:
                self._pull(key, self.bucket.names(key.folder))

    def _pull(self, key: EntryKey, names: Iterable[str]) -> None:
        known = {shard.file for shard in Entry(self.root, key).shards}
        lacking = [one for one in shards_in(names) if one not in known]
        if lacking:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                shards = list(pool.map(lambda name: self._fetch(key, name), lacking))
            append(self.root, key, shards)
        folder = self.root / key.folder
        if new := quarantined_in(names) - read_quarantined(folder):
            add_quarantined(folder, new)

    def _fetch(self, key: EntryKey, name: str) -> Shard:
        """One shard, checked and on disk; nothing where it lies there already."""
        found, shard = read_record(self.bucket, key.folder, name)
        if found != key:
            raise damaged(self.bucket, key.folder, name, f"its record is of other targets, {found}")
        if check_shard(self.root / key.folder, shard) is not None:
            download(self.bucket, key, shard, self.root / key.folder)
        return shard

    def _upload(self, key: EntryKey, shard: Shard, moved: Moved | None = None) -> None:
        """The shard, and after it the record that says it is whole."""
        path, name = self.root / key.folder / shard.file, f"{key.folder}/{shard.file}"

        def refuse(found: str) -> TargetError:
            what = f"shard {shard.file!r} is damaged: checksum {found}, not {shard.xxh3}"
            return TargetError(f"{path.parent}: {what}; delete the folder to score it anew")

        if not path.is_file():
            raise TargetError(f"{path.parent}: shard {shard.file!r} is missing; delete the folder")
        pieces = _checked(read_pieces(path), shard.xxh3, refuse, moved)
        self.bucket.write(name, pieces)
        record = {"schema": SCHEMA, "key": key.to_json(), "shard": shard.to_json()}
        self.bucket.write(name + RECORD, [(json.dumps(record, indent=2) + "\n").encode()])


def is_uri(store: str | None) -> bool:
    """Whether a store is named by a URI, and not by a folder."""
    return store is not None and "://" in store


def remote_of(store: str) -> Remote:
    """The store at a URI, mirrored below raykd's home."""
    uri = store.rstrip("/")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Remote(uri, mirrors_root() / name)


def shards_in(names: Iterable[str]) -> list[str]:
    """Names of the shards that have a record; names of any other form are nobody's."""
    bare = [name.removesuffix(RECORD) for name in names if name.endswith(RECORD)]
    return sorted(name for name in bare if SHARD_NAME.fullmatch(name))


def quarantine_name(view: QuarantinedView) -> str:
    """The object that stands for a quarantined view."""
    return f"gap-{view[0]}-{view[1]}-{view[2]}{RECORD}"


def quarantined_in(names: Iterable[str]) -> set[QuarantinedView]:
    """The quarantined views whose objects are there."""
    found = filter(None, map(_QUARANTINE_NAME.fullmatch, names))
    return {(int(one[1]), int(one[2]), int(one[3])) for one in found}


def read_record(bucket: Bucket, folder: str, name: str) -> tuple[EntryKey, Shard]:
    """What the record of a shard says.

    Raises:
        TargetError: it is damaged, or not of this shard.
    """
    payload = b""
    for piece in bucket.pieces(f"{folder}/{name}{RECORD}"):
        payload += piece
        if len(payload) > _LONGEST_RECORD:
            raise damaged(bucket, folder, name, f"its record has over {_LONGEST_RECORD} bytes")
    try:
        record: dict[str, Any] = json.loads(payload)
        schema, key, shard = record["schema"], EntryKey(**record["key"]), Shard(**record["shard"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(bucket, folder, name, f"its record is damaged ({error!r})") from None
    if schema != SCHEMA:
        what = f"its record has schema {schema}, this version reads {SCHEMA}"
        raise damaged(bucket, folder, name, what)
    if shard.file != name or type(shard.rows) is not int or type(shard.view) is not int:
        raise damaged(bucket, folder, name, f"its record tells of another one, {shard}")
    return key, shard


def download(bucket: Bucket, key: EntryKey, shard: Shard, folder: Path) -> None:
    """Bring a shard into a folder, where it is seen once it is whole and its checksum holds.

    Raises:
        TargetError: the object is damaged or of other targets, or the disk is full.
    """
    path = folder / shard.file

    def refuse(found: str) -> TargetError:
        what = f"its bytes have the checksum {found}, not its record's {shard.xxh3}"
        return damaged(bucket, key.folder, shard.file, what)

    pieces = bucket.pieces(f"{key.folder}/{shard.file}")
    write_file(path, _checked(pieces, shard.xxh3, refuse, None))
    try:
        map_shard(folder, shard, key.to_json())
    except TargetError as error:
        path.unlink(missing_ok=True)
        raise damaged(bucket, key.folder, shard.file, str(error)) from None


def damaged(bucket: Bucket, folder: str, name: str, what: str) -> TargetError:
    """The error for an object that cannot be used."""
    return TargetError(
        f"{bucket.place}/{folder}/{name}: {what}; delete this object and its record (the same name with {RECORD}), and it is "
        "scored anew"
    )


def _checked(
    pieces: Iterable[bytes], xxh3: str, refuse: Callable[[str], TargetError], moved: Moved | None
) -> Iterator[bytes]:
    """Passes pieces on, and raises after the last one when they do not have this checksum."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
        yield piece
        if moved is not None:
            moved(len(piece))
    if digest.hexdigest() != xxh3:
        raise refuse(digest.hexdigest())
