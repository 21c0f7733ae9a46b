"""Whole jobs through Ray Jobs on two real nodes with token authentication."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
_WAIT_S = 600
_FITTING = re.compile(r'"fit": "teacher/wide".*"kind": "epoch"')


@pytest.fixture
def recipe(tmp_path, tiny_recipe):
    """Two small teachers, a student and one control."""
    fit = tiny_recipe["teachers"][0]["fit"]
    teachers = [
        {"name": name, "model": {"type": "mlp", "width": width, "depth": 1}, "fit": fit}
        for name, width in (("wide", 1.0), ("narrow", 0.5))
    ]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny_recipe, "teachers": teachers}))
    return path


def ended(process):
    try:
        out, err = process.communicate(timeout=_WAIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def everything_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_job_runs_ends_with_its_own_code_and_shows_no_secret(cluster, submit, recipe, tmp_path):
    run = tmp_path / "shared" / "run"
    missed = 'evaluate.require=["student.test.accuracy > 1"]'
    code, out, err = ended(submit("run", "recipe.yaml", "--output", run, missed))
    assert code == 3, (out, err)
    assert re.match(rf"job raysubmit_\w+ on {cluster.url};", out)
    assert "student.test.accuracy > 1; found" in out, "the log of the driver"
    assert out.count("--- report ---") == 1, "each part of it once"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "complete"
    (job,) = [job for job in cluster.ask("/api/jobs/") if str(run) in job["entrypoint"]]
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 3)
    assert job["submission_id"] in out
    secrets = [Path(cluster.env["RAY_AUTH_TOKEN_PATH"]).read_text(), "canary-5c0ffee"]
    shown = {Path("jobs"): json.dumps(job).encode(), Path("out"): (out + err).encode()}
    shown |= everything_below(tmp_path) | everything_below(Path(cluster.folder))
    del shown[Path(cluster.env["RAY_AUTH_TOKEN_PATH"])]
    assert len(shown) > 20
    found = [path for path, data in shown.items() if any(s.encode() in data for s in secrets)]
    assert found == []


@pytest.mark.soak
def test_ctrl_c_stops_the_job_which_can_go_on(cluster, submit, recipe, tmp_path):
    run = tmp_path / "shared" / "run"
    process = submit("run", "recipe.yaml", "--output", run, "teachers.wide.fit.epochs=99999")
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + _WAIT_S
    while not (metrics.is_file() and _FITTING.search(metrics.read_text())):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, (out, err)
    assert f"raykd submit --address {cluster.url} run recipe.yaml --output {run}" in err
    assert err.rstrip().endswith("--resume")
    stopped = [job for job in cluster.ask("/api/jobs/") if str(run) in job["entrypoint"]]
    assert [job["status"] for job in stopped] == ["STOPPED"]


def test_without_the_token_nothing_is_sent(cluster, submit, recipe, tmp_path):
    before = len(cluster.ask("/api/jobs/"))
    words = ("run", "recipe.yaml", "--output", tmp_path / "run")
    code, out, err = ended(submit(*words, RAY_AUTH_TOKEN="0" * 64))
    assert (code, out) == (2, "")
    assert "refuses the token" in err
    assert len(cluster.ask("/api/jobs/")) == before
