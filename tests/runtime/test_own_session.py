"""The folder of a cluster of one's own: private, gone however its driver ends, its logs kept without secrets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from raykd.errors import InputError, RaykdError, TrainingError
from raykd.folders import RunFolder
from raykd.pipeline import session
from raykd.runtime import cluster, own_session
from raykd.runtime.own_session import OwnSession, temporary_parent

_ROOT = Path(__file__).parents[2]
# A driver whose worker, in a process group of its own, writes a log, as does a process of the driver's own group, and
# which has forked a child that holds its pipes open; it prints the folder, and waits.
_DRIVER = """
import os, subprocess, time
from raykd.runtime.own_session import OwnSession
session = OwnSession()
os.makedirs(session.temporary)
with open(session.temporary + "/worker.out", "w") as log, open(session.temporary + "/worker.out") as read:
    worker = subprocess.Popen(["sleep", "600"], stdout=log, start_new_session=True)
    reader = subprocess.Popen(["sleep", "600"], stdin=read, start_new_session=True)
    own = subprocess.Popen(["sleep", "600"], stdout=log)
if not (child := os.fork()):
    time.sleep(600)
print(session.folder, worker.pid, reader.pid, own.pid, child, flush=True)
END
"""


def _started(end: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER.replace("END", end)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    folder, *pids = driver.stdout.readline().split()
    return driver, Path(folder), [int(pid) for pid in pids]


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def _until(condition) -> bool:
    for _ in range(300):
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("end", ["time.sleep(600)", "session.end()"], ids=["killed", "ended"])
def test_nothing_is_left_however_the_driver_ends(end):
    driver, folder, (worker, reader, own, child) = _started(end)
    try:
        if "sleep" in end:
            assert folder.is_dir()
            assert folder.stat().st_mode & 0o777 == 0o700
            driver.send_signal(signal.SIGKILL)
        driver.wait(60)
        assert _until(lambda: not folder.exists())
        assert _until(lambda: not _alive(worker))
        assert _alive(reader), "who only reads a log is left alone"
        if "sleep" in end:
            assert _until(lambda: not _alive(own))
        else:
            assert _alive(own), "the driver goes on, with what it has started"
    finally:
        for pid in (worker, reader, own, child):
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_signals_to_everything_do_not_end_the_watcher(monkeypatch):
    own = OwnSession()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        own._watcher.send_signal(number)
    time.sleep(0.3)
    assert own._watcher.poll() is None
    own.end()
    assert own._watcher.returncode == 0
    assert not own.folder.exists()


def test_a_folder_of_temporary_files_too_long_for_sockets(monkeypatch, tmp_path):
    """At 7d0af11: OSError: AF_UNIX path length cannot exceed 107 bytes, "a defect of raykd"."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/scratch/" + 87 * "x")
    assert temporary_parent() == Path(own_session._SHORT)
    monkeypatch.setattr(own_session, "_SHORT", "/proc/no-folder-can-be-made-here")
    with pytest.raises(InputError, match=r"\$TMPDIR: .* has 96 characters.*set RAY_TMPDIR"):
        temporary_parent()
    monkeypatch.setattr(tempfile, "tempdir", str(short := tmp_path.parents[-2]))
    assert temporary_parent() == short


@pytest.fixture
def own():
    """A session with logs of Ray's processes in it."""
    made = OwnSession()
    logs = Path(made.temporary) / "session_2026-11-29_00-00-00_000000_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.out").write_text("epoch 1\nthe key canary-4711 and API_TOKEN=short\n")
    (logs / "worker-1.err").write_text("")
    (logs / "raylet.out").write_bytes(b"x" * 6_000_000 + b"the end")
    (logs / "monitor.log").write_text("of no use")
    yield made
    made.end()


def test_logs_are_kept_without_secrets_and_within_bounds(own, tmp_path):
    target = tmp_path / "logs"
    target.mkdir()
    (target / "worker-0.out").write_text("of the failure before")
    assert own.keep_logs(target, {"MY_SECRET": "canary-4711"})
    kept = {file.name: file.read_bytes() for file in target.iterdir()}
    assert kept.keys() == {"worker-1.out", "raylet.out"}
    assert kept["worker-1.out"] == b"epoch 1\nthe key *** and API_TOKEN=***\n"
    assert len(kept["raylet.out"]) == own_session._MOST_OF_ONE
    assert kept["raylet.out"].endswith(b"xthe end")
    assert sum(map(len, kept.values())) <= own_session._MOST_BYTES == 20_000_000


def test_many_logs_stay_within_the_bound_the_workers_first(own, tmp_path, monkeypatch):
    monkeypatch.setattr(own_session, "_MOST_BYTES", 100)
    assert own.keep_logs(tmp_path / "logs", {})
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "logs").iterdir()}
    assert sizes["worker-1.out"] > 40
    assert sum(sizes.values()) == 100


def test_where_the_logs_of_a_failed_job_are_is_said(own, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.Own, "session", own)
    folder = RunFolder(tmp_path)
    error = TrainingError("student training failed")
    session._note_logs(error, folder)
    assert error.__notes__ == [f"logs of its processes: {folder.logs}"]
    told = InputError.at("data", "is wrong")
    session._note_logs(told, folder)
    assert not hasattr(told, "__notes__"), "what a user gave wrong is told without them"
    monkeypatch.setattr(cluster.Own, "session", None)
    other = TrainingError("on a cluster of others")
    session._note_logs(other, folder)
    assert not hasattr(other, "__notes__")


@pytest.mark.parametrize(("late", "starts"), [(2, 3), (9, 3)], ids=["the third", "never"])
def test_ray_is_started_again_where_it_was_too_late(monkeypatch, late, starts):
    folders = []

    def init(**given):
        folders.append(Path(given["_temp_dir"]).parent)
        assert folders[-1].is_dir()
        assert given["_system_config"].setdefault("spills to", folders[-1]) == folders[-1]
        if len(folders) <= late:
            raise Exception("The current node timed out during startup.")  # noqa: TRY002 (as Ray does)

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        if late < starts:
            cluster.start(None)
        else:
            with pytest.raises(RaykdError, match="did not start on this machine, 3 times"):
                cluster.start(None)
        assert len(set(folders)) == starts
        assert [folder.exists() for folder in folders] == [False, False, late < starts]
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        cluster.stop()
    assert not folders[-1].exists()


def test_other_mistakes_are_not_tried_again(monkeypatch):
    def init(**given):
        raise ValueError("object_store_memory is too small")

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    with pytest.raises(ValueError, match="too small"):
        cluster.start(None)
    assert cluster.Own.session is None
