"""`raykd.compare`: several methods over paired replicas, all on one set of targets; and a ranking of the teachers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config import Config, load_config
from raykd.config.optimizers import choosing_samples_as_in
from raykd.config.trusting import refuse_code, remember
from raykd.config.variants import Variant, method_variants
from raykd.errors import InputError, Problem
from raykd.evaluate.comparison import compare as hold_against
from raykd.evaluate.ranking import rank_teachers
from raykd.folders import RunFolder, read_json, write_json
from raykd.objective import Role, training_role
from raykd.pipeline.at_home import transfer_numbers
from raykd.pipeline.choosing import choose, settle
from raykd.pipeline.fits import shown_views, student_fit
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.job import Job
from raykd.pipeline.preparation import Prepared, prepare, vary
from raykd.pipeline.session import (
    Options,
    as_begun,
    opened,
    options_of,
    own_folder,
    run_folder,
)
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.tasks import find_task
from raykd.tracking import Console
from raykd.train import Fit

RANKING = "ranking.json"


@dataclass(frozen=True)
class CompareResult:
    """A finished comparison.

    Attributes:
        path: its folder.
        summary: the numbers, as in `summary.json`; see `raykd.evaluate.comparison`.
    """

    path: Path
    summary: Mapping[str, Any]


def check_reference(config: Config, variants: Sequence[Variant], reference: str) -> None:
    """There is a method or control of that name.

    Raises:
        InputError: there is none.
    """
    names = [*(variant.name for variant in variants), *config.evaluate.controls]
    if reference not in names:
        raise InputError.at("--reference", f"knows no {reference!r}; there are {', '.join(names)}")


def check_choice(config: Config, variants: Sequence[Variant]) -> None:
    """One choice of a target serves all methods: the recipe's own.

    Raises:
        InputError: a method is to choose, and the recipe is not, or otherwise.
    """
    own = config.objective.choose
    if wrong := [one.name for one in variants if one.config.objective.choose not in (None, own)]:
        raise InputError.at(
            "objective.choose",
            f"of the method {wrong[0]!r} is not the recipe's; set it in the recipe, and null in methods that have a "
            "target of their own",
        )


def compare(
    config: Recipe,
    variants: Sequence[Variant] | None = None,
    options: Options | None = None,
    *,
    reference: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool | None = None,
    console: Console | None = None,
    **methods: Any,
) -> CompareResult:
    """Train each variant and the recipe's controls over the same replicas; rank on validation.

    The teachers answer once for all. Test is scored once, at the end.

    Args:
        config: the recipe, whose data, teachers, controls and number of replicas all share.
        variants: the methods; None = those that `raykd.config.variants.method_variants` makes of `methods`.
        options: folder, cluster, resume.
        reference: the variant or control that all are held against; None = the first variant.
        output: the folder; None = as the options say.
        resume: continue in a folder that exists, with the same objects; None = as the options say.
        console: who tells a person; None is quiet.
        methods: `losses=["kl", "mse"]`, `weightings=[...]`, `others={name: ["key.sub=value"]}`, `taps`, `cross`.

    Raises:
        InputError: before anything starts.
        RaykdError: a stage failed; what was finished is kept, and `resume` continues.
    """
    options = options_of(options, output, resume)
    with given_recipe(config) as recipe:
        if variants is None:
            variants = method_variants(recipe, **methods)
        return _compare(recipe, variants, options, reference or variants[0].name, console)


def _compare(
    config: Config,
    variants: Sequence[Variant],
    options: Options,
    reference: str,
    console: Console | None,
) -> CompareResult:
    check_reference(config, variants, reference)
    check_choice(config, variants)
    with own_folder(options) as own:
        return _compare_in(run_folder(config, own), config, variants, own, reference, console)


def _compare_in(
    folder: RunFolder,
    config: Config,
    variants: Sequence[Variant],
    options: Options,
    reference: str,
    console: Console | None,
) -> CompareResult:
    config = as_begun(config, folder)
    check_same(folder, variants)
    listen = None if console is None else console.on
    # The controls are those of the recipe: students that are compared have their best epoch chosen alike.
    recipes = {one.name: choosing_samples_as_in(one.config, config) for one in variants}
    prepared = prepare(config, list(recipes.values()), address=options.address, listen=listen)
    students = {name: vary(prepared, recipe) for name, recipe in recipes.items()}
    students |= dict.fromkeys(config.evaluate.controls, prepared)
    with opened(prepared, folder, options, console, kind="compare") as job:
        keep_variants(folder, variants)
        _stages(job, students, reference)
    return CompareResult(folder.path, job.summary)


def kept_variants(folder: RunFolder, *, trust: bool = False) -> list[Variant]:
    """The variants that a comparison began with.

    Args:
        folder: of the comparison.
        trust: run the code that they name, whoever wrote them.

    Raises:
        InputError: the folder is no comparison's, or names code and was not written here.
    """
    kept = folder.variants
    if not kept.is_file():
        raise InputError.at(
            "--output", f"{folder.path} is no comparison's folder: it has no {kept.name}"
        )
    trees = read_json(kept)
    refuse_code(kept, trees, trust=trust)
    return [Variant(name, load_config(tree)) for name, tree in trees.items()]


def keep_variants(folder: RunFolder, variants: Sequence[Variant]) -> None:
    """Write down what each variant is."""
    trees = {variant.name: variant.config.model_dump(mode="json") for variant in variants}
    write_json(folder.variants, trees)
    remember(folder.variants, trees)


def check_same(folder: RunFolder, variants: Sequence[Variant]) -> None:
    """A comparison goes on with the variants that it began with, or with others beside them.

    Raises:
        InputError: the folder holds something else.
    """
    if not folder.config.is_file():
        return
    new = {variant.name: variant.config for variant in variants}
    for old in kept_variants(folder):
        if new.get(old.name, old.config) != old.config:
            raise InputError(
                Problem(f"--resume: {old.name}", f"is not what it was when {folder.path} was begun; give it "
                        "another name")
            )  # fmt: skip


def _stages(job: Job, students: Mapping[str, Prepared], reference: str) -> None:
    specs = job.teachers()
    counts = [shown_views(recipe.config) for recipe in students.values()]
    views = None if None in counts else max(count for count in counts if count is not None)
    with job.targets(specs, views) as targets:
        students = settle(students, choose(job, targets))
        fits = list(paired_fits(job.config, students, targets.teachers))
        results = job.train(fits, targets)
    compared = hold_against(job.evaluate(targets, students), reference, seconds_of(results))
    found = {**compared, **transfer_numbers(job.prepared, targets.store)}
    job.summarise("comparison", found, job.target_numbers(targets), tested=True)
    job.report()


def paired_fits(
    config: Config, students: Mapping[str, Prepared], teachers: TeacherValidation
) -> Iterator[Fit]:
    """Every student's replicas, replica by replica, so that an early stop leaves whole pairs.

    Args:
        config: the recipe, whose replicas and controls they are.
        students: name of a method or control -> the recipe that it is trained by.
        teachers: what is known of them.
    """
    controls = config.evaluate.own_controls
    for replica in range(config.seeds):
        for name, prepared in students.items():
            role: Role = next((control for control in controls if control == name), "student")
            objective, names = prepared.config.objective, list(prepared.teachers)
            taught = training_role(
                role,
                objective,
                names,
                teachers.best_teacher,
                always_labelled=find_task(config.task).settings.chunks,
            )
            yield student_fit(prepared, teachers, taught, replica, name=name)


def seconds_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Method -> training time of each of its replicas."""
    found: dict[str, list[float]] = {}
    for fit_id, result in results.items():
        found.setdefault(fit_id.split("/")[0], []).append(float(result["seconds"]))
    return found


def rank(
    config: Config, options: Options | None = None, *, console: Console | None = None
) -> dict[str, Any]:
    """Fit or load the teachers, ask them about validation and test, rank them on validation.

    Their answers are stored, so that a later run does not ask them again.

    Returns:
        What `ranking.json` holds; see `raykd.evaluate.ranking.rank_teachers`.

    Raises:
        InputError: before anything starts; also where no validation sample is labelled.
        RaykdError: a stage failed.
    """
    with own_folder(options or Options()) as own:
        return _rank_in(run_folder(config, own), config, own, console)


def _rank_in(
    folder: RunFolder, config: Config, options: Options, console: Console | None
) -> dict[str, Any]:
    listen = None if console is None else console.on
    prepared = prepare(config, address=options.address, listen=listen)
    if not len(prepared.samples.labelled_rows("validation")):
        raise InputError.at(
            "data.splits.validation", "holds no labelled sample to rank teachers by"
        )
    with opened(prepared, folder, options, console, kind="rank") as job:
        judged = job.validate_teachers(job.teachers())
    ranking = {"task": config.task, **rank_teachers(judged.task, judged.validation)}
    write_json(folder.path / RANKING, ranking)
    return ranking
