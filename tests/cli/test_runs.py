"""Whole runs through the command line, on Ray."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from raykd.train.checkpoint import STATES

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
# SIGINT may be ignored where the tests run in the background; children inherit that.
_MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from raykd.cli import main
sys.exit(main())
"""


_LISTENS = "0A"
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, as IPv4 and as the same address in IPv6."""


def test_a_run_ends_with_table_verdict_report_and_the_requirement_that_fails(finished):
    ended = finished.ended
    assert ended.code == 3, ended
    assert "student.test.accuracy > 1; found 0." in ended.err
    assert len(ended.err.splitlines()) == 1
    for text in ("| student", "| labels alone", "| wide", "| conv", "| ensemble", "points"):
        assert text in ended.out
    last = ended.out.splitlines()[-1]
    assert last == f"report: {finished.path / 'report' / 'index.html'}"
    assert (finished.path / "report" / "index.html").is_file()


def test_status_of_a_complete_run(finished, call):
    out = call("status", finished.path).out
    assert ": complete" in out
    assert "fits      6 of 6 done" in out
    assert "resume" not in out


def test_a_report_is_written_anew(finished, call, tmp_path):
    run = shutil.copytree(finished.path, tmp_path / "copy")
    shutil.rmtree(run / "report")
    ended = call("report", run)
    assert ended.code == 0, ended
    assert "| student" in ended.out
    assert (run / "report" / "index.html").is_file()
    assert call("report", run, "--quiet").out == f"{run / 'report' / 'index.html'}\n"


@pytest.fixture
def digits():
    bunch = load_digits()
    return (bunch.images[:30] / 16).astype(np.float32), bunch.target[:30]


def test_predictions_are_the_same_from_every_kind_of_file(finished, call, folder, digits):
    images, labels = digits
    ids = np.array([f"s{i}" for i in range(30)])
    np.savez("new.npz", inputs=images[:, None], ids=ids)
    np.save("new.npy", images)
    with Path("new.csv").open("w") as file:
        names = ",".join(f"pixel{i}" for i in range(64))
        file.write(f"{names},id\n")
        for key, image in zip(ids, images, strict=True):
            file.write(f"{','.join(map(str, image.ravel()))},{key}\n")
    printed = call("predict", finished.path, "new.npz")
    assert printed.code == 0, printed
    rows = list(csv.DictReader(printed.out.splitlines()))
    assert [row["id"] for row in rows] == ids.tolist()
    assert sum(int(r["prediction"]) == y for r, y in zip(rows, labels, strict=True)) > 6
    total = sum(float(value) for name, value in rows[0].items() if name.startswith("p_"))
    assert total == pytest.approx(1, abs=1e-4)
    assert call("predict", finished.path, "new.csv").out == printed.out
    plain = list(csv.DictReader(call("predict", finished.path, "new.npy").out.splitlines()))
    assert [row["prediction"] for row in plain] == [row["prediction"] for row in rows]
    assert call("predict", finished.path / "student", "new.csv", "--output", "p.csv").code == 0
    assert Path("p.csv").read_text() == printed.out
    assert call("predict", finished.path, "new.csv", "--output", "p.npz").code == 0
    with np.load("p.npz") as found:
        assert found["ids"].tolist() == ids.tolist()
        assert found["labels"].tolist() == [int(row["prediction"]) for row in rows]
        assert found["probabilities"].shape == (30, 10)


def test_predictions_join_to_the_data_and_are_those_of_the_exported_student(finished, call, folder):
    """At 7d0af11 there was no such file; `evaluation.safetensors` had logarithms and hashes."""
    found = pq.read_table(finished.path / "predictions.parquet").to_pydict()
    bunch = load_digits()
    ids = np.array(found["id"])
    assert found["label"] == [str(label) for label in bunch.target[ids]]
    assert {split: found["split"].count(split) for split in ("validation", "test")} == {
        "validation": 100,
        "test": 359,
    }
    np.savez("rows.npz", inputs=(bunch.images[ids, None] / 16).astype(np.float32), ids=ids)
    assert call("predict", finished.path, "rows.npz", "--output", "again.parquet").code == 0
    again = pq.read_table("again.parquet").to_pydict()
    assert (again["id"], again["prediction"]) == (found["id"], found["student"])
    np.testing.assert_allclose(again["p_3"], found["student.p_3"], atol=1e-6)
    test = np.array(found["split"]) == "test"
    right = np.array(found["teachers.wide"])[test] == np.array(found["label"])[test]
    summary = json.loads((finished.path / "summary.json").read_text())
    assert right.mean() == pytest.approx(summary["teachers"]["wide"]["test"]["accuracy"])
    assert "predictions.parquet" in (finished.path / "report" / "index.html").read_text()


def test_new_data_of_another_shape_is_refused(finished, call, folder):
    np.save("wrong.npy", np.zeros((4, 9), np.float32))
    ended = call("predict", finished.path, "wrong.npy")
    assert ended.code == 2
    assert "[1, 8, 8]" in ended.err
    np.save("nan.npy", np.full((4, 8, 8), np.nan, np.float32))
    assert call("predict", finished.path, "nan.npy").code == 2


def _children(session: int) -> list[str]:
    """Commands of the processes that are left of a session."""
    found = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True).stdout
    lines = [line.split(None, 2) for line in found.splitlines()[1:]]
    return [args for sid, state, args in lines if int(sid) == session and state[0] != "Z"]


def _listening(session: int) -> set[str]:
    """Addresses, in hexadecimals, at which processes of a session listen."""
    found = subprocess.run(["ps", "-eo", "pid=,sid="], capture_output=True, text=True).stdout
    sockets, addresses = set(), set()
    for pid, sid in (line.split() for line in found.splitlines()):
        if int(sid) == session:
            with contextlib.suppress(OSError):
                sockets |= {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def _until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def short():
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="rk-", dir="/tmp") as name:
        yield Path(name)


def test_ctrl_c_ends_with_130_and_the_run_resumes(finished, folder, call, short, monkeypatch):
    """And, since it is the one test of the suite with a cluster of its own: that is private, and nothing of it is left."""
    run = folder / "run"
    environment = {
        **os.environ,
        "TMPDIR": str(short),
        "RAYKD_HOME": str(finished.home),  # teachers and targets are there
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    words = [
        "run",
        str(finished.recipe),
        "--output",
        str(run),
        "train.epochs=120",
        "evaluate.controls=[]",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # else the whole test run would hear the signal
    )
    metrics = run / "metrics.jsonl"
    training = re.compile(r'"fit": "student/replica0".*"kind": "epoch"')
    try:
        begun = _until(lambda: metrics.is_file() and training.search(metrics.read_text()), 90)
        assert begun, process.communicate(timeout=1)
        assert _LOOPBACK & (addresses := _listening(process.pid)) == addresses != set()
        [own] = short.glob("raykd-*")
        assert own.stat().st_mode & 0o777 == 0o700
        os.killpg(process.pid, signal.SIGINT)
        sent = time.monotonic()
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, (out, err)
    assert time.monotonic() - sent < 20
    assert f"raykd run --resume --output {run}" in err
    assert "Traceback" not in err
    assert _until(lambda: not _children(process.pid), 15), _children(process.pid)
    assert not own.exists()
    assert "unfinished" in call("status", run).out
    fit = (
        run / "checkpoints" / "student" / "replica0"
    )  # the last state is put in place of the one before
    assert any((fit / name).is_file() for name in STATES)
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))
    resumed = call("run", "--resume", "--output", run, "--quiet")
    assert (resumed.code, resumed.out) == (3, f"{run}\n"), resumed
    assert "student.test.accuracy > 1; found 0." in resumed.err, "the recipe asks for too much"
    done = [json.loads(line) for line in metrics.read_text().splitlines()]
    first = [e for e in done if e["fit"] == "student/replica0" and e["epoch"] == 1]
    assert len(first) == 1, "the fit went on where it was, not from its beginning"
