"""Where things lie: the run folder (a fixed layout) and raykd's own home."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def home() -> Path:
    """`$RAYKD_HOME`, else `.raykd` in the working directory: fitted teachers and stored targets."""
    return Path(os.environ.get("RAYKD_HOME", ".raykd")).absolute()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Versions, devices, git, seeds."""
        return self.path / "environment.json"

    @property
    def summary(self) -> Path:
        """The numbers."""
        return self.path / "summary.json"

    @property
    def evaluation(self) -> Path:
        """Every model's outputs on validation and test."""
        return self.path / "evaluation.safetensors"

    @property
    def student(self) -> Path:
        """The student's weights and description, for `raykd.load_student`."""
        return self.path / "student"

    @property
    def variants(self) -> Path:
        """What the methods of a comparison, or of an ablation, are."""
        return self.path / "variants.json"

    @property
    def targets(self) -> Path:
        """Which entries of which store this run's targets are."""
        return self.path / "targets.json"

    def card(self, teacher: str) -> Path:
        """The card of one teacher."""
        return self.path / "teachers" / f"{teacher}.json"

    def checkpoints(self, fit_id: str) -> Path:
        """Folder of one fit's checkpoints, e.g. of `labels/replica3`."""
        return self.path / "checkpoints" / fit_id
