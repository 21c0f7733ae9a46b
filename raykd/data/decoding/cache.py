"""The folder of a decoded source: samples in one file, a mark for each finished part, the manifest last.

<cache>/<digest>/inputs.bin     samples in order, without a header
                 hashes.bin     uint64, the content hash of each
                 parts/<n>.json which samples of part n cannot be decoded; written once the others are on disk
                 manifest.json  all parts are there; the folder is never written again
<cache>/<digest>.lock           held by the one process that decodes it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from raykd.data.decoding.layout import File, Index, Layout, Part
from raykd.disks import writing
from raykd.errors import DataError, InputError, Problem
from raykd.folders import lock_file, read_json, write_json

FORMAT = 1
"""Raise it when decoding comes to other samples or parts, so that they are decoded anew."""
_PIXELS = "16 bits are scaled"
"""How images are decoded; before, values above 255 were clipped."""
HASH_BYTES = 8
_MARGIN = 0.98
_LOOKED_AT, _LOOK_BYTES = 64, 2**16
_STALLED_S = 600.0


@dataclass(frozen=True)
class Target:
    """Where a source's decoded samples go.

    Attributes:
        folder: of this source.
        layout: how samples look.
        count: of all samples, those that cannot be decoded included.
    """

    folder: Path
    layout: Layout
    count: int

    @property
    def inputs(self) -> Path:
        """Samples."""
        return self.folder / "inputs.bin"

    @property
    def hashes(self) -> Path:
        """Their content hashes."""
        return self.folder / "hashes.bin"

    @property
    def manifest(self) -> Path:
        """What says that all is there."""
        return self.folder / "manifest.json"

    def mark(self, number: int) -> Path:
        """What says that a part is there."""
        return self.folder / "parts" / f"{number:06d}.json"


@dataclass(frozen=True)
class Mark:
    """A finished part.

    Attributes:
        number: of the part.
        count: its samples.
        bad: place in the source -> why that sample cannot be decoded.
    """

    number: int
    count: int
    bad: Mapping[int, str]


Decode = Callable[[Target, Sequence[Part]], Iterator[Mark]]
"""Decodes parts, in any order; each mark is yielded when it is on disk."""


def digest_of(kind: str, index: Index) -> str:
    """What identifies decoded samples: the files with their sizes and times, and how they are decoded.

    Copies and archives keep times, so some bytes of up to 64 files belong to it too.
    """
    places = sorted({getattr(part.place, "columns", ()) for part in index.parts})
    layout = {
        name: value for name, value in asdict(index.layout).items() if value or name != "words"
    }
    parts = [
        FORMAT,
        kind,
        layout,
        places,
        [(f.name, f.bytes, f.changed_ns) for f in index.files],
        [_ends(file) for file in index.files[:: -(-len(index.files) // _LOOKED_AT) or 1]],
        *([_PIXELS] if index.layout.kind == "image" else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _ends(file: File) -> str:
    """Hash of the first and the last 64 KiB."""
    digest = xxhash.xxh3_64()
    with Path(file.path).open("rb") as opened:
        digest.update(opened.read(_LOOK_BYTES))
        opened.seek(max(0, file.bytes - _LOOK_BYTES))
        digest.update(opened.read(_LOOK_BYTES))
    return digest.hexdigest()


def read_mark(target: Target, part: Part) -> Mark | None:
    """The mark of a part; None where it is not finished."""
    try:
        found = read_json(target.mark(part.number))
    except FileNotFoundError:
        return None
    return Mark(part.number, part.count, {int(index): why for index, why in found["bad"].items()})


def read_manifest(target: Target) -> dict[int, str] | None:
    """Samples that cannot be decoded; None where decoding is not finished.

    Raises:
        DataError: it is damaged.
    """
    try:
        bad = {int(index): str(why) for index, why in read_json(target.manifest)["bad"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{target.manifest} is damaged ({error!r}); delete {target.folder}"
        ) from error
    return bad


def check_room(target: Target, done: int) -> None:
    """The disk has room for what is still to be decoded.

    Raises:
        InputError: it has not, or the folder cannot be made.
    """
    _make(target.folder / "parts")
    needed = (target.count - done) * (target.layout.row_bytes + HASH_BYTES)
    free = shutil.disk_usage(target.folder).free
    if needed > free * _MARGIN:
        raise InputError(
            Problem("data.cache", f"{target.count - done:,} decoded samples take {needed:,} bytes, {target.folder.parent} "
                    f"has {free:,} free; set it to a folder on another disk, make room, or lower data.source.size")
        )  # fmt: skip


@contextmanager
def locked(target: Target, is_stalled_s: float = _STALLED_S) -> Iterator[None]:
    """One process decodes; others wait for it as long as it finishes parts.

    Raises:
        InputError: the folder cannot be made.
        DataError: it has finished none for a long time.
    """
    _make(target.folder.parent)
    parts, since = -1, time.monotonic()

    def check_progress() -> None:
        nonlocal parts, since
        finished = sum(1 for _ in target.folder.glob("parts/[0-9]*.json"))
        if finished != parts:
            parts, since = finished, time.monotonic()
        if time.monotonic() - since > is_stalled_s:
            raise DataError(
                f"another process decodes {target.folder} and has finished no part for {is_stalled_s:g} s; end "
                "it, and start again: what is finished is kept"
            )

    with lock_file(target.folder.with_name(f"{target.folder.name}.lock"), check_progress):
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError.at(
            "data.cache", f"{folder} cannot be made: {error}; name another folder"
        ) from error


def finish(target: Target, bad: Mapping[int, str]) -> None:
    """Give the places of samples that cannot be decoded to the last ones, and write the manifest.

    A kill before its end loses nothing: what is moved is still where it was.
    """
    order = kept_order(target.count, bad)
    for path, size in ((target.inputs, target.layout.row_bytes), (target.hashes, HASH_BYTES)):
        with writing(path), path.open("r+b") as file:
            for row in np.flatnonzero(order != np.arange(len(order))).tolist():
                payload = os.pread(file.fileno(), size, int(order[row]) * size)
                os.pwrite(file.fileno(), payload, row * size)
            os.fsync(file.fileno())
    manifest = {"format": FORMAT, "count": target.count, **asdict(target.layout)}
    named = {str(index): why for index, why in bad.items()}
    write_json(target.manifest, {**manifest, "bad": named}, durable=True)


def kept_order(count: int, bad: Mapping[int, str]) -> np.ndarray:
    """The sample of each row: in the source's order, but for the last ones, which fill the gaps."""
    holes = np.array(sorted(bad), dtype=np.int64)
    kept = count - len(holes)
    order = np.arange(kept)
    last = np.setdiff1d(np.arange(kept, count), holes)
    order[holes[holes < kept]] = last
    return order
