"""Whole runs of language models through the command: live as stored, resumed as undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from raykd.cli import main
from raykd.folders import read_json
from raykd.models.weights import load_weights

pytestmark = [pytest.mark.soak, pytest.mark.ray]
_LONGEST_S = 300
RECIPE = {
    "task": "language",
    "seeds": 1,
    "data": {
        "source": {"type": "factory", "path": "tests_tasks_data:text_data"},
        "splits": {"validation": 8, "test": 8},
        "tokens": {"length": 24},
    },
    "teachers": [
        {"name": "prose", "model": {"type": "ngram", "order": 3}, "domains": ["prose"]},
        {"name": "code", "model": {"type": "ngram", "order": 3}, "domains": ["code"]},
    ],
    "student": {"model": {"type": "gru_lm", "width": 0.125}},
    "objective": {"weighting": {"type": "bayesian"}, "soft_targets": {"temperature": 1.0}},
    "evaluate": {"controls": []},
    "train": {
        "epochs": 6,
        "batch_size": 16,
        "optimizer": {"type": "adamw", "lr": 0.02},
        "checkpoint_every_epochs": 1,
    },
}


def command(folder: Path, name: str, *more: str, recipe=RECIPE) -> list[str]:
    """A run of a recipe into a folder of that name."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return ["run", str(file), "--output", str(folder / name), "--quiet", *more]


def numbers(run: Path) -> dict:
    """What the summary says of the student; and its weights."""
    summary = read_json(run / "summary.json")
    return {name: summary["student"][name] for name in ("validation", "test", "test_last")}


def same_weights(one: Path, other: Path) -> bool:
    found = [
        load_weights(run / "checkpoints/student/replica0/last.safetensors", key="weights")
        for run in (one, other)
    ]
    return all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("few", [{}, {"full_up_to": 100, "top_k": 6}, {"draws": 8}])
def test_live_answers_teach_what_stored_ones_do_bit_for_bit(tmp_path, monkeypatch, few):
    """Of all tokens and of few; the latter are learnt in chunks."""
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    weighting = {"type": "uniform" if "draws" in few else "bayesian"}
    for mode in ("stored", "live"):
        recipe = {**RECIPE, "targets": {"mode": mode, **few}}
        recipe["objective"] = {**RECIPE["objective"], "weighting": weighting}
        assert main(command(tmp_path, mode, recipe=recipe)) == 0
    stored, live = tmp_path / "stored", tmp_path / "live"
    assert read_json(live / "summary.json")["targets"]["mode"] == "live"
    assert same_weights(stored, live)
    assert numbers(stored) == numbers(live)


def epochs_told(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count('"kind": "epoch"') if file.is_file() else 0


def test_killed_at_five_points_it_ends_as_undisturbed(tmp_path):
    """SIGKILL after the first epoch, then after each of the next four; each time the command goes on."""
    environment = {**os.environ, "RAYKD_HOME": str(tmp_path / "home")}

    def started(name: str, *more: str) -> subprocess.Popen[bytes]:
        given = [sys.executable, "-m", "raykd", *command(tmp_path, name, *more)]
        return subprocess.Popen(given, env=environment, start_new_session=True)

    assert started("whole").wait(_LONGEST_S) == 0
    run, kills = tmp_path / "killed", 0
    for point in range(1, 6):
        process = started("killed", *(["--resume"] if run.is_dir() else []))
        until = time.monotonic() + _LONGEST_S
        while process.poll() is None and epochs_told(run) < point and time.monotonic() < until:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait(_LONGEST_S)
    assert started("killed", "--resume").wait(_LONGEST_S) == 0
    assert kills >= 1, "it was never in time"
    assert same_weights(tmp_path / "whole", run)
    assert numbers(tmp_path / "whole") == numbers(run)
