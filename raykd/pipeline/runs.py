"""`raykd.run`: from a recipe to a run folder; and the folds of a cross-validation, a run each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raykd.background import beside
from raykd.config import Config
from raykd.config.variants import fold_recipes
from raykd.evaluate import Evaluation, check_requirements, summarise
from raykd.evaluate.folds import Sizes, over_folds
from raykd.evaluate.outputs import Split, SplitOutputs
from raykd.evaluate.requirements import Requirement
from raykd.evaluate.slices import slice_numbers
from raykd.evaluate.summary import json_safe, student_temperatures
from raykd.export.predictions import evaluation_table, folds_table, write_table
from raykd.folders import RunFolder, read_json, write_json
from raykd.objective import overrides_of
from raykd.pipeline.acting import (
    acting_roles,
    check_acting,
    evaluate_by_return,
    states_learnt_from,
    train_by_rewards,
)
from raykd.pipeline.at_home import transfer_numbers
from raykd.pipeline.chain import Chain, run_stages
from raykd.pipeline.choosing import choose
from raykd.pipeline.evaluation import (
    costs,
    evaluate,
    external_baseline_specs,
    labels_used,
    slices_of_test,
    timed_students,
    training_numbers,
)
from raykd.pipeline.fits import roles, shown_views, student_fits
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.job import Job, no_time, times_tested
from raykd.pipeline.loading import Listen, load_samples
from raykd.pipeline.peers import peers_summary
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import (
    Prepared,
    prepare,
    student_outputs,
    with_external_baselines,
    with_target,
)
from raykd.pipeline.recipe_store import RecipeStore
from raykd.pipeline.representation import features_alike
from raykd.pipeline.returns import acts, silent_returns, with_returns
from raykd.pipeline.session import (
    Options,
    as_begun,
    grouped,
    open_folder,
    opened,
    options_of,
    own_folder,
    run_folder,
)
from raykd.pipeline.student import load_student, save_student
from raykd.pipeline.students import apart, conclude_students
from raykd.pipeline.target_stage import TargetStage
from raykd.pipeline.token_scales import head_numbers
from raykd.report import write_report
from raykd.runtime import connect, engine, is_connected, machine
from raykd.tasks import find_task
from raykd.tracking import Console
from raykd.types import is_labelled

_DONE = ("complete", "degraded")
_TARGETS = (
    "teacher_samples_scored",
    "retries",
    "store_bytes",
    "hit_rate",
    "teacher_wait_fraction",
)


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
    config: Recipe,
    options: Options | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool | None = None,
    console: Console | None = None,
) -> RunResult:
    """Fit or load teachers, make targets, train student and controls, evaluate, report.

    With `folds` all of that for each fold; with `stages` for each stage, of which the last one is reported.

    Args:
        config: the recipe; its data and teachers may be objects of this process.
        options: folder, cluster, resume.
        output: the run folder; None = as the options say.
        resume: continue in a folder that exists, with the same objects; None = as the options say.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options_of(options, output, resume)
    with given_recipe(config) as recipe:
        check_acting(recipe)
        if recipe.folds is not None:
            folder, summary = cross_validate(recipe, options, console)
        elif recipe.stages:
            folder, summary = run_stages(recipe, options, console, _run_last, check_required)
        else:
            folder, summary = _run(recipe, options, console)
    met = check_requirements(summary, recipe.evaluate.require) if summary else []
    return RunResult(folder.path, summary, tuple(met))


def _run(
    config: Config, options: Options, console: Console | None
) -> tuple[RunFolder, Mapping[str, Any]]:
    """One run; its folder and its summary."""
    with own_folder(options) as own:
        folder = run_folder(config, own)
        return folder, _run_last(folder, config, own, console)


def _run_last(
    folder: RunFolder,
    config: Config,
    options: Options,
    console: Console | None,
    chain: Chain | None = None,
) -> Mapping[str, Any]:
    """A run in its own folder, the last one of a chain where there is one; its summary."""
    config = as_begun(config, folder)
    listen = None if console is None else console.on
    with engine(options.address, config, resume=options.resume):
        prepared = with_external_baselines(prepare(config, address=options.address, listen=listen))
        slices_of_test(config.evaluate.slices, prepared.samples)
        check_required(prepared, others_of(config, chain))
        with opened(prepared, folder, options, console) as job:
            _stages(job, options.until, chain)
    return job.summary


def _stages(job: Job, until: str | None, chain: Chain | None) -> None:
    """All stages in order, or those up to `until`."""
    specs = job.teachers()
    if until == "teachers":
        return
    with job.targets(specs, shown_views(job.config)) as targets:
        if until == "targets":
            return
        if (target := choose(job, targets)) is not None:
            job.settle(with_target(job.prepared, target).config)
        job.train(student_fits(job.prepared, targets.teachers), targets)
    if acting_roles(job.config):
        train_by_rewards(job)
    if until == "distill":
        return
    _evaluate(job, targets, chain, reports=until != "evaluate")
    if until != "evaluate":
        job.report()


