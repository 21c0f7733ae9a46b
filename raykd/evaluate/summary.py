"""summary.json: the numbers of a run, from the outputs of its models.

Shapes: R replicas, N samples, C classes. V is the set of numbers of one model on one split, M all
numbers of one model; over replicas each number is `{"mean", "std", "n", "values"}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from raykd.ensemble import calibration_half
from raykd.evaluate.choice import own_temperature
from raykd.evaluate.closeness import gap_recovered
from raykd.evaluate.cost_numbers import with_costs
from raykd.evaluate.external_baselines import external_baseline_numbers
from raykd.evaluate.kept import entropy_kept, kept_numbers
from raykd.evaluate.outputs import Evaluation, Split, SplitOutputs, best_teacher, choose_examples
from raykd.evaluate.requirements import Requirement, check_requirements
from raykd.evaluate.statistics import paired_gain, spread
from raykd.evaluate.task import TaskMetrics, redrawn_pair
from raykd.tasks import find_task
from raykd.types import is_labelled

__all__ = [
    "Evaluation",
    "Requirement",
    "SplitOutputs",
    "best_teacher",
    "check_requirements",
    "choose_examples",
    "summarise",
]

Status = Literal["complete", "degraded", "failed"]
BOOTSTRAP_SEED = 0
_LEAST_LABELS = 2


def summarise(
    evaluation: Evaluation,
    costs: Mapping[str, Mapping[str, Any]],
    *,
    task: str,
    status: Status,
    labels_used: Mapping[str, Any],
    test_scored_times: int,
    timing: Mapping[str, Any],
    targets: Mapping[str, Any],
) -> dict[str, Any]:
    """All numbers of a run, schema 1 (see the design's "Run folder"); every value is plain JSON.

    Costs are those of `raykd.evaluate.cost_numbers`. Teachers are frozen, so their `test_last` is their `test`. `compare`
    has the other models that the student is held against: M, and what sets the student apart, see
    `raykd.evaluate.external_baselines`. `kept`: what the student keeps of ensemble and labels alone, see
    `raykd.evaluate.kept`; None in regression and of embeddings.

    Args:
        evaluation: outputs of all models; `students` must hold the role `student` on test.
        costs: `student`, names of teachers and of other models -> what `raykd.evaluate.costs` found of it.
        task: kind of task.
        status: how the run ended.
        labels_used: how many labels teachers, student and validation used.
        test_scored_times: how often test was scored in this folder.
        timing: seconds by stage.
        targets: mode and counts of the target source.

    Raises:
        ValueError: the student is missing, or replicas of student and control do not pair up.
    """
    test = evaluation.splits["test"]
    if "student" not in test.students:
        raise ValueError(f"test holds no student, only: {', '.join(test.students) or 'nothing'}")
    if task != evaluation.task:
        raise ValueError(f"the outputs are of {evaluation.task}, the summary is to be of {task}")
    students = {role: student_numbers(evaluation, role) for role in test.students}
    teachers = {name: teacher_numbers(evaluation, name) for name in test.teachers}
    ensemble = teacher_numbers(evaluation, None)
    student = students.pop("student")
    summary = {
        "schema": 1,
        "status": status,
        "task": task,
        "student": student,
        "controls": students,
        "ensemble": ensemble,
        "teachers": teachers,
        "fidelity": _fidelity(evaluation, student, students, ensemble, teachers),
        "gains": _gains(evaluation, students),
        "kept": _kept(evaluation),
        "compare": {name: external_baseline_numbers(evaluation, name) for name in test.rivals},
        "labels_used": dict(labels_used),
        "test_scored_times": test_scored_times,
        "timing": dict(timing),
        "targets": dict(targets),
    }
    clean: dict[str, Any] = json_safe(with_costs(summary, costs))
    return clean


def json_safe(value: Any) -> Any:
    """The same value for strict JSON: NaN and infinities become null, NumPy scalars plain ones."""
    if isinstance(value, Mapping):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def numbers_on(task: TaskMetrics, answers_NC: Tensor, labels_N: Tensor) -> dict[str, float] | None:
    """V of one network, or None where the split has no labels."""
    if not bool(is_labelled(labels_N).any()):
        return None
    return task.numbers(answers_NC, labels_N)


def _over_replicas(
    task: TaskMetrics, answers_RNC: Tensor | None, labels_N: Tensor
) -> dict[str, Any] | None:
    if answers_RNC is None:
        return None
    found = [numbers_on(task, answers_NC, labels_N) for answers_NC in answers_RNC]
    replicas = [numbers for numbers in found if numbers is not None]
    if not replicas:
        return None
    return {name: spread([numbers[name] for numbers in replicas]) for name in replicas[0]}


def student_numbers(evaluation: Evaluation, role: str) -> dict[str, Any]:
    """V of one role's replicas on each split; on test also `*_calibrated` with `temperature`, where there is one."""
    test, validation = evaluation.splits["test"], evaluation.splits.get("validation")
    task = find_task(evaluation.task).metrics
    tested = _over_replicas(task, test.students[role], test.labels_N)
    return {
        "validation": validation
        and _over_replicas(task, validation.students.get(role), validation.labels_N),
        "test": tested and {**tested, **_calibrated(evaluation, role)},
        "test_last": _over_replicas(task, test.students_last.get(role), test.labels_N),
    }


def student_temperatures(evaluation: Evaluation, role: str) -> list[float] | None:
    """The temperature of each replica of least NLL on the half of validation that fits temperatures.

    Guo et al. 2017 (On Calibration of Modern Neural Networks), Sec. 4. 1 where it has no minimum, as where all
    samples are answered rightly; None where answers have no temperature, or fewer than two samples are labelled.
    """
    validation = evaluation.splits.get("validation")
    task = find_task(evaluation.task).metrics
    if task.calibrate is None or validation is None or role not in validation.students:
        return None
    half_N = calibration_half(validation.ids_N) & is_labelled(validation.labels_N)
    if int(half_N.sum()) < _LEAST_LABELS:
        return None
    answers_RNC = validation.students[role][:, half_N]
    return [own_temperature(task, one_NC, validation.labels_N[half_N]) for one_NC in answers_RNC]


def _calibrated(evaluation: Evaluation, role: str) -> dict[str, Any]:
    """NLL and ECE on test of each replica at its own temperature, and these; nothing where there are none."""
    temperatures = student_temperatures(evaluation, role)
    if temperatures is None:
        return {}
    task, test = find_task(evaluation.task).metrics, evaluation.splits["test"]
    replicas = [
        task.numbers(task.answer(answers_NC / value), test.labels_N)
        for answers_NC, value in zip(test.students[role], temperatures, strict=True)
    ]
    measured = {
        f"{name}_calibrated": spread([numbers[name] for numbers in replicas])
        for name in ("nll", "ece")
    }
    return {**measured, "temperature": spread(temperatures)}


def teacher_numbers(evaluation: Evaluation, name: str | None) -> dict[str, Any]:
    """V of one teacher on each split, or of the ensemble (None)."""

    def on(split: SplitOutputs | None) -> dict[str, float] | None:
        if split is None:
            return None
        answers_NC = split.ensemble if name is None else split.teachers[name]
        return numbers_on(find_task(evaluation.task).metrics, answers_NC, split.labels_N)

    test = on(evaluation.splits["test"])
    return {
        "validation": on(evaluation.splits.get("validation")),
        "test": test,
        "test_last": test and dict(test),
    }


def _merits(task: TaskMetrics, model: Mapping[str, Any]) -> list[float]:
    """The task's metric of each replica on test, more being better; empty without test labels."""
    values = model["test"][task.metric]["values"] if model["test"] else []
    return [task.merit(value) for value in values]


def _fidelity(
    evaluation: Evaluation,
    student: Mapping[str, Any],
    controls: Mapping[str, Any],
    ensemble: Mapping[str, Any],
    teachers: Mapping[str, Any],
) -> dict[str, Any]:
    test, validation = evaluation.splits["test"], evaluation.splits.get("validation")
    task = find_task(evaluation.task).metrics
    replicas = [
        task.fidelity(student_NC, test.ensemble, test.teachers)
        for student_NC in test.students["student"]
    ]
    references = {"ensemble": ensemble["test"], "best_teacher": None}
    if validation is not None and test.teachers and is_labelled(validation.labels_N).any():
        references["best_teacher"] = teachers[best_teacher(validation, evaluation.task)]["test"]
    base = task.baseline
    baseline = _merits(task, controls[base]) if base in controls else []
    smallest = task.smallest_gap(test.labels_N)

    def recovered(reference: Mapping[str, float] | None) -> dict[str, Any]:
        if reference is None or not baseline:
            return spread([None] * len(replicas))
        pairs = zip(_merits(task, student), baseline, strict=True)
        goal = task.merit(reference[task.metric])
        return spread([gap_recovered(own, base, goal, smallest=smallest) for own, base in pairs])

    gaps = {name: recovered(reference) for name, reference in references.items()}
    return {**_spreads(replicas), "gap_recovered": gaps}


def _spreads(replicas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each number over replicas, also of nested mappings."""
    return {
        name: _spreads([replica[name] for replica in replicas])
        if isinstance(first, Mapping)
        else spread([replica[name] for replica in replicas])
        for name, first in replicas[0].items()
    }


def _kept(evaluation: Evaluation) -> dict[str, Any] | None:
    """What the student keeps and loses on test; None where the task knows no right or wrong."""
    decide = find_task(evaluation.task).metrics.decisions
    if decide is None:
        return None
    decisions = decide(evaluation.splits["test"])
    return {**kept_numbers(decisions), "entropy": entropy_kept(decisions)}


def _gains(evaluation: Evaluation, controls: Iterable[str]) -> dict[str, Any]:
    """Paired difference of the task's metric on test against each control; none without labels."""
    found = {role: replica_gain(evaluation, "test", "student", role) for role in controls}
    return {role: gain for role, gain in found.items() if gain is not None}


def replica_gain(
    evaluation: Evaluation, split: Split, treatment: str, control: str
) -> dict[str, Any] | None:
    """How much better one role is than another, replica by replica; None without labels.

    Positive means that the treatment is better, also where less is better (RMSE).

    Raises:
        ValueError: the replicas of the two do not pair up.
    """
    task, outputs = find_task(evaluation.task).metrics, evaluation.splits[split]
    if not bool(is_labelled(outputs.labels_N).any()):
        return None
    sides = [outputs.students[role] for role in (treatment, control)]
    merits = [
        [task.merit(task.numbers(one_NC, outputs.labels_N)[task.metric]) for one_NC in side]
        for side in sides
    ]
    scores = [
        np.stack([task.scores(one_NC, outputs.labels_N).cpu().numpy() for one_NC in side])
        for side in sides
    ]
    return paired_gain(
        *merits,
        *scores,
        seed=BOOTSTRAP_SEED,
        from_scores=task.from_scores,
        redrawn=redrawn_pair(task, sides[0], sides[1], outputs.labels_N),
    )
