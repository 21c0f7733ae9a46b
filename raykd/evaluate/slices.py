"""Every number on parts of test: where the student is worse than elsewhere.

Shapes: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from raykd.evaluate.kept import kept_numbers
from raykd.evaluate.outputs import Evaluation
from raykd.evaluate.summary import (
    json_safe,
    replica_gain,
    student_numbers,
    teacher_numbers,
)
from raykd.tasks import find_task
from raykd.types import is_labelled

LEAST = 30
"""Labelled samples below which a slice says little."""


def slice_numbers(
    evaluation: Evaluation, slices: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, Any]]:
    """What student, controls and ensemble reach on each slice of test.

    Args:
        evaluation: outputs of all models.
        slices: name -> which test samples are in it, bool [N].

    Returns:
        name -> `n`, its labelled samples; `few`, whether that is less than 30; V of `student`, of each of `controls`
        (both over replicas) and of the `ensemble`, None without labels; `gain` over labels alone, as in `gains` of
        a summary, None without this control or without labels; `kept`: retention and flips, as in `kept` of a summary,
        None where the task knows no right or wrong.
    """
    test, metrics = evaluation.splits["test"], find_task(evaluation.task).metrics
    baseline, decide = metrics.baseline, metrics.decisions
    found = {}
    for name, keep_N in slices.items():
        known = int((is_labelled(test.labels_N) & keep_N).sum())
        outputs = test.only(keep_N)
        part = Evaluation(splits={"test": outputs}, task=evaluation.task)
        numbers = {role: student_numbers(part, role)["test"] for role in test.students}
        paired = baseline in numbers and known > 0
        found[name] = {
            "n": known,
            "few": known < LEAST,
            "student": numbers.pop("student"),
            "controls": numbers,
            "ensemble": teacher_numbers(part, None)["test"],
            "gain": replica_gain(part, "test", "student", baseline) if paired else None,
            "kept": None if decide is None else kept_numbers(decide(outputs)),
        }
    clean: dict[str, dict[str, Any]] = json_safe(found)
    return clean
