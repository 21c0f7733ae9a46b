"""What a teacher must show before any student trains: pure checks of its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from raykd.config.models import Expect
from raykd.errors import TeacherError
from raykd.types import TeacherOutputs

_MARGIN = 0.2


def check_repeatable(first: TeacherOutputs, second: TeacherOutputs) -> None:
    """Scoring the same rows twice gives the same bits.

    Raises:
        TeacherError: names the teacher whose answers differ.
    """
    for name, answer in first.items():
        if not torch.equal(answer.values_NC, second[name].values_NC):
            worst = (answer.values_NC - second[name].values_NC).abs().max().item()
            raise TeacherError(
                f"teacher {name!r} answers the same samples differently (by up to {worst:.2g}): its forward "
                "pass is random; put it into evaluation mode, or make it deterministic"
            )


def best_label_map(predicted_N: np.ndarray, labels_N: np.ndarray, classes: int) -> tuple[int, ...]:
    """The one-to-one map from a teacher's classes to the data's with the most hits."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predicted_N, labels_N), 1)
    _, columns = linear_sum_assignment(-counts)
    return tuple(int(column) for column in columns)


def check_accuracy(name: str, logits_NC: Tensor, labels_N: Tensor, expect: Expect) -> float:
    """Accuracy on labelled validation samples against `expect` and against chance.

    Raises:
        TeacherError: worse than expected, no better than chance, or the classes look permuted.
    """
    predicted_N = logits_NC.argmax(dim=1)
    count, classes = labels_N.numel(), logits_NC.shape[1]
    accuracy = (predicted_N == labels_N).double().mean().item()
    found = f"teacher {name!r} has {accuracy:.1%} accuracy on {count} labelled validation samples"
    if expect.accuracy is not None and accuracy < expect.accuracy:
        raise TeacherError(
            f"{found}, less than teachers.{name}.expect.accuracy={expect.accuracy:g}; fit it longer, check "
            f"its preprocessing and classes, or lower the expectation"
        )
    label_map = best_label_map(predicted_N.numpy(), labels_N.numpy(), classes)
    mapped = (torch.tensor(label_map)[predicted_N] == labels_N).double().mean().item()
    if mapped > accuracy + _MARGIN and mapped > 2 / classes:
        raise TeacherError(
            f"{found}, but {mapped:.1%} with its classes in another order: they look permuted; set "
            f"teachers.{name}.label_map={list(label_map)}"
        )
    chance = 1 / classes
    if expect.accuracy is None and accuracy <= chance + 2 * math.sqrt(
        chance * (1 - chance) / count
    ):
        raise TeacherError(
            f"{found}, no better than chance ({chance:.1%}); check its weights, preprocessing and classes, or "
            f"set teachers.{name}.expect.accuracy=0 to use it all the same"
        )
    return accuracy


def check_classes(outputs: TeacherOutputs, classes: int) -> None:
    """Every teacher speaks of the data's classes.

    Raises:
        TeacherError: names the teacher and both counts.
    """
    wrong: Mapping[str, int] = {
        name: answer.values_NC.shape[1]
        for name, answer in outputs.items()
        if answer.values_NC.shape[1] != classes
    }
    for name, count in wrong.items():
        raise TeacherError(f"teacher {name!r} answers {count} classes, the data has {classes}")
