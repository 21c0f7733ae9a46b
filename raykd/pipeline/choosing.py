"""`objective.choose`: students are trained with each target of the menu, and validation chooses one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from raykd.config.choosing import extra_fits, menu, settled
from raykd.config.objective import Candidate, Objective
from raykd.evaluate.choice import choose_target
from raykd.folders import read_json, write_json
from raykd.objective import training_role
from raykd.pipeline.evaluation import best_answers
from raykd.pipeline.fits import student_fit
from raykd.pipeline.job import Job
from raykd.pipeline.preparation import Prepared, is_fully_labelled, with_target
from raykd.pipeline.target_stage import TargetStage
from raykd.pipeline.taught import labelled_student_rows, student_rows
from raykd.pipeline.teacher_validation import TeacherValidation
from raykd.tasks import find_task
from raykd.tracking import events
from raykd.train import Fit

Students = Mapping[Candidate, list[Fit]]


def menu_of(prepared: Prepared) -> tuple[Candidate, ...]:
    """The targets that a recipe is to choose from, on its data; none where it has no menu."""
    objective = prepared.config.objective
    return menu(objective, fully_labelled=is_fully_labelled(prepared.config, prepared.samples))


def extra_fits_of(prepared: Prepared) -> int:
    """Students that are trained for the menu alone."""
    config, samples = prepared.config, prepared.samples
    labelled = len(labelled_student_rows(config, samples))
    return extra_fits(config, labelled=labelled, samples=len(student_rows(config, samples)))


def typical(prepared: Prepared) -> Prepared:
    """The recipe with a target that stands for its whole menu: all of them take the student as long."""
    candidates = menu_of(prepared)
    return with_target(prepared, candidates[-1]) if candidates else prepared


def choose(job: Job, targets: TargetStage) -> Candidate | None:
    """Choose the target of the recipe's menu, or read which one was chosen; None where there is no menu.

    The students of all targets are trained side by side. Those that are replicas of the student or of a control are
    these replicas: nothing is trained twice. Where validation has chosen before, nothing is trained.

    Raises:
        TrainingError: a student did not finish.
    """
    candidates = menu_of(job.prepared)
    if not candidates:
        return None
    students = menu_fits(job.prepared, targets.teachers)
    fits = [fit for replica in zip(*students.values(), strict=True) for fit in replica]
    if not job.folder.choice.is_file():
        results = job.train(fits, targets)
        write_json(job.folder.choice, _judged(job, students, results))
    job.know(fits)
    job.choice = read_json(job.folder.choice)
    target: Candidate = job.choice["target"]
    job.emit(events.message("student", _in_words(job)))
    return target


def menu_fits(prepared: Prepared, teachers: TeacherValidation) -> Students:
    """The first replicas of a student of each target; the `hard` control's own where they are the same."""
    config, names = prepared.config, list(prepared.teachers)
    assert config.objective.choose is not None, "only for recipes with a menu"
    found: dict[Candidate, list[Fit]] = {}
    for target in menu_of(prepared):
        recipe = with_target(prepared, target)
        own = training_role("student", recipe.config.objective, names, teachers.best_teacher)
        name = menu_name(target)
        if "hard" in config.evaluate.controls:
            control = training_role("hard", recipe.config.objective, names, teachers.best_teacher)
            name = "hard" if control.objective == own.objective else name
        found[target] = [
            student_fit(recipe, teachers, own, replica, name=name)
            for replica in range(config.objective.choose.replicas)
        ]
    return found


def settle(students: Mapping[str, Prepared], target: Candidate | None) -> dict[str, Prepared]:
    """Recipes with the target that was chosen, those of them that have a menu; as they are where there is none."""
    if target is None:
        return dict(students)
    return {name: with_target(prepared, target) for name, prepared in students.items()}


def menu_name(target: str) -> str:
    """What the fits of a target are called."""
    return f"choose-{target}"


def _judged(
    job: Job, students: Students, results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What `choice.json` holds."""
    samples = job.prepared.samples
    rows = samples.splits["validation"]
    answers: dict[str, torch.Tensor] = {
        target: best_answers(job.prepared, job.folder, [fit.fit_id for fit in fits], rows, job.ask)
        for target, fits in students.items()
    }
    labels_N, ids_N = (
        torch.from_numpy(values[rows].copy()) for values in (samples.labels, samples.ids)
    )
    found = choose_target(find_task(samples.task).metrics, answers, labels_N, ids_N)
    for target, numbers in found["menu"].items():
        numbers["seconds"] = sum(float(results[fit.fit_id]["seconds"]) for fit in students[target])
        numbers["facts"] = dict(students[target][0].facts)
    chosen: Objective = settled(job.config.objective, found["target"])
    return {
        **found,
        "replicas": len(students[found["target"]]),
        "objective": chosen.model_dump(mode="json"),
    }


def _in_words(job: Job) -> str:
    """The choice in a line."""
    text, menu = find_task(job.config.task).text, job.choice["menu"]
    reached = ", ".join(
        f"{target} {text.value(numbers[text.metric.key]['mean'])}"
        + ("" if numbers["equal"] else " (worse)")
        for target, numbers in menu.items()
    )
    return f"objective.choose: {job.choice['target']}, by {job.choice['n']:,} validation samples: {reached}"
