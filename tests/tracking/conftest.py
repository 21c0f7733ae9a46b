from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class FakeClock:
    """Seconds that pass only in `sleep`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeNotifier:
    def __init__(self) -> None:
        self.printed: list[str] = []
        self.warned: list[str] = []

    def print(self, text: str) -> None:
        self.printed.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def notifier() -> FakeNotifier:
    return FakeNotifier()


@pytest.fixture(autouse=True)
def no_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees an account of whoever runs it."""
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "MODE", "DIR", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def read_wandb():
    return read_wandb_file


@pytest.fixture
def healthy() -> Iterator[str]:
    """Address of a service that says yes to everything."""
    with answering(200, 200) as url:
        yield url


@pytest.fixture
def sick(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a service that is not well; how is the parameter."""
    with sick_service(request.param) as url:
        yield url


@contextmanager
def answering(code: int, refuse: int) -> Iterator[str]:
    """A service on the loopback that answers every GET with one code and every POST with another."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_GET(self) -> None:
            self._answer(code)

        def do_POST(self) -> None:
            self._answer(refuse)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def sick_service(how: str) -> Iterator[str]:
    """Address of a service that refuses connections, takes them and says nothing, or answers a code."""
    if how in ("401", "500"):
        with answering(200 if how == "401" else 500, int(how)) as url:
            yield url
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if how == "silent":
            listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B's client reads the environment once and keeps one process; both end here."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


# An offline W&B run is a LevelDB-style log of protobuf records.
_BLOCK = 32768
_HEADER = 7


@dataclass
class Stored:
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read_wandb_file(path: Path, *, timeout_s: float = 10.0) -> Stored:
    """The run in a `.wandb` file, once its exit record is there."""
    deadline = time.monotonic() + timeout_s
    while True:
        stored = _collect(path)
        if stored.exit_code is not None:
            return stored
        assert time.monotonic() < deadline, f"no exit record in {path} after {timeout_s} s"
        time.sleep(0.1)


def _collect(path: Path) -> Stored:
    stored = Stored()
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            stored.run = record.run
            stored.config |= _items(record.run.config.update)
        elif kind == "history":
            stored.history.append(_items(record.history.item))
        elif kind == "summary":
            stored.summary |= _items(record.summary.update)
        elif kind == "metric":
            stored.metrics.append(record.metric)
        elif kind == "config":
            stored.config |= _items(record.config.update)
        elif kind == "artifact":
            stored.artifacts[record.artifact.name] = record.artifact
        elif kind == "exit":
            stored.exit_code = record.exit.exit_code
    return stored


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2 as pb

    raw, place, whole = path.read_bytes(), _HEADER, b""
    while place < len(raw):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[place : place + _HEADER])
        part = raw[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind == 0 and length == 0:
            return
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(whole)
            yield record
