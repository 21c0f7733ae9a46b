"""`raykd.run`: from a recipe to a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from raykd.config import Config
from raykd.evaluate import check_requirements, summarise
from raykd.evaluate.requirements import Requirement
from raykd.evaluate.slices import slice_numbers
from raykd.folders import RunFolder, write_json
from raykd.pipeline.evaluation import costs, evaluate, labels_used
from raykd.pipeline.external_baselines import external_baseline_specs, with_external_baselines
from raykd.pipeline.fits import roles, shown_views, student_fits
from raykd.pipeline.folding import cross_validate
from raykd.pipeline.job import Job, times_tested
from raykd.pipeline.preparation import prepare
from raykd.pipeline.require_check import check_required
from raykd.pipeline.serving import TeacherTargets
from raykd.pipeline.session import Options, opened, run_folder
from raykd.pipeline.slicing import slices_of_test
from raykd.pipeline.student import load_student, save_student
from raykd.report import write_report
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


def run(
    config: Config, options: Options | None = None, *, console: Console | None = None
) -> RunResult:
    """Fit or load teachers, make targets, train student and controls, evaluate, report.

    With `folds` all of that for each fold; see `raykd.pipeline.folding`.

    Args:
        config: the recipe.
        options: folder, cluster, resume.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options or Options()
    if config.folds is not None:
        folder, summary = cross_validate(config, options, partial(_run, console=console), console)
    else:
        folder, summary = _run(config, options, console)
    held = check_requirements(summary, config.evaluate.require) if summary else []
    return RunResult(folder.path, summary, tuple(held))


def _run(
    config: Config, options: Options, console: Console | None
) -> tuple[RunFolder, Mapping[str, Any]]:
    """One run; its folder and its summary."""
    folder = run_folder(config, options)
    listen = None if console is None else console.on
    prepared = with_external_baselines(prepare(config, address=options.address, listen=listen))
    slices_of_test(config.evaluate.slices, prepared.samples)
    check_required(prepared)
    with opened(prepared, folder, options, console) as job:
        _stages(job, options.until)
    return folder, job.summary


def _stages(job: Job, until: str | None) -> None:
    """All stages in order, or those up to `until`."""
    begun = time.monotonic()
    specs = job.teachers()
    if until == "teachers":
        return
    with job.targets(specs, shown_views(job.config)) as served:
        if until == "targets":
            return
        job.train(student_fits(job.prepared, served), served)
    if until == "distill":
        return
    _evaluate(job, served, begun)
    if until != "evaluate":
        with job.stage("report"):
            write_report(job.folder.path)


def _evaluate(job: Job, served: TeacherTargets, begun: float) -> None:
    """Score validation and test, sum up, keep the student."""
    times = 1 + times_tested(job.folder)
    with job.stage("evaluate"):
        students = dict.fromkeys(roles(job.config), job.prepared)
        external_baselines = external_baseline_specs(job.prepared)
        evaluation = evaluate(job.prepared, served.store, job.folder, students, external_baselines)
        evaluation.save(job.folder.evaluation)
        measured = costs(job.prepared, {**served.specs, **external_baselines}, job.folder)
        slices = slices_of_test(job.config.evaluate.slices, job.prepared.samples)
        save_student(job.prepared, job.folder)
    job.timing["total_s"] = time.monotonic() - begun
    summary = summarise(
        evaluation,
        measured,
        task=job.config.task,
        status="degraded" if job.emit.degraded else "complete",
        labels_used=labels_used(job.prepared),
        test_scored_times=times,
        timing=job.timing,
        targets=job.numbers_of_targets(served.store),
    )
    job.summary = {**summary, "slices": slice_numbers(evaluation, slices)}
    write_json(job.folder.summary, job.summary)
