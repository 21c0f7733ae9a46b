"""Look after a whole store, in a folder or in a bucket: what lies in it, whether it is whole, and what can go."""

from __future__ import annotations

import math
import secrets
import shutil
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from raykd.disks import TEMPORARY
from raykd.errors import TargetError
from raykd.targets.buckets import PROBE, Bucket, Found
from raykd.targets.entries import LOCK, MANIFEST, Entry, EntryKey, read_manifest
from raykd.targets.marks import MARKS
from raykd.targets.remote import RECORD, SHARD_NAME, Remote, download, read_record, shards_in
from raykd.targets.shards import Shard
from raykd.targets.store import Report, verify_entries

AT_WORK_S = 3600.0
"""A file that no manifest lists may be a writer's that is still at work, so long after its last change."""
_SHARDS = "view*.safetensors"
_AT_ONCE = 8


@dataclass(frozen=True)
class Listing:
    """One folder of a store.

    Attributes:
        folder: where it is.
        key: what its targets were made from; None where there is no readable manifest.
        shards: its finished shards.
        bytes: of all files in it.
        problem: what is wrong with its manifest.
    """

    folder: Path
    key: EntryKey | None
    shards: tuple[Shard, ...]
    bytes: int
    problem: str | None = None

    @property
    def rows(self) -> int:
        """Rows of all shards: a sample counts once for each view."""
        return sum(shard.rows for shard in self.shards)

    @property
    def views(self) -> int:
        """Different views."""
        return len({shard.view for shard in self.shards})


def list_entries(root: Path) -> list[Listing]:
    """Every folder of a store, by name; a damaged manifest is a problem of its own folder."""
    if not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [_listing(folder) for folder in folders if not folder.name.startswith(TEMPORARY)]


def _listing(folder: Path) -> Listing:
    size = size_of(folder)
    if not (folder / MANIFEST).is_file():
        return Listing(folder, None, (), size)
    try:
        key, shards = read_manifest(folder / MANIFEST)
    except TargetError as error:
        return Listing(folder, None, (), size, str(error))
    problem = None
    if key.folder != folder.name:
        problem = (
            f"{folder / MANIFEST} belongs to another folder, {key.folder}: teacher {key.teacher!r}, views "
            f"{key.views!r}, tap {key.tap!r}, codec {key.codec!r}"
        )
    return Listing(folder, key, shards, size, problem)


def verify_store(root: Path) -> Report:
    """Read every shard of every entry wholly and hold it against its checksum and its entry."""
    listings = list_entries(root)
    problems = [f"{one.folder.name}: {one.problem}" for one in listings if one.problem]
    sound = [Entry(root, one.key) for one in listings if one.key and not one.problem]
    report = verify_entries(sound)
    size = sum(
        (e.folder / s.file).stat().st_size for e in sound for s in e.shards if _is_there(e, s)
    )
    return Report(report.shards, report.rows, size, (*problems, *report.problems))


def _is_there(entry: Entry, shard: Shard) -> bool:
    return (entry.folder / shard.file).is_file()


def leftovers(root: Path, *, older_than_s: float = AT_WORK_S) -> list[Path]:
    """What writers left that were killed: files and folders that no reader will ever look at."""
    if not root.is_dir():
        return []
    deadline = time.time() - older_than_s
    return sorted(path for path in _unlisted(root) if _changed_s(path) <= deadline)


def _unlisted(root: Path) -> Iterator[Path]:
    yield from (
        path
        for path in root.iterdir()
        if path.name.startswith(TEMPORARY) and path.name != MARKS and path.is_dir()
    )
    for listing in list_entries(root):
        if listing.problem:
            continue
        listed = {shard.file for shard in listing.shards}
        yield from (path for path in listing.folder.glob(_SHARDS) if path.name not in listed)
        hidden = listing.folder.glob(f"{TEMPORARY}*")
        yield from (path for path in hidden if path.name != LOCK and path.is_file())


def delete(path: Path) -> int:
    """Delete a file or an entry's folder; the bytes that it took.

    A folder is renamed first, so that no reader finds a part of it.

    Raises:
        TargetError: it cannot be deleted.
    """
    size = size_of(path)
    try:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return size
        going = path
        if not path.name.startswith(TEMPORARY):
            going = path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}")
            path.rename(going)
        shutil.rmtree(going)
    except OSError as error:
        raise TargetError(f"{path} cannot be deleted: {error.strerror or error}") from error
    return size


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(_file_size(inner) for inner in (path, *path.rglob("*")))


def _file_size(path: Path) -> int:
    """0 for what is no file, or is none any more: a writer may be renaming its temporary ones."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _changed_s(path: Path) -> float:
    """When a file was last written, seconds since 1970; infinite for one that is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def survey_bucket(bucket: Bucket) -> list[Listing]:
    """Every folder of a bucket that holds objects of a store; what is wrong with a record is its folder's problem.

    Raises:
        TargetError: the bucket cannot be read.
    """
    return [_bucket_listing(bucket, folder, names) for folder, names in _folders(bucket).items()]


def verify_bucket(bucket: Bucket) -> Report:
    """Read every shard wholly, one at a time through this machine's temporary folder, and hold it against its record.

    Raises:
        TargetError: the bucket cannot be listed.
    """
    problems, rows, size, shards = [], 0, 0, 0
    for folder, names in _folders(bucket).items():
        listing = _bucket_listing(bucket, folder, names)
        problems += [listing.problem] if listing.problem else []
        shards, rows = shards + len(listing.shards), rows + listing.rows
        for shard in listing.shards:
            if listing.key is None:
                continue
            if problem := _bucket_problem(bucket, listing.key, shard):
                problems.append(problem)
            else:
                size += names[shard.file].size
    return Report(shards, rows, size, tuple(problems))


def _bucket_problem(bucket: Bucket, key: EntryKey, shard: Shard) -> str | None:
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


def _bucket_listing(bucket: Bucket, folder: str, names: Mapping[str, Found]) -> Listing:
    def read(name: str) -> tuple[EntryKey, Shard] | str:
        try:
            return read_record(bucket, folder, name)
        except TargetError as error:
            return str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read_ones = list(pool.map(read, shards_in(names)))
    size = sum(one.size for one in names.values())
    sound = [one for one in read_ones if not isinstance(one, str)]
    problems = [one for one in read_ones if isinstance(one, str)]
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
