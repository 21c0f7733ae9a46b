"""An object store that answers every fifth request with an error, and some not at all."""

from __future__ import annotations

import http.client
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from jobs.faults.scenario import Found
from raykd.errors import TargetError
from raykd.targets import EntryKey
from raykd.targets.maintenance import verify_store
from raykd.targets.remote import Remote
from raykd.targets.shards import Shard, write_shard
from raykd.targets.store import Entry

ERRORS = 0.2
_ROWS, _CLASSES = 16, 50
_HOP_BY_HOP = {"transfer-encoding", "connection", "content-length", "expect"}
_TRIES = 5
_SILENT_S = 30.0
KEY = EntryKey("a" * 32, "shift seed 0")


class Flaky:
    """A proxy on a loopback port before an S3 server; the last of many attempts is still a chance.

    Attributes:
        uri: of an empty place in a bucket behind it.
        done: requests by what became of them: `passed`, `refused`, `lost answer`, `silent`.
    """

    def __init__(self, server: Any, *, errors: float, silent: int, seed: int = 0) -> None:
        host, port = server.get_host_and_port()
        self.target = f"{host}:{port}"
        self.errors, self.silent = errors, silent
        self.done: Counter[str] = Counter()
        self._draw, self._lock = Random(seed), threading.Lock()
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("_Own", (_Handler,), {"flaky": self})
        )
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        query = f"endpoint_override=http://127.0.0.1:{self._http.server_port}&region=us-east-1"
        self.uri = f"s3://{_bucket(self.target)}/store?{query}"

    def fate(self) -> str:
        """What becomes of the next request."""
        with self._lock:
            chance = self._draw.random()
            if chance < self.errors:
                found = "refused" if chance < self.errors / 2 else "lost answer"
            elif self.silent and self.done["passed"] > 10 and chance > 0.9:
                self.silent -= 1
                found = "silent"
            else:
                found = "passed"
            self.done[found] += 1
            return found

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on to the server, or not, as the proxy that it belongs to has it."""

    protocol_version = "HTTP/1.1"
    flaky: Flaky

    def _pass_on(self) -> None:
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = int(self.headers.get("Content-Length") or 0)
        body = b"".join(self._chunks()) if chunked else self.rfile.read(length)
        fate = self.flaky.fate()
        if fate == "silent":
            time.sleep(_SILENT_S)
            self.close_connection = True
        elif fate == "refused":
            self._answer(503, [], b"")
        else:
            status, headers, content = self._asked(body)
            lost = fate == "lost answer"  # it was done, and whoever asked does not learn of it
            self._answer(500, [], b"") if lost else self._answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """What follows the last chunk."""

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection(self.flaky.target, timeout=_SILENT_S)
        given = {n: v for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP}
        server.request(self.command, self.path, body, given)
        answer = server.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        server.close()
        return found

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        given = {name.lower(): value for name, value in headers}
        length = given.get("content-length") if self.command == "HEAD" else None
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _bucket(target: str) -> str:
    """A new one, made without errors."""
    from pyarrow import fs

    system = fs.S3FileSystem(
        endpoint_override=target, scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    system.create_dir("raykd-flaky")
    return "raykd-flaky"


def sick_bucket(folder: Path, quick: bool) -> Found:
    """Shards are uploaded by one node and brought by another, while the bucket is sick."""
    os.environ.update(AWS_ACCESS_KEY_ID="chaos", AWS_SECRET_ACCESS_KEY="chaos")  # noqa: S106 (of no service)
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    flaky = Flaky(server, errors=ERRORS, silent=0 if quick else 3)
    try:
        return exchange(folder, flaky, shards=6 if quick else 100)
    finally:
        flaky.close()
        server.stop()


def exchange(folder: Path, flaky: Flaky, shards: int) -> Found:
    """Write and read through the proxy; what raises is done again, as the next run does."""
    writer, reader = Remote(flaky.uri, folder / "writer"), Remote(flaky.uri, folder / "reader")
    raised, longest_s = 0, 0.0

    def bounded(action: Any) -> None:
        nonlocal raised, longest_s
        for _ in range(_TRIES):
            begun = time.monotonic()
            try:
                action()
            except TargetError:
                raised += 1
            else:
                return
            finally:
                longest_s = max(longest_s, time.monotonic() - begun)

    written = [_shard(writer.root, view) for view in range(shards)]
    for shard in written:
        bounded(lambda shard=shard: writer.keep(KEY, [shard]))
    bounded(lambda: writer.sync([KEY]))
    bounded(lambda: reader.pull([KEY]))
    found = {shard.file for shard in Entry(reader.root, KEY).shards}
    lost = len({shard.file for shard in written} - found)
    whole = not verify_store(reader.root).problems
    done = flaky.done
    said = f"{done.total()} requests, {done['refused'] + done['lost answer']} errors, {done['silent']} "
    said += f"never answered; {lost} of {shards} shards lost, {'none' if whole else 'SOME'} damaged; {raised} "
    said += f"operations raised and were done again; the longest took {longest_s:.1f} s"
    return Found(said, not lost and whole and done.total() > done["passed"])


def _shard(root: Path, view: int) -> Shard:
    rows = np.arange(_ROWS)
    arrays: dict[str, np.ndarray] = {
        "ids": rows,
        "hashes": rows.astype(np.uint64),
        "values": np.full((_ROWS, _CLASSES), view, np.float16),
        "offset": np.zeros(_ROWS, np.float32),
    }
    return write_shard(root / KEY.folder, view, arrays, KEY.to_json())
