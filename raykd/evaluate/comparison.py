"""Methods held against each other over paired replicas: the numbers of a comparison.

Shapes: R replicas, N samples. Every method has the same replicas: seeds, views, updates, teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.evaluate.outputs import Evaluation
from raykd.evaluate.statistics import holm, paired_t_pvalue, spread
from raykd.evaluate.summary import json_safe, replica_gain, student_numbers, teacher_numbers
from raykd.tasks import find_task


def compare(
    evaluation: Evaluation, reference: str, seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Numbers of every method, and what sets it apart from the reference.

    Args:
        evaluation: outputs of all models; its "students" are the methods.
        reference: the method that all others are held against.
        seconds: method -> training time of each replica.

    Returns:
        `reference`, `metric`, `methods` and `ranking`: names, best mean on validation first. Each method
        has `validation` and `test` (V over replicas), `seconds`, and but for the reference
        `gain_validation` and `gain` (on test; paired differences, positive = better than the
        reference), `p` of the paired t test on test and `p_holm`, corrected for all methods held against
        the reference (Holm 1979). What needs labels that a split lacks is None.
    """
    task = find_task(evaluation.task).metrics
    names = list(evaluation.splits["test"].students)
    methods: dict[str, dict[str, Any]] = {}
    for name in names:
        own = {**student_numbers(evaluation, name), "seconds": spread(list(seconds[name]))}
        if name != reference:
            own["gain_validation"] = replica_gain(evaluation, "validation", name, reference)
            own["gain"] = replica_gain(evaluation, "test", name, reference)
            own["p"] = paired_t_pvalue(own["gain"]["values"]) if own["gain"] else None
        methods[name] = own
    tested = [name for name in names if methods[name].get("p") is not None]
    corrected = holm([methods[name]["p"] for name in tested])
    for name in names:
        if name != reference:
            methods[name]["p_holm"] = None
    for name, p in zip(tested, corrected, strict=True):
        methods[name]["p_holm"] = p

    def merit(name: str) -> float:
        numbers = methods[name]["validation"] or methods[name]["test"]
        return float("-inf") if numbers is None else task.merit(numbers[task.metric]["mean"])

    clean: dict[str, Any] = json_safe(
        {
            "reference": reference,
            "metric": task.metric,
            "methods": methods,
            "ranking": sorted(names, key=merit, reverse=True),
            "ensemble": teacher_numbers(evaluation, None),
            "teachers": {
                name: teacher_numbers(evaluation, name)
                for name in evaluation.splits["test"].teachers
            },
        }
    )
    return clean
