"""The smoke test of a GPU, on the CPU: what it prints and how it ends, not how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).parents[2] / "jobs" / "gpu_smoke.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def job():
    specification = importlib.util.spec_from_file_location("raykd_gpu_smoke_job", JOB)
    found = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)
    return found


def test_steps_on_the_cpu(job, tmp_path, capsys):
    file = tmp_path / "table.json"
    assert job.main(["--cpu", "--only", "steps", "--output", str(file)]) == 0
    rows = {row["name"]: row for row in json.loads(file.read_text())["results"]}
    for way in ("synthetic", "+ copy", "+ views", "+ stored targets", "synthetic, with a tap"):
        assert rows[f"student step: {way}"]["value"] > 0
    bar = rows["student step: + stored targets / synthetic"]
    assert "0.95" in bar["bar"]
    assert bar["holds"] is None, "no speed is held against a bar on a CPU"
    assert "every bar holds" in capsys.readouterr().out


def test_a_missed_bar_and_a_failure_are_exit_code_1(job, monkeypatch, capsys):
    from jobs.bench.gpu_recipes import Result

    def fails(smoke):
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(
        job.CHECKS, "steps", lambda smoke: [Result("rate", 0.5, "ratio", ">= 0.9", False)]
    )
    monkeypatch.setitem(job.CHECKS, "tests", fails)
    monkeypatch.setitem(job.CHECKS, "runs", lambda smoke: [Result("fine", 1.0, "", "= 1", True)])
    assert job.main(["--cpu", "--only", "tests,steps,runs"]) == 1
    out = capsys.readouterr()
    assert "no kernel image" in out.err
    assert "2 missed: tests: failed, see above, rate" in out.out, "all are tried all the same"
    assert job.main(["--cpu", "--only", "runs"]) == 0


def test_bars_of_speed_are_for_gpus(job):
    from jobs.bench.gpu_recipes import on_a_cpu, on_a_gpu

    assert on_a_gpu().fast("x", 0.8, 0.9).holds is False
    assert on_a_gpu().fast("x", 0.95, 0.9).holds is True
    assert on_a_cpu().fast("x", 0.1, 0.9).holds is None
    assert not math.isnan(on_a_gpu().samples)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so(job, capsys):
    with pytest.raises(SystemExit) as ended:
        job.main([])
    assert ended.value.code == 2
    assert "--cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        job.main(["--cpu", "--only", "stepps"])


@pytest.mark.ray
@pytest.mark.soak
def test_everything_on_the_cpu(job, tmp_path):
    file = tmp_path / "table.json"
    assert job.main(["--cpu", "--only", "teachers,repeatable,runs", "--output", str(file)]) == 0
    rows = {row["name"]: row for row in json.loads(file.read_text())["results"]}
    assert rows["dense features: largest difference"]["value"] == 0
    assert rows["answers, after an actor was killed"]["holds"]
    assert rows["whole run, teachers in the student"]["holds"]
    assert rows["driver, processor time of evaluate"]["holds"]
