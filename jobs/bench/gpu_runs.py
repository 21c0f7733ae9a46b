"""Whole runs on one card: teachers and student on it together, and what the driver's own processor does meanwhile."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs import ROOT
from jobs.bench.gpu_recipes import Result, Smoke
from raykd.config import Config
from raykd.pipeline import Options, run
from raykd.tracking import Console, Event

_SECONDS = 5.0
_NO_TESTS = 5  # pytest found none


class _Clock(Console):
    """Notes the driver's processor time at the beginning and end of stages."""

    def __init__(self) -> None:
        super().__init__(quiet=True, stream=io.StringIO())
        self.cpu_s: dict[str, float] = {}

    def on(self, event: Event) -> None:
        """See `Console`."""
        super().on(event)
        if event.kind == "stage":
            sign = -1 if event.values["state"] == "started" else 1
            self.cpu_s[event.stage] = self.cpu_s.get(event.stage, 0.0) + sign * time.process_time()


def marked_tests(smoke: Smoke) -> list[Result]:
    """The tests that carry the mark `gpu`; without a GPU they are skipped."""
    del smoke
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    passes = done.returncode in (0, _NO_TESTS)
    if not passes:
        print(done.stdout[-4000:], file=sys.stderr)
    return [Result("pytest -m gpu", float(done.returncode), "exit code", "= 0", passes)]


def whole_runs(smoke: Smoke) -> list[Result]:
    """A run whose two live teachers share a card with the student, one with them in its process, and one from the store."""
    part, teachers = (0.4 if smoke.on_gpu else 0.0), [smoke.fitted("a"), smoke.fitted("b")]
    own = 0.2 if smoke.on_gpu else 0.0
    live = _run(smoke, teachers, {"student": {"gpus": own, "cpus": 1}, "teachers": {"gpus": part, "cpus": 0.4, "batch_size": smoke.batch}},
                targets={"mode": "live"})  # fmt: skip
    inside = _run(smoke, teachers, {"student": {"gpus": float(smoke.on_gpu), "cpus": 1}, "teachers": {"where": "student", "batch_size": smoke.batch}})  # fmt: skip
    views = {"count": 2, "policy": [{"type": "flip"}]}
    data = {**smoke.recipe().model_dump(mode="json")["data"], "views": views}
    stored = _run(smoke, teachers[:1], None, data=data)
    results = [
        Result(f"live, {name}: {what}", found["targets"][what], "of its time")
        for name, (found, _) in {
            "teachers beside the student": live,
            "in its process": inside,
        }.items()
        for what in ("teacher_wait_fraction",)
    ]
    results += [_ended(f"whole run, {name}", found) for name, (found, _) in
                {"live on one card": live, "teachers in the student": inside, "stored": stored}.items()]  # fmt: skip
    seconds = stored[1]["evaluate"]
    return [*results, Result("driver, processor time of evaluate", seconds, "s", f"< {_SECONDS:g}", seconds < _SECONDS)]  # fmt: skip


def _ended(name: str, summary: dict[str, Any]) -> Result:
    complete = summary["status"] == "complete"
    return Result(name, float(complete), "complete", "= 1", complete)


def _run(
    smoke: Smoke,
    teachers: Sequence[dict[str, Any]],
    cluster: dict[str, Any] | None,
    **sections: Any,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The summary of a run, and the driver's processor seconds by stage."""
    if cluster is not None:
        sections["cluster"] = cluster
    config: Config = smoke.recipe(teachers, **sections)
    clock = _Clock()
    with TemporaryDirectory() as root:
        result = run(config, Options(output=Path(root) / "run"), console=clock)
    return dict(result.summary), clock.cpu_s
