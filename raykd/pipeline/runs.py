"""`raykd.run`: from a recipe to a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raykd.config import Config
from raykd.errors import InputError, Problem, RaykdError
from raykd.evaluate import check_requirements
from raykd.evaluate.requirements import Requirement
from raykd.folders import RunFolder, read_json, write_json
from raykd.pipeline.job import Job, times_tested
from raykd.pipeline.placement import place
from raykd.pipeline.preparation import prepare
from raykd.pipeline.rehearsal import rehearse
from raykd.pipeline.student import load_student
from raykd.pipeline.versions import environment
from raykd.runtime import Resources, connect, is_connected, machine
from raykd.tracking import Console


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder.
        summary: the numbers, as in `summary.json`.
        requirements: each `evaluate.require` held against them.
    """

    path: Path
    summary: Mapping[str, Any]
    requirements: tuple[Requirement, ...] = ()

    def student(self) -> nn.Module:
        """The distilled student, in evaluation mode."""
        return load_student(self.path)


@dataclass(frozen=True)
class Options:
    """How a job is run, as against what it does.

    Attributes:
        output: the run folder; None makes `runs/<name>-<UTC time>`.
        name: of the recipe, for the folder.
        address: of a Ray cluster; None = a local one.
        resume: continue in a folder that exists.
        until: stop after this stage (`teachers`, `targets`, `distill`, `evaluate`); None runs all.
    """

    output: Path | None = None
    name: str = "run"
    address: str | None = None
    resume: bool = False
    until: str | None = None


def run(
    config: Config, options: Options | None = None, *, console: Console | None = None
) -> RunResult:
    """Fit or load teachers, make targets, train student and controls, evaluate, report.

    Args:
        config: the recipe.
        options: folder, cluster, resume.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options or Options()
    console = console or Console(quiet=True, stream=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    folder = run_folder(config, options)
    prepared = prepare(config)
    rehearse(prepared)
    if options.address is None and not is_connected():
        place(config, machine())
    with connect(options.address) as resources:
        placement = place(config, resources)
        _open_folder(folder, config, resources)
        job = Job(prepared, placement, folder, console)
        try:
            summary = job.run(options.until)
        except RaykdError as error:
            failed = {"schema": 1, "status": "failed", "error": str(error)}
            write_json(folder.summary, {**failed, "test_scored_times": times_tested(folder)})
            raise
        finally:
            job.close()
    held = check_requirements(summary, config.evaluate.require) if summary else []
    return RunResult(folder.path, summary, tuple(held))


def new_run_folder(name: str) -> Path:
    """`runs/<name>-<UTC time>`."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def run_folder(config: Config, options: Options) -> RunFolder:
    """The folder that a run would use; makes nothing.

    Raises:
        InputError: it exists and is not to be resumed, or holds something else.
    """
    path = options.output or new_run_folder(options.name)
    folder = RunFolder(path.absolute())
    if not folder.path.exists():
        return folder
    if not options.resume:
        raise InputError(
            Problem(
                "--output", f"{path} exists; add --resume to continue it, or name another folder"
            )
        )
    if not folder.path.is_dir() or (not folder.config.is_file() and any(folder.path.iterdir())):
        raise InputError(
            Problem(
                "--output", f"{path} is no run's folder: it has no config.json; name another one"
            )
        )
    if folder.config.is_file():
        _check_same(read_json(folder.config), config.model_dump(mode="json"), path)
    return folder


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    free = {"tracking", "cluster", "evaluate"}
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if wrong := [key for key in differing if key not in free]:
        raise InputError(
            Problem("--resume", f"{path} was started with another recipe: {', '.join(wrong)} differ; resume with "
                    f"the same one ({path / 'config.json'}), or name another --output")
        )  # fmt: skip


def _open_folder(folder: RunFolder, config: Config, resources: Resources) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.config, config.model_dump(mode="json"))
    write_json(folder.environment, environment(config, resources))
