"""A small run in a process of its own, and what is held against an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.tracking.jsonl import METRICS, read_lines

_FIT = {"epochs": 3, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
RECIPE: dict[str, Any] = {
    "data": {"source": {"type": "digits"}, "splits": {"validation": 100, "test": 0.2},
             "labels": 200, "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]}},
    "teachers": [{"name": name, "model": {"type": "mlp", "width": width, "depth": 1}, "fit": _FIT}
                 for name, width in (("wide", 1.0), ("narrow", 0.5))],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": _FIT,
    "evaluate": {"controls": ["labels"]},
    "cluster": {"student": {"parallel_fits": 1, "start_timeout_s": 600}, "teachers": {"start_timeout_s": 600}},
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip
NUMBERS = ("student", "controls", "teachers", "ensemble", "fidelity", "gains")
_LIMIT_S = 900.0
_POLL_S = 0.1
_LATE = "node timed out during startup"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; None = it had to be killed.
        said: what it wrote, a line each.
        seconds: how long it took.
    """

    code: int | None
    said: tuple[str, ...]
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong; a traceback has others."""
        return [line for line in self.said if line.startswith("error  ")]

    @property
    def clear(self) -> bool:
        """Whether it says in one line what is wrong, and that nothing is wrong with raykd."""
        plain = not any("Traceback" in line or "an error in raykd" in line for line in self.said)
        return plain and len(self.errors) == 1


@dataclass(frozen=True)
class Small:
    """The recipe, and what runs it.

    Attributes:
        folder: where recipe, homes and runs lie.
        environment: variables of the process beside those of this one.
        before: what a shell does before, such as `ulimit -n 64`.
        recipe: what is run.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    recipe: Mapping[str, Any] = field(default_factory=lambda: RECIPE)

    def run(
        self, run: Path, *more: str, home: Path, during: Callable[[], None] | None = None
    ) -> Ended:
        """`raykd run` of the recipe.

        Args:
            run: its folder.
            more: other words.
            home: raykd's.
            during: called again and again while it runs.
        """
        recipe = self.written()
        return self.command(
            "run", str(recipe), "--output", str(run), *more, home=home, during=during
        )

    def written(self) -> Path:
        """The file of the recipe."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(dict(self.recipe)), encoding="utf-8")
        return path

    def command(
        self, *words: str, home: Path, during: Callable[[], None] | None = None, tries: int = 3
    ) -> Ended:
        """A command of raykd, to its end; again where Ray did not start within its 30 s, as on a machine under load."""
        process, log, begun = self.start(*words, home=home)
        until = begun + _LIMIT_S
        while process.poll() is None and time.monotonic() < until:
            if during is not None:
                during()
            time.sleep(_POLL_S)
        over = process.poll() is None
        if over:
            process.kill()
            process.wait()
        said = tuple(log.read_text(encoding="utf-8", errors="replace").splitlines())
        if tries > 1 and any(_LATE in line for line in said):
            return self.command(*words, home=home, during=during, tries=tries - 1)
        return Ended(None if over else process.returncode, said, time.monotonic() - begun)

    def start(self, *words: str, home: Path) -> tuple[subprocess.Popen[bytes], Path, float]:
        """A command of raykd: its process, the file that it writes to, and when it began."""
        log = self.folder / f"log-{time.monotonic_ns()}.txt"
        own = {**os.environ, **self.environment, "RAYKD_HOME": str(home)}
        command = [sys.executable, "-m", "raykd", *words]
        if self.before:
            command = ["bash", "-c", f'{self.before}; exec "$@"', "bash", *command]
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 (ourselves)
                command, env=own, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
            )
        return process, log, time.monotonic()


def outcome(run: Path) -> dict[str, Any]:
    """Numbers of a finished run, without cost and time, and the fingerprint of its student's weights."""
    summary = read_json(RunFolder(run).summary)
    weights = load_weights(RunFolder(run).student / "model.safetensors", key="student")
    numbers = {name: scores(summary.get(name)) for name in NUMBERS}
    return {"status": summary["status"], "weights": fingerprint(weights), **numbers}


def scores(summary: Any) -> Any:
    """Metrics on validation and test, wherever they stand; without cost and time."""
    if not isinstance(summary, dict):
        return summary
    if "validation" in summary:
        return {split: summary[split] for split in ("validation", "test") if split in summary}
    return {name: scores(one) for name, one in summary.items()}


def lines(run: Path) -> list[dict[str, Any]]:
    """The events of a run so far."""
    path = run / METRICS
    return read_lines(path) if path.is_file() else []


def reached(run: Path, stage: str, state: str = "finished") -> bool:
    """Whether a stage of a run is at such a state by now."""
    wanted = ("stage", stage, state)
    return any((one["kind"], one["stage"], one.get("state")) == wanted for one in lines(run))


def fitted(run: Path, stage: str = "teachers") -> int:
    """How many times a fit of a stage was finished."""
    wanted = ("fit", stage, "finished")
    return sum((one["kind"], one["stage"], one.get("state")) == wanted for one in lines(run))


def finished_fits(run: Path) -> dict[str, int]:
    """Result file of each finished fit of a run, and kept card of each teacher of a home -> when it was written, in ns."""
    files = [*run.glob("checkpoints/*/*/result.json"), *run.glob("teachers/*/card.json")]
    return {str(path): path.stat().st_mtime_ns for path in files}


def unfinished_files(folders: Sequence[Path]) -> list[str]:
    """Temporary files that nobody will ever finish; locks are none."""
    found = [path for folder in folders for path in folder.rglob(".*") if path.is_file()]
    return [
        str(path) for path in found if not path.name.endswith(".lock") and "wandb" not in path.parts
    ]
