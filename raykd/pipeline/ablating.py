"""`raykd.ablate`: what each part of a recipe is worth, over paired replicas, on one set of targets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config import Config
from raykd.config.variants import WHOLE, Ablation, Part, ablation, names_of
from raykd.errors import InputError, Problem
from raykd.evaluate.ablation import worths
from raykd.evaluate.comparison import compare as hold_against
from raykd.folders import RunFolder, write_json
from raykd.pipeline.comparing import check_same, keep_variants, paired_fits, seconds_of
from raykd.pipeline.evaluation import evaluate, labels_used
from raykd.pipeline.fits import shown_views
from raykd.pipeline.job import Job, times_tested
from raykd.pipeline.preparation import Prepared, prepare, vary, with_views
from raykd.pipeline.session import Options, opened, run_folder
from raykd.report import write_report
from raykd.tracking import Console
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder


@dataclass(frozen=True)
class AblateResult:
    """A finished ablation.

    Attributes:
        path: its folder.
        summary: the numbers, as in `summary.json`; see `raykd.evaluate.ablation`.
    """

    path: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Students:
    """The recipes that students are trained by.

    Attributes:
        stored: the whole recipe and the parts that the teachers' stored answers serve; name -> recipe.
        seeing: those that see other views, of which each asks the teachers anew.
    """

    stored: Mapping[str, Prepared]
    seeing: Mapping[str, Prepared]

    @property
    def every(self) -> dict[str, Prepared]:
        """All of them."""
        return {**self.stored, **self.seeing}


def ablate(
    config: Config,
    options: Options | None = None,
    *,
    views: bool = False,
    of: Path | None = None,
    console: Console | None = None,
) -> AblateResult:
    """Train the recipe, and the recipe without each of its parts, over the same replicas.

    Teachers, terms and weighting are left out on the stored answers of the teachers: where those are
    there, none is asked again. Test is scored once, at the end.

    Args:
        config: the recipe.
        options: folder, cluster, resume.
        views: leave out the steps of the view policy too, for which the teachers are asked anew.
        of: a finished run of this recipe, whose students need not be trained again.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts; also where nothing can be left out.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options or Options()
    plan = ablation(config, views=views)
    if not plan.parts:
        raise InputError(Problem("ablate", f"nothing can be left out: {'; '.join(plan.kept)}"))
    folder = run_folder(plan.whole, options)
    check_same(folder, plan.variants)
    prepared, students = make_students(plan, options, console)
    if console is not None:
        for line in told(plan, prepared):
            console.print(line)
    with opened(prepared, folder, options, console, kind="ablate") as job:
        keep_variants(folder, plan.variants)
        _stages(job, plan, students, of)
    return AblateResult(folder.path, job.summary)


def make_students(
    plan: Ablation, options: Options, console: Console | None = None
) -> tuple[Prepared, Students]:
    """The recipe with its data and models, and each of its variants, all checked.

    Raises:
        InputError: with the problems of data and models.
    """
    seeing = {part.name: part.config for part in plan.parts if part.kind == "view"}
    stored = {v.name: v.config for v in plan.variants if v.name not in seeing}
    listen = None if console is None else console.on
    recipes = list(stored.values())
    prepared = prepare(plan.whole, recipes, address=options.address, listen=listen)
    return prepared, Students(
        {name: vary(prepared, recipe) for name, recipe in stored.items()},
        {name: vary(with_views(prepared, recipe), recipe) for name, recipe in seeing.items()},
    )


def view_samples(config: Config, prepared: Prepared) -> int:
    """Teacher samples that a recipe's own views ask for, none of them stored: of one replica where it is endless."""
    shown = shown_views(config) or config.train.epochs
    return len(prepared.teachers) * shown * len(prepared.samples.splits["train"])


def told(plan: Ablation, prepared: Prepared) -> list[str]:
    """What is left out, what is not, and what that asks of the teachers: lines to be read before it starts."""
    lines = [f"left out, one at a time: {names_of(plan.parts)}"]
    lines += [f"not left out: {text}" for text in plan.kept]
    seeing = [part for part in plan.parts if part.kind == "view"]
    if seeing:
        count = sum(view_samples(part.config, prepared) for part in seeing)
        lines.append(f"without a view step the teachers see other views: up to {count:,} of their samples are to be "
                     "scored")  # fmt: skip
    elif others := ablation(plan.whole, views=True).parts[len(plan.parts) :]:
        count = sum(view_samples(part.config, prepared) for part in others)
        lines.append(f"not left out: {names_of(others)}; other views are to be scored, {count:,} teacher samples: "
                     "--views does it")  # fmt: skip
    return lines


def _stages(job: Job, plan: Ablation, students: Students, of: Path | None) -> None:
    begun = time.monotonic()
    specs = job.teachers()
    with job.targets(specs, shown_views(job.config)) as served:
        fits = list(paired_fits(job.config, students.stored, served))
        if of is not None:
            _take_over(fits, job.folder, RunFolder(of))
        results = job.train(fits, served)
    store, targets = served.store, job.numbers_of_targets(served.store)
    for name, recipe in students.seeing.items():
        other = job.with_views(recipe)
        with other.targets(specs, shown_views(recipe.config)) as seen:
            results |= other.train(list(paired_fits(job.config, {name: recipe}, seen)), seen)
        targets["teacher_samples_scored"] += other.scored
    times = 1 + times_tested(job.folder)
    with job.stage("evaluate"):
        evaluation = evaluate(job.prepared, store, job.folder, students.every)
        evaluation.save(job.folder.evaluation)
    job.timing["total_s"] = time.monotonic() - begun
    compared = hold_against(evaluation, WHOLE, seconds_of(results))
    job.summary = {
        "schema": 1,
        "kind": "ablation",
        "status": "degraded" if job.emit.degraded else "complete",
        "task": job.config.task,
        **worths(compared, {part.name: _about(part) for part in plan.parts}),
        "kept": list(plan.kept),
        "labels_used": labels_used(job.prepared),
        "test_scored_times": times,
        "timing": dict(job.timing),
        "targets": targets,
    }
    write_json(job.folder.summary, job.summary)
    with job.stage("report"):
        write_report(job.folder.path)


def _about(part: Part) -> dict[str, str]:
    return {"kind": part.kind, "about": part.about}


def _take_over(fits: Sequence[Fit], folder: RunFolder, of: RunFolder) -> None:
    """Students of a finished run that are what the whole recipe would train, bit for bit."""
    for fit in fits:
        name, replica = fit.fit_id.split("/")
        before, own = of.checkpoints(f"student/{replica}"), folder.checkpoints(fit.fit_id)
        result = FitFolder(before).result()
        if name == WHOLE and not own.exists() and (result or {}).get("identity") == fit.identity:
            shutil.copytree(before, own)
