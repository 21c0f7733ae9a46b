"""The benchmark job: what it prints and writes, not how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

JOB = Path(__file__).parents[2] / "jobs" / "benchmark.py"
SMALLEST = ("--units", "2", "--classes", "2", "--teachers", "2", "--repeats", "5")


def run(*arguments):
    command = [sys.executable, str(JOB), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_row_for_every_loss_of_logits_and_every_weighting(tmp_path):
    from raykd.ensemble import WEIGHTINGS

    done = run(*SMALLEST, "--only", "objective", "--output", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["sizes"] == {"units": 2, "classes": 2, "teachers": 2, "repeats": 5}
    assert set(found["benchmarks"]) == {"objective"}
    first, *rows = found["benchmarks"]["objective"]
    losses = ("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist")
    cases = {f"{loss}, uniform" for loss in losses} | {f"kl, {name}" for name in WEIGHTINGS}
    assert {row["name"] for row in rows} == cases
    assert len(rows) == len(cases)
    for row in (first, *rows):
        assert set(row) == {
            "name", "median_ms", "min_ms", "spread_ms", "ratio", "percent_of_step",
        }  # fmt: skip
        assert 0 < row["min_ms"] <= row["median_ms"]
        assert row["spread_ms"] >= 0
        assert row["percent_of_step"] == 2 * row["median_ms"]
        assert row["name"] in done.stdout
    assert first["ratio"] == 1


def test_wrong_arguments_are_explained():
    assert "known: objective" in run("--only", "objective,nonsense").stderr
    assert "at least 5" in run("--repeats", "2").stderr
