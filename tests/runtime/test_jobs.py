"""Ray Jobs, seen from the one who submits: how jobs end, broken connections, servers that do not answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import requests
from ray.job_submission import JobStatus

from raykd.errors import InputError, RaykdError
from raykd.runtime import jobs as module
from raykd.runtime.jobs import Ended, Follower, Jobs


class FakeClient:
    """Ray's client with a log of two parts; connections break where the script says so."""

    def __init__(self, *ends, log=("first\n", "second\n")):
        self.ends, self.log = list(ends), log

    def get_job_info(self, job):
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    async def tail_job_logs(self, job):
        yield self.log[0]
        if len(self.ends) > 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield self.log[1]


def details(status, code=None, message=None):
    return SimpleNamespace(status=status, driver_exit_code=code, message=message)


RUNNING = details(JobStatus.RUNNING)


@pytest.fixture
def jobs_with(monkeypatch):
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(*ends):
        monkeypatch.setattr(module, "_Client", lambda address: FakeClient(*ends))
        return Jobs("http://127.0.0.1:8265")

    return make


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (details(JobStatus.SUCCEEDED, 0), 0),
        (details(JobStatus.FAILED, 3, "failed with exit code 3"), 3),
        (details(JobStatus.FAILED, -9), 137),
        (details(JobStatus.STOPPED), 130),
        (details(JobStatus.FAILED, None, "no such package"), 1),
    ],
)
def test_the_exit_code_is_the_driver_s_own(jobs_with, end, code):
    ended = jobs_with(end).ended("job")
    assert ended.exit_code == code
    assert ended.message == ("no such package" if end.message == "no such package" else "")


def test_a_running_job_has_not_ended(jobs_with):
    assert jobs_with(RUNNING).ended("job") is None


def test_broken_connections_lose_no_part_of_the_log_and_repeat_none(jobs_with):
    lost = requests.ConnectionError("no route")
    jobs = jobs_with(RUNNING, lost, RUNNING, details(JobStatus.SUCCEEDED, 0))
    written = []
    assert Follower(jobs, "job", written.append).follow() == Ended(0)
    assert written == ["first\n", "second\n"]


def test_a_cluster_that_is_gone_is_an_error_that_names_the_job(jobs_with, monkeypatch):
    monkeypatch.setattr(module, "_LOST_TIMEOUT_S", -1.0)
    jobs = jobs_with(requests.ConnectionError("no route"), RUNNING)
    with pytest.raises(RaykdError, match="ray job status job7"):
        Follower(jobs, "job7", lambda text: None).follow()


def test_nothing_at_the_address(monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        InputError, match=r"--address: no Ray dashboard answers at http://127\.0\.0\.1:1 "
    ):
        Jobs("http://127.0.0.1:1")


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "_REQUEST_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(InputError, match="no Ray dashboard answers"):
            Jobs(address)


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"Unauthorized")

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def refusing(status):
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.status = status
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refuses the token"), (403, "refuses the token"), (404, "no Ray dashboard answers")],
)
def test_a_server_that_refuses(monkeypatch, status, words):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with refusing(status) as address, pytest.raises(InputError, match=words):
        Jobs(address)
