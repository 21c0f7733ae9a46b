"""`raykd.ablate`: what each part of a recipe is worth, over paired replicas, on one set of targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config import Config
from raykd.config.objective import Candidate
from raykd.config.variants import WHOLE, Ablation, ablation, names_of
from raykd.errors import InputError
from raykd.evaluate.ablation import worths
from raykd.evaluate.comparison import compare as hold_against
from raykd.folders import RunFolder
from raykd.pipeline.at_home import transfer_numbers
from raykd.pipeline.choosing import choose, settle
from raykd.pipeline.comparing import check_same, keep_variants, paired_fits, seconds_of
from raykd.pipeline.fits import shown_views
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.job import Job
from raykd.pipeline.preparation import Prepared, prepare, vary, with_views
from raykd.pipeline.session import Options, as_begun, opened, own_folder, run_folder
from raykd.tracking import Console
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

    def settled(self, target: Candidate | None) -> Students:
        """The same with the target that was chosen from the recipe's menu."""
        return Students(settle(self.stored, target), settle(self.seeing, target))

    @property
    def every(self) -> dict[str, Prepared]:
        """All of them."""
        return {**self.stored, **self.seeing}


def ablate(
    config: Recipe,
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
        config: the recipe; its data and teachers may be objects of this process.
        options: folder, cluster, resume.
        views: leave out the steps of the view policy too, for which the teachers are asked anew.
        of: a finished run of this recipe, whose students need not be trained again.
        console: who tells a person; None is quiet.

    Raises:
        InputError: before anything starts; also where nothing can be left out.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    with given_recipe(config) as recipe:
        return _ablate(ablation(recipe, views=views), options or Options(), of, console)


def _ablate(
    plan: Ablation, options: Options, of: Path | None, console: Console | None
) -> AblateResult:
    if not plan.parts:
        raise InputError.at("ablate", f"nothing can be left out: {'; '.join(plan.kept)}")
    with own_folder(options) as own:
        return _ablate_in(run_folder(plan.whole, own), plan, own, of, console)


def _ablate_in(
    folder: RunFolder,
    plan: Ablation,
    options: Options,
    of: Path | None,
    console: Console | None,
) -> AblateResult:
    check_same(folder, plan.variants)
    begun = begun_plan(plan, folder)
    prepared, students = make_students(begun, options, console)
    if console is not None:
        for line in announcement(begun, prepared):
            console.print(line)
    with opened(prepared, folder, options, console, kind="ablate") as job:
        keep_variants(folder, plan.variants)
        _stages(job, begun, students, of)
    return AblateResult(folder.path, job.summary)


def begun_plan(plan: Ablation, folder: RunFolder) -> Ablation:
    """The recipe and its variants, with what they leave open as it was when the folder's job began."""
    parts = (replace(part, config=as_begun(part.config, folder)) for part in plan.parts)
    return replace(plan, whole=as_begun(plan.whole, folder), parts=tuple(parts))


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
    return len(prepared.teachers) * shown * len(prepared.asked)


def announcement(plan: Ablation, prepared: Prepared) -> list[str]:
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
    specs = job.teachers()
    with job.targets(specs, shown_views(job.config)) as targets:
        job.known |= _finished(of)
        target = choose(job, targets)
        students = students.settled(target)
        fits = list(paired_fits(job.config, students.stored, targets.teachers))
        results = job.train(fits, targets)
    numbers = job.target_numbers(targets)
    for name, recipe in students.seeing.items():
        with job.targets(specs, shown_views(recipe.config), prepared=recipe) as other:
            fits = list(paired_fits(job.config, {name: recipe}, other.teachers))
            results |= job.train(fits, other)
        numbers["teacher_samples_scored"] += other.scored
    compared = hold_against(job.evaluate(targets, students.every), WHOLE, seconds_of(results))
    parts = {part.name: {"kind": part.kind, "about": part.about} for part in plan.parts}
    found = {**worths(compared, parts), "kept": list(plan.kept)}
    found |= transfer_numbers(job.prepared, targets.store)
    job.summarise("ablation", found, numbers, tested=True)
    job.report()


def _finished(of: Path | None) -> dict[str, Path]:
    """Students of a finished run: what they are, bit for bit -> their checkpoints."""
    folders = [] if of is None else sorted(RunFolder(of).checkpoints("student").glob("replica*"))
    results = [(folder, FitFolder(folder).result() or {}) for folder in folders]
    return {result["identity"]: folder for folder, result in results if "identity" in result}
