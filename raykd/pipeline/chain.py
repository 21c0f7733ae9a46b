"""A run with stages: a job for each, one after the other; the last one is the run itself.

    RUN/                    an ordinary run's folder, of the last stage; `stages.json` is the whole recipe
    RUN/stages/<name>/      an earlier stage, or a control of the chain: its students, judged on validation alone

A stage's students teach by their weights (the best replica, each its own replica of the later stage, or all together), so
that their fingerprints are these: what was scored or trained with other ones is not used. Finished students of earlier stages are kept in raykd's home by the identity of their fit, as teachers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raykd.config import Config
from raykd.config.chain import StageRecipe, searched_part, searching
from raykd.config.load import chain_of
from raykd.config.stages import CLONING
from raykd.disks import copy_folder
from raykd.errors import InputError, Problem
from raykd.evaluate.statistics import spread
from raykd.evaluate.summary import json_safe, numbers_on
from raykd.folders import RunFolder, home, lock_file, read_json
from raykd.models.weights import count_parameters
from raykd.pipeline.acting import stage_returns, states_learnt_from
from raykd.pipeline.choosing import choose
from raykd.pipeline.evaluation import best_answers, fit_ids, student_network
from raykd.pipeline.fits import shown_views, student_fits
from raykd.pipeline.job import Job
from raykd.pipeline.loading import Listen
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import (
    Prepared,
    collect,
    prepare,
    with_external_baselines,
    with_target,
)
from raykd.pipeline.session import (
    Options,
    as_begun,
    grouped,
    open_folder,
    opened,
    own_folder,
    run_folder,
)
from raykd.pipeline.student import save_student
from raykd.pipeline.target_stage import TargetStage
from raykd.pipeline.visiting import Visit, visit
from raykd.runtime import Crew, Resources, connect, engine, is_connected, machine
from raykd.tasks import find_task
from raykd.tracking import Console
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder

KIND = "stage"
_DONE = ("complete", "degraded")
_TO_COME = ("teachers", "targets")
Generation = Mapping[str, Any]


@dataclass(frozen=True)
class Chain:
    """What the last stage's run knows of the others.

    Attributes:
        folder: of the run.
        last: the last stage.
        stages: those before it, in order.
        controls: `direct` and `longer`, as far as they are wanted.
    """

    folder: RunFolder
    last: StageRecipe
    stages: tuple[StageRecipe, ...]
    controls: tuple[StageRecipe, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The controls that were trained in folders of their own."""
        return tuple(control.name for control in self.controls)

    def take_over(self) -> None:
        """Put the students of the controls where those of other controls are, to be scored with them."""
        for control in self.controls:
            own = self.folder.stage(control.name)
            for replica in range(control.config.seeds):
                target = self.folder.checkpoints(f"{control.name}/replica{replica}")
                if not target.exists():
                    copy_folder(own.checkpoints(f"student/replica{replica}"), target)

    def own_recipes(self) -> dict[str, Prepared]:
        """Controls whose data, and so the statistics that inputs are normalised by, are others than the run's."""
        return {one.name: prepare(one.config) for one in self.controls if one.name == CLONING}

    def generations(self, summary: Mapping[str, Any]) -> list[Generation]:
        """A row for each stage, the last one with what it reaches on test; see `generation`.

        Args:
            summary: of the last stage's run.
        """
        before = [read_json(self.folder.stage(stage.name).summary) for stage in self.stages]
        rows = [
            {
                **generation(stage, one["student_of_stage"], one["ensemble_of_stage"], one),
                "path": f"stages/{stage.name}",
                "replica": one["replica"],
            }
            for stage, one in zip(self.stages, before, strict=True)
        ]
        student, ensemble = summary["student"], summary["ensemble"]
        last = generation(self.last, student, ensemble, summary)
        return [*rows, {**last, "path": ".", "replica": None}]