def _evaluate(job: Job, targets: TargetStage, chain: Chain | None, *, reports: bool) -> None:
    """Score validation and test, sum up, keep the student; a report may be to follow."""
    prepared, tested = job.prepared, 1 + times_tested(job.folder)
    with job.stage("evaluate"):
        every = (*roles(job.config), *others_of(job.config, chain))
        students = {**dict.fromkeys(every, prepared), **prepared.students}
        students |= {} if chain is None else chain.own_recipes()
        baselines = external_baseline_specs(prepared)
        whole = evaluate(prepared, targets.store, job.folder, students, job.ask, baselines)
        evaluation, others = apart(whole, tuple(prepared.students))
        evaluation.save(job.folder.evaluation)
        # Who was lost would take this process along; what that one costs is unknown.
        there = {name: spec for name, spec in targets.specs.items() if name not in job.emit.lost}
        timed = timed_students(prepared, job.folder), {**there, **baselines}
        measured, conditions = job.ask(costs, [timed])[0]
        if reports:
            job.prepare_report()  # not before: it would have disturbed the latency
        slices = slices_of_test(job.config.evaluate.slices, prepared.samples)
        temperatures = student_temperatures(evaluation, "student")
        temperature = temperatures[0] if temperatures else None
        save_student(prepared, job.folder, temperature)
        write_table(job.folder.predictions, evaluation_table(evaluation, temperature))
        returned = None
        if acts(job.config):
            taught = {role: students[role] for role in every}
            returned = evaluate_by_return(job, targets.specs, taught)
    with beside(
        lambda: _asked_of_students(job, targets, evaluation), "asked"
    ) as asked:  # the crew's part
        common: dict[str, Any] = {
            "task": job.config.task,
            "status": job.status,
            "labels_used": labels_used(prepared),
            "test_scored_times": tested,
            "timing": job.end_timing(),
            "targets": job.target_numbers(targets),
        }
        summary = summarise(evaluation, measured, **common)
        if returned is not None:
            summary = json_safe(with_returns(summary, returned))
            summary["states"] = states_learnt_from(prepared)
        more: dict[str, Any] = {
            "latency": conditions.to_json(),
            "overrides": _overrides(job, targets),
            "slices": slice_numbers(evaluation, slices),
            **transfer_numbers(prepared, targets.store),
        }
        if heads := head_numbers(job.folder, job.config.seeds):
            more["heads"] = heads
        if chain is not None:
            more["generations"] = chain.generations(summary)
        more |= asked.result()
    if others:
        more["students"] = conclude_students(job, whole, others, measured, common)
    job.keep({**summary, **more})


def others_of(config: Config, chain: Chain | None) -> tuple[str, ...]:
    """Controls that are no fits of the run itself: those of its chain, and what was trained by rewards."""
    return (*(() if chain is None else chain.roles), *acting_roles(config))


def _asked_of_students(job: Job, targets: TargetStage, evaluation: Evaluation) -> dict[str, Any]:
    """What the summary has of answers that are made for it alone."""
    return {
        "training": training_numbers(job.prepared, job.folder, job.ask),
        "cka": features_alike(job.prepared, targets.store, job.folder, job.ask),
        **peers_summary(job.prepared, evaluation, job.folder, job.ask),
    }


def _overrides(job: Job, targets: TargetStage) -> dict[str, str]:
    """Control -> the overrides by which the recipe's student is taught as it is."""
    objective, teachers = job.config.objective, targets.teachers
    found = {
        role: overrides_of(
            role,
            objective,
            list(job.prepared.teachers),
            teachers.best_teacher,
            chosen=bool(job.choice),
            always_labelled=find_task(job.config.task).settings.chunks,
        )
        for role in job.config.evaluate.own_controls
    }
    return {role: words for role, words in found.items() if words}


def cross_validate(
    config: Config, options: Options, console: Console | None = None
) -> tuple[RunFolder, Mapping[str, Any]]:
    """Run every fold in `folds/<i>`, sum up and report; finished folds are not run again.

    All splits, the first fold's models and the machine are checked before anything starts.

    Args:
        config: a recipe with `folds`.
        options: folder, cluster, resume.
        console: who tells a person; None is quiet.

    Returns:
        The folder and its summary, see `raykd.evaluate.folds`; an empty one where `until` ends before it.

    Raises:
        InputError: before anything starts.
        RaykdError: a fold failed; what was finished is kept, and `resume` continues.
    """
    with own_folder(options) as own:
        folder = run_folder(config, own)
        return folder, _cross_validate_in(folder, config, own, console)


