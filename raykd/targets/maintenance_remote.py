"""Look after a store in a bucket: what lies in it, whether it is whole, and what can go."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raykd.errors import TargetError
from raykd.targets.buckets import PROBE, Bucket, Found
from raykd.targets.entries import EntryKey
from raykd.targets.maintenance import AT_WORK_S, Listing, delete
from raykd.targets.remote import (
    RECORD,
    SHARD_NAME,
    Remote,
    download,
    read_record,
    shards_in,
)
from raykd.targets.shards import Shard
from raykd.targets.store import Report

_AT_ONCE = 8


def survey_bucket(bucket: Bucket) -> list[Listing]:
    """Every folder of a bucket that holds objects of a store; what is wrong with a record is its folder's problem.

    Raises:
        TargetError: the bucket cannot be read.
    """
    return [_listing(bucket, folder, names) for folder, names in _folders(bucket).items()]


def verify_bucket(bucket: Bucket) -> Report:
    """Read every shard wholly, one at a time through this machine's temporary folder, and hold it against its record.

    Raises:
        TargetError: the bucket cannot be listed.
    """
    problems, rows, size, shards = [], 0, 0, 0
    for folder, names in _folders(bucket).items():
        listing = _listing(bucket, folder, names)
        problems += [listing.problem] if listing.problem else []
        shards, rows = shards + len(listing.shards), rows + listing.rows
        for shard in listing.shards:
            if listing.key is None:
                continue
            if problem := _problem_of(bucket, listing.key, shard):
                problems.append(problem)
            else:
                size += names[shard.file].size
    return Report(shards, rows, size, tuple(problems))


def _problem_of(bucket: Bucket, key: EntryKey, shard: Shard) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            download(bucket, key, shard, Path(folder))
        except TargetError as error:
            return str(error)
    return None


def leftovers_in(bucket: Bucket, *, older_than_s: float = AT_WORK_S) -> dict[str, int]:
    """Objects that writers left who were killed before they wrote the record, and their bytes."""
    deadline = time.time() - older_than_s
    found = bucket.names()
    return {
        name: one.size
        for name, one in found.items()
        if one.written_s <= deadline and _unrecorded(name, found)
    }


def _unrecorded(name: str, found: Mapping[str, Found]) -> bool:
    file = name.rpartition("/")[2]
    shard = SHARD_NAME.fullmatch(file) is not None
    return name.startswith(PROBE) or (shard and name + RECORD not in found)


def delete_folder(remote: Remote, folder: str) -> int:
    """Delete an entry from bucket and mirror; the bytes that it took in the bucket.

    Records go first, so that no reader finds a part of it.

    Raises:
        TargetError: an object cannot be deleted.
    """
    bucket, names = remote.bucket, remote.bucket.names(folder)
    for name in sorted(names, key=lambda name: not name.endswith(RECORD)):
        bucket.delete(f"{folder}/{name}")
    if (remote.root / folder).is_dir():
        delete(remote.root / folder)
    return sum(one.size for one in names.values())


def delete_object(bucket: Bucket, name: str) -> int:
    """Delete one object; the bytes that it took.

    Raises:
        TargetError: it cannot be deleted.
    """
    size = bucket.size(name) or 0
    bucket.delete(name)
    return size


def _folders(bucket: Bucket) -> dict[str, dict[str, Found]]:
    """Folder -> its objects, of those that are named as a store's are."""
    found: dict[str, dict[str, Found]] = defaultdict(dict)
    for name, one in sorted(bucket.names().items()):
        folder, _, file = name.partition("/")
        if file and "/" not in file and not folder.startswith("."):
            found[folder][file] = one
    return {folder: names for folder, names in found.items() if _is_ours(names)}


def _is_ours(names: Mapping[str, Found]) -> bool:
    return any(SHARD_NAME.fullmatch(name.removesuffix(RECORD)) for name in names)


def _listing(bucket: Bucket, folder: str, names: Mapping[str, Found]) -> Listing:
    def read(name: str) -> tuple[EntryKey, Shard] | str:
        try:
            return read_record(bucket, folder, name)
        except TargetError as error:
            return str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        told = list(pool.map(read, shards_in(names)))
    size = sum(one.size for one in names.values())
    sound = [one for one in told if not isinstance(one, str)]
    problems = [one for one in told if isinstance(one, str)]
    problems += [
        f"{bucket.place}/{folder}/{shard.file}: its record belongs to another folder, {key.folder}"
        for key, shard in sound
        if key.folder != folder
    ]
    ours = [(key, shard) for key, shard in sound if key.folder == folder]
    problems += [
        f"{bucket.place}/{folder}/{shard.file}: the shard is missing, its record is there; delete the record"
        for _, shard in ours
        if shard.file not in names
    ]
    shards = tuple(shard for _, shard in ours if shard.file in names)
    key = ours[0][0] if ours else None
    return Listing(Path(folder), key, shards, size, "; ".join(problems) or None)