def generation(
    stage: StageRecipe,
    student: Mapping[str, Any],
    ensemble: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """What `summary.json` says of one stage.

    Args:
        stage: its recipe.
        student: its `parameters`, and V over replicas on `validation` and, of the last stage, on `test`.
        ensemble: V of its teachers' mean on the same.
        summary: of its job.
    """
    config = stage.config
    return {
        "stage": stage.name,
        "teachers": [teacher.name for teacher in config.teachers],
        "taught_by": list(dict.fromkeys(one.stage or one.name for one in config.teachers)),
        "teach": stage.teach,
        "before": list(stage.before),
        "model": config.student.model.type,
        "parameters": student.get("parameters"),
        "epochs": config.train.epochs,
        "validation": student.get("validation"),
        "test": student.get("test"),
        "ensemble": {split: ensemble.get(split) for split in ("validation", "test")},
        "states": None
        if (states := summary.get("states")) is None
        else round(sum(states) / len(states)),
        "teacher_samples_scored": summary["targets"]["teacher_samples_scored"],
        "seconds": summary["timing"]["total_s"],
        "status": summary["status"],
    }


RunLast = Callable[[RunFolder, Config, Options, Console | None, Chain], Mapping[str, Any]]


def run_stages(
    config: Config,
    options: Options,
    console: Console | None,
    run_last: RunLast,
    check_last: Callable[[Prepared, Sequence[str]], None],
) -> tuple[RunFolder, Mapping[str, Any]]:
    """Run every stage that is not finished; the last one as an ordinary run with what it has to know of the others.

    All stages are checked before anything starts.

    Args:
        config: a recipe with stages.
        options: folder, cluster, resume.
        console: who tells a person; None is quiet.
        run_last: runs the last stage in the run's folder; its summary.
        check_last: holds what the last stage's summary has to fulfil against it, with the chain's controls.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    if options.until in _TO_COME and len(config.stages) > 1:
        raise InputError.at(
            "stages", f"found {len(config.stages)}; `raykd {options.until}` is of recipes whose teachers are there: the later "
            "stages' are not before the earlier ones are trained; take `raykd run` or `raykd distill`"
        )  # fmt: skip
    with own_folder(options) as own:
        folder = run_folder(config, own)
        stages, controls = chain_of(config, folder.path)
        *before, last = stages
        chain = Chain(folder, last, tuple(before), tuple(controls))
        check_chain(chain, own, console, check_last)
        with trained_before(chain, config, own, console):
            return folder, run_last(folder, last.config, own, console, chain)


@contextmanager
def trained_before(
    chain: Chain, config: Config, options: Options, console: Console | None
) -> Iterator[None]:
    """All stages and controls before the last stage, trained unless they were before; their cluster lasts as long as the block.

    Args:
        chain: the stages, checked.
        config: the whole recipe.
        options: how the last stage's job is run; its folder is this process's.
        console: who tells a person; None is quiet.

    Raises:
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    address = options.address
    with engine(address, config, resume=options.resume) as crew, connect(address) as resources:
        open_folder(chain.folder, chain.last.config, resources, whole=config)
        jobs = (*chain.stages, *chain.controls)
        for number, stage in enumerate(jobs):
            _visit(chain, stage, options, crew, resources, console)
            _run_stage(chain, stage, f"{number + 1} of {len(jobs) + 1}", options, console)
        chain.take_over()
        _visit(chain, chain.last, options, crew, resources, console)
        if jobs and console is not None:
            console.print(f"stage {len(jobs) + 1} of {len(jobs) + 1}: {chain.last.name}")
        yield


def searched_chain(config: Config, folder: RunFolder) -> Chain:
    """The chain that ends with the stage that is searched; controls of a chain belong to its run.

    Args:
        config: a recipe with stages and a search, checked.
        folder: of the sweep.
    """
    part = searched_part(config)
    (*before, last), _ = chain_of(part, folder.path)
    return Chain(folder, searching(last, part), tuple(before), ())


def planned(config: Config) -> list[StageRecipe]:
    """The stages and controls of a recipe, to be looked at before anything is trained; the last stage comes last."""
    stages, controls = chain_of(config, RunFolder(home()).path)
    return [*stages[:-1], *controls, stages[-1]]


def prepare_stages(
    stages: Sequence[StageRecipe], *, address: str | None = None, listen: Listen | None = None
) -> list[Prepared]:
    """Try the recipe of each stage, with what earlier stages are to make as what is to be fitted.

    Raises:
        InputError: with the problems of all of them.
    """
    problems: list[Problem] = []
    found = []
    for stage in stages:
        own: list[Problem] = []
        prepared = collect(own, partial(prepare, stage.plan, address=address, listen=listen))
        problems += [one for one in own if one not in problems]
        found.append(prepared)
    if problems:
        raise InputError(problems)
    return found


def check_chain(
    chain: Chain,
    options: Options,
    console: Console | None,
    check_last: Callable[[Prepared, Sequence[str]], None],
) -> None:
    """Everything that can be known before the first stage starts.

    Raises:
        InputError: with the problems of all stages.
    """
    every = (*chain.stages, *chain.controls, chain.last)
    *_, last = check_stages(every, options, console)
    check_last(with_external_baselines(last), chain.roles)


def check_stages(
    stages: Sequence[StageRecipe], options: Options, console: Console | None = None
) -> list[Prepared]:
    """Try the recipe of each stage, and whether this machine has room for it.

    Raises:
        InputError: with the problems of all of them.
    """
    listen = None if console is None else console.on
    prepared = prepare_stages(stages, address=options.address, listen=listen)
    if options.address is None and not is_connected():
        for stage in stages:
            make_placement(stage.plan, machine())
    return prepared


def _visit(
    chain: Chain,
    stage: StageRecipe,
    options: Options,
    crew: Crew,
    resources: Resources,
    console: Console | None,
) -> None:
    """Have the students that a stage starts from visit what it is to learn from, unless they did before."""
    if stage.rollouts is None:
        return
    before = next(one for one in chain.stages if one.name == stage.start)
    prepared = prepare(before.config, address=options.address)
    placement = make_placement(prepared.config, resources)
    runners = prepared.config.cluster.rollouts.runners or max(1, placement.lanes)
    told = visit(Visit(stage, prepared, chain.folder), crew, runners)
    if console is not None:
        console.print(
            f"stage {stage.name}: {told['replicas']} students of {stage.start} visited {told['states']:,} states in "
            f"{told['episodes']:,} episodes (mean return {told['mean_return']:.4g})"
        )


def _run_stage(
    chain: Chain, stage: StageRecipe, number: str, options: Options, console: Console | None
) -> None:
    """Train the students of one stage and find out which of them teaches, unless that was done before."""
    folder = chain.folder.stage(stage.name)
    finished = is_finished(folder)
    if console is not None:
        console.print(f"stage {number}: {stage.name}{': finished before' if finished else ''}")
    if finished:
        return
    own = replace(options, output=folder.path, resume=folder.config.is_file(), until=None)
    listen = None if console is None else console.on
    with own_folder(own) as inner:
        config = as_begun(grouped(stage.config, chain.folder), folder)
        prepared = prepare(config, address=inner.address, listen=listen)
        with opened(prepared, folder, inner, console) as job:
            with job.targets(job.teachers(), shown_views(config)) as targets:
                if (target := choose(job, targets)) is not None:
                    job.settle(with_target(job.prepared, target).config)
                fits = student_fits(job.prepared, targets.teachers)
                job.known |= kept_students(fits)
                job.train(fits, targets)
                keep_students(job.folder, fits)
            _conclude(job, targets, stage)


def is_finished(folder: RunFolder) -> bool:
    """Whether a stage's job has ended well."""
    return folder.summary.is_file() and read_json(folder.summary).get("status") in _DONE


def kept_students(fits: Sequence[Fit]) -> dict[str, Path]:
    """Identity -> checkpoints of a finished fit that is the same, from the stage of an earlier run."""
    places = {
        identity: home() / "students" / identity for one in fits for identity in one.identities
    }
    return {
        name: place
        for name, place in places.items()
        if FitFolder(place).result_of([name]) is not None
    }


def keep_students(run: RunFolder, fits: Sequence[Fit]) -> None:
    """Keep the students of a stage for other runs with the same one."""
    for fit in fits:
        kept = home() / "students" / fit.identity
        with ExitStack() as stack:
            with suppress(OSError):  # a file system without locks: what others keep is the same
                stack.enter_context(lock_file(kept.with_name(f".{kept.name}.lock")))
            if not kept.exists():
                copy_folder(run.checkpoints(fit.fit_id), kept)


def _conclude(job: Job, targets: TargetStage, stage: StageRecipe) -> None:
    """Judge the students on validation; write the one that teaches, and what is known of all."""
    with job.stage("evaluate"):
        samples, validation = job.prepared.samples, targets.teachers.validation
        metrics, ids = find_task(samples.task).metrics, fit_ids(job.prepared, "student")
        rows = samples.splits["validation"]
        answers_RNC = best_answers(job.prepared, job.folder, ids, rows, job.ask)
        labels_N = torch.from_numpy(samples.unit_labels(rows))
        numbers = [numbers_on(metrics, answers_NC, labels_N) for answers_NC in answers_RNC]
        known = [one for one in numbers if one is not None]
        ranks = [metrics.rank(one) for one in known] or [(0.0, 0.0)]
        replica = ranks.index(max(ranks))
        save_student(job.prepared, job.folder, replica=replica)
        returns = stage_returns(job, targets.specs)
    spreads = {name: spread([one[name] for one in known]) for name in (known[0] if known else ())}
    spreads |= returns
    models = {"ensemble": validation.ensemble, **validation.teachers}
    others = {name: numbers_on(metrics, one_NC, labels_N) for name, one_NC in models.items()}
    job.keep(
        json_safe(
            {
                "schema": 1,
                "kind": KIND,
                "status": job.status,
                "task": samples.task,
                "stage": stage.name,
                "student_of_stage": {
                    "parameters": count_parameters(student_network(job.prepared).model),
                    "validation": spreads or None,
                },
                "ensemble_of_stage": {"validation": others.pop("ensemble")},
                "teachers_of_stage": {name: {"validation": one} for name, one in others.items()},
                "replica": replica,
                **({"states": states_learnt_from(job.prepared)} if returns else {}),
                "test_scored_times": 0,
                "timing": job.end_timing(),
                "targets": job.target_numbers(targets),
            }
        )
    )
