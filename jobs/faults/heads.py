"""A head that goes down between two stages of a run, and a new cluster on which the run is resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from ray.cluster_utils import Cluster

from jobs.faults.scenario import Found
from raykd.folders import read_json

_FIT = {"epochs": 4, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
_RECIPE: dict[str, Any] = {
    "data": {"source": {"type": "digits"}, "splits": {"validation": 100, "test": 0.2},
             "labels": 200, "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]}},
    "teachers": [{"name": name, "model": {"type": "mlp", "width": width, "depth": 1}, "fit": _FIT}
                 for name, width in (("wide", 1.0), ("narrow", 0.5))],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {**_FIT, "epochs": 3},
    "evaluate": {"controls": ["labels"]},
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip
_NUMBERS = ("student", "controls", "teachers", "ensemble")
_LIMIT_S = 240.0


def restart_head(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (it is done once)
    """The whole cluster ends when the teachers are fitted; driver, head and nodes are new afterwards."""
    recipe, undisturbed, run = folder / "recipe.yaml", folder / "undisturbed", folder / "run"
    recipe.write_text(yaml.safe_dump(_RECIPE), encoding="utf-8")

    def cluster() -> Any:
        given = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 128 * 2**20}
        return Cluster(initialize_head=True, head_node_args=given)

    first = cluster()
    job = _start(recipe, run, str(first.address), folder / "home")
    try:
        _until_fitted(run, job)
    finally:
        job.kill()
        job.wait()
        first.shutdown()
    before = _fitted(run)
    second = cluster()
    try:
        code = _start(recipe, run, str(second.address), folder / "home", "--resume").wait(_LIMIT_S)
        other = _start(recipe, undisturbed, str(second.address), folder / "another").wait(_LIMIT_S)
    finally:
        second.shutdown()
    if code or other:
        return Found(f"exit codes {code} resumed, {other} undisturbed", passed=False)
    resumed, wanted = (read_json(path / "summary.json") for path in (run, undisturbed))
    same = all(_scores(resumed[name]) == _scores(wanted[name]) for name in _NUMBERS)
    again = _fitted(run) - before
    said = f"{before} teachers fitted before, {again} after; every score "
    said += "that of an undisturbed run" if same else "NOT that of an undisturbed run"
    return Found(said, same and before == 2 and again == 0 and resumed["status"] == "complete")


def _scores(summary: Any) -> Any:
    """Metrics on validation and test, wherever they stand; without cost and time."""
    if not isinstance(summary, dict):
        return summary
    if "validation" in summary:
        return {split: summary[split] for split in ("validation", "test") if split in summary}
    return {name: _scores(one) for name, one in summary.items()}


def _start(
    recipe: Path, run: Path, address: str, home: Path, *more: str
) -> subprocess.Popen[bytes]:
    words = ["run", str(recipe), "--output", str(run), "--address", address, "--quiet", *more]
    return subprocess.Popen(  # noqa: S603 (ourselves)
        [sys.executable, "-m", "raykd", *words], env={**os.environ, "RAYKD_HOME": str(home)}
    )


def _lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def _fitted(run: Path) -> int:
    """How many times a teacher's training was finished."""
    return sum(
        line["kind"] == "fit" and line["stage"] == "teachers" and line["state"] == "finished"
        for line in _lines(run)
    )


def _until_fitted(run: Path, job: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _LIMIT_S
    while not any(
        (line["kind"], line["stage"], line.get("state")) == ("stage", "teachers", "finished")
        for line in _lines(run)
    ):
        if job.poll() is not None or time.monotonic() > until:
            raise RuntimeError("the run ended before its teachers were fitted")
        time.sleep(0.02)