def _cross_validate_in(
    folder: RunFolder, config: Config, options: Options, console: Console | None
) -> Mapping[str, Any]:
    recipes = fold_recipes(config)
    listen = None if console is None else console.on
    sizes = [_sizes(recipe, options, listen) for recipe in recipes]
    first = with_external_baselines(prepare(recipes[0], address=options.address, listen=listen))
    check_required_folds(first, len(recipes), config.evaluate.require)
    if options.address is None and not is_connected():
        make_placement(recipes[0], machine(), RecipeStore(first).shortage())
    with connect(options.address) as resources:
        open_folder(folder, config, resources)
        for index, recipe in enumerate(recipes):
            own = RunFolder(folder.path / "folds" / str(index))
            if console is not None:
                console.print(
                    f"fold {index + 1} of {len(recipes)}{'' if _due(own, options) else ': finished before'}"
                )
            if _due(own, options):
                there = own.config.is_file()
                again = replace(options, output=own.path, resume=there)
                _run(grouped(recipe, folder), again, console)
    if options.until not in (None, "evaluate"):
        return {}
    folds = [RunFolder(folder.path / "folds" / str(index)) for index in range(len(recipes))]
    summaries = [read_json(fold.summary) for fold in folds]
    if all(fold.predictions.is_file() for fold in folds):  # a fold of an earlier version has none
        write_table(folder.predictions, folds_table([fold.predictions for fold in folds]))
    brought = [teacher.name for teacher in config.teachers if not teacher.learns]
    summary = {**over_folds(summaries, sizes), "brought": brought}
    write_json(folder.summary, summary)
    if options.until is None:
        write_report(folder.path)
    return summary


def _sizes(recipe: Config, options: Options, listen: Listen | None) -> Sizes:
    samples = load_samples(recipe, address=options.address, listen=listen)
    return {name: len(rows) for name, rows in samples.splits.items()}


def _due(fold: RunFolder, options: Options) -> bool:
    """Whether a fold is to be run, or gone on with."""
    if options.until is not None or not fold.summary.is_file():
        return True
    return read_json(fold.summary)["status"] not in _DONE


def check_required(prepared: Prepared, controls: Sequence[str] = ()) -> None:
    """Hold every `evaluate.require` against the summary that this run will have.

    Args:
        prepared: the recipe.
        controls: those of a chain, which are trained in folders of their own.

    Raises:
        InputError: a condition is malformed or names what the summary will not have; all of them.
    """
    if required := prepared.config.evaluate.require:
        check_requirements(empty_summary(prepared, controls), required)


def check_required_folds(prepared: Prepared, folds: int, required: Sequence[str]) -> None:
    """Hold the requirements of a cross-validation against the summary that it will have.

    Args:
        prepared: its first fold.
        folds: how many there are.
        required: `evaluate.require`.

    Raises:
        InputError: as of `check_required`.
    """
    if required:
        sizes = {name: len(rows) for name, rows in prepared.samples.splits.items()}
        check_requirements(over_folds([empty_summary(prepared)] * folds, [sizes] * folds), required)


def empty_summary(prepared: Prepared, controls: Sequence[str] = ()) -> dict[str, Any]:
    """A summary of empty answers, with more controls than the recipe's own."""
    names: tuple[Split, Split] = ("validation", "test")
    evaluation = Evaluation(
        splits={name: _silent(prepared, name, controls) for name in names},
        task=prepared.samples.task,
    )
    costs = {
        name: {"parameters": 1, "flops": 1, "bytes": 1, "latency_ms": {"1": 1.0, "256": 1.0}}
        for name in ("student", *prepared.teachers, *prepared.external_baselines)
    }
    summary = summarise(
        evaluation,
        costs,
        task=prepared.config.task,
        status="complete",
        labels_used=labels_used(prepared),
        test_scored_times=1,
        timing={**no_time(), "total_s": 0.0},
        targets={"mode": "stored", **dict.fromkeys(_TARGETS, 0)},
    )
    if acts(prepared.config):
        taught = (*roles(prepared.config), *controls)
        summary = with_returns(summary, silent_returns(prepared.config, taught))
    students = dict.fromkeys(prepared.students, summary["student"])
    return {**summary, **({"students": students} if students else {})}


def _silent(prepared: Prepared, split: Split, controls: Sequence[str]) -> SplitOutputs:
    """Answers of all models to two samples of a split, labelled ones if there are any."""
    samples = prepared.samples
    rows = samples.splits[split]
    known = is_labelled(torch.from_numpy(samples.labels[rows])).numpy()
    rows = rows[known][:2] if known.any() else rows[:2]
    metrics = find_task(samples.task).metrics
    if metrics.tally is None:  # of one class, so that samples that are compared find something
        rows = np.repeat(rows[:1], 2)
    labels_N = torch.from_numpy(samples.unit_labels(rows))
    zeros_NC = torch.zeros(len(labels_N), student_outputs(prepared.config, samples))
    silent_NC = metrics.answer(zeros_NC)
    answers_NC = metrics.kept(silent_NC, labels_N)
    others = [silent_NC] * len(prepared.teachers)
    student_NC = metrics.kept_beside(silent_NC, labels_N, silent_NC, others)
    replicas = prepared.config.seeds
    students: dict[str, torch.Tensor] = {
        role: (student_NC if role == "student" else answers_NC).repeat(replicas, 1, 1)
        for role in (*roles(prepared.config), *controls)
    }
    return SplitOutputs(
        labels_N=labels_N,
        ids_N=torch.from_numpy(samples.per_unit(rows, samples.ids[rows]).copy()),
        teachers=dict.fromkeys(prepared.teachers, answers_NC),
        ensemble=answers_NC,
        students=students,
        students_last=students,
        rivals=dict.fromkeys(prepared.external_baselines, answers_NC),
        task=samples.task,
    )
