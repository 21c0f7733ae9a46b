"""Objects in a bucket, or in a folder that stands for one: list, read, write whole, delete, with bounded waits."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from raykd.errors import TargetError
from raykd.targets.shards import write_file

PROBE = ".raykd-probe-"
"""What the names of objects begin with that only try whether one can write."""
_CONNECT_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 5.0
"""Without a byte. All attempts together take less than `cluster.teachers.request_timeout_s`."""
_ATTEMPTS = 5
"""Counted by the simple strategy: the standard one has a budget, and tries nothing again once it is used up."""
_RETRY_LIMIT_S = 25
_PIECE = 4 << 20
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that pyarrow leaves to its caller; the first one that is set counts."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CAUSES = {
    ("NO_SUCH_BUCKET", "NoSuchBucket"): (
        "there is no such bucket",
        "create it, or correct the name in targets.store",
    ),
    ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP status 403", "HTTP status 401"): (
        "access is refused",
        "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and what they may do",
    ),
    ("NETWORK_CONNECTION", "curlCode", "Could not resolve"): (
        "the endpoint does not answer",
        "check the network and the endpoint (AWS_ENDPOINT_URL, or ?endpoint_override= in targets.store)",
    ),
}
"""What an error of the S3 client contains -> what it means, and what to do."""


@dataclass(frozen=True)
class Found:
    """An object as a listing tells of it: bytes, and when it was written (seconds since 1970)."""

    size: int
    written_s: float


@dataclass(frozen=True)
class Bucket:
    """All objects below a URI; connects when it is first used, in each process anew.

    Attributes:
        uri: `s3://bucket/prefix`, `gs://bucket/prefix` or `file:///folder`.
    """

    uri: str

    @property
    def place(self) -> str:
        """The URI without its options."""
        return self.uri.partition("?")[0]

    def names(self, folder: str = "") -> dict[str, Found]:
        """Objects below a folder, by name relative to it.

        Raises:
            TargetError: it cannot be listed.
        """
        with self._explained("read"):
            system, base = _connect(self.uri)
            start = f"{base}/{folder}".rstrip("/")
            selector = fs.FileSelector(start, allow_not_found=True, recursive=True)
            return {
                one.path[len(start) + 1 :]: Found(one.size, (one.mtime_ns or 0) / 1e9)
                for one in system.get_file_info(selector)
                if one.type == fs.FileType.File
            }

    def size(self, name: str) -> int | None:
        """Bytes of an object; None = there is none.

        Raises:
            TargetError: that cannot be from_environment.
        """
        with self._explained("read", name):
            system, base = _connect(self.uri)
            found = system.get_file_info(f"{base}/{name}")
            return int(found.size) if found.type == fs.FileType.File else None

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of an object.

        Raises:
            TargetError: it cannot be read.
        """
        with self._explained("read", name):
            system, base = _connect(self.uri)
            with system.open_input_stream(f"{base}/{name}") as stream:
                while piece := stream.read(_PIECE):
                    yield piece

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write an object, which is seen when it is whole; pieces that raise leave none, or one cut short.

        Raises:
            TargetError: it cannot be written.
        """
        with self._explained("written", name):
            system, base = _connect(self.uri)
            if isinstance(system, fs.LocalFileSystem):
                write_file(Path(base) / name, pieces)
                return
            with system.open_output_stream(f"{base}/{name}") as stream:
                for piece in pieces:
                    stream.write(piece)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one.

        Raises:
            TargetError: it cannot be deleted.
        """
        if self.size(name) is not None:
            with self._explained("written", name):
                system, base = _connect(self.uri)
                system.delete_file(f"{base}/{name}")

    def look(self) -> None:
        """See whether the bucket is there; of a folder, whether it is.

        Raises:
            TargetError: it is not, or that cannot be from_environment.
        """
        with self._explained("read"):
            system, base = _connect(self.uri)
            place = base if isinstance(system, fs.LocalFileSystem) else base.partition("/")[0]
            if system.get_file_info(place).type == fs.FileType.NotFound:
                raise FileNotFoundError(f"NoSuchBucket: {place}")

    def probe(self) -> None:
        """Try to list, to write and to delete.

        Raises:
            TargetError: one of it fails; says why and what to do.
        """
        self.names(PROBE)
        name = f"{PROBE}{secrets.token_hex(8)}"
        self.write(name, [b"raykd\n"])
        self.delete(name)

    @contextmanager
    def _explained(self, done: Literal["read", "written"], name: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = f"{self.place}/{name}" if name else self.place
            kept = "; what is on this machine stays there, and the next run goes on from it"
            raise TargetError(
                f"{place} cannot be {done}: {_meaning(error)}{kept if done == 'written' else ''}"
            ) from error


def _meaning(error: OSError) -> str:
    text = " ".join(str(error).split())
    for marks, (cause, advice) in _CAUSES.items():
        if any(mark in text for mark in marks):
            return f"{cause} ({text}); {advice}"
    return f"{text}; check targets.store and who may read and write there"


@lru_cache(maxsize=16)
def _connect(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it."""
    scheme = urlsplit(uri).scheme
    if scheme == "s3":
        return _connect_s3(uri)
    if scheme == "gs":
        mark = "&" if "?" in uri else "?"
        system, base = fs.FileSystem.from_uri(f"{uri}{mark}retry_limit_seconds={_RETRY_LIMIT_S}")
    else:
        system, base = fs.FileSystem.from_uri(uri)
    return system, base.rstrip("/")


def _connect_s3(uri: str) -> tuple[Any, str]:
    """As pyarrow reads such a URI, with bounded waits, which a URI cannot ask for."""
    parts = urlsplit(uri)
    given = dict(parse_qsl(parts.query))
    from_environment = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    host = given.pop("endpoint_override", from_environment)
    if host and "://" in host:
        given["scheme"], _, host = host.rstrip("/").partition("://")
    if "region" not in given and not host and not any(map(os.environ.get, _REGIONS)):
        given["region"] = fs.resolve_s3_region(parts.netloc)
    system = fs.S3FileSystem(
        **given,
        endpoint_override=host,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS - 1),
        allow_delayed_open=True,
    )
    return system, f"{parts.netloc}{parts.path}".rstrip("/")
