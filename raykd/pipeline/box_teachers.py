"""What is known before a job of teachers that say boxes at no fixed locations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from raykd.config import Config
from raykd.config.roles import Teacher
from raykd.data import Samples
from raykd.data.named.box_terms import terms_of
from raykd.detection.layout import of_width
from raykd.errors import InputError
from raykd.models.zoo.detector import detector_layout
from raykd.teachers.recorded_boxes import load_boxes


def boxes_of(
    config: Config, teacher: Teacher, samples: Samples, key: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of the boxes of a teacher's file, float32 [N, used], and what a reader should know of them.

    Raises:
        InputError: see `raykd.teachers.recorded_boxes.load_boxes`.
    """
    assert teacher.outputs is not None, "only for teachers with a file"
    height, width = samples.input_shape[-2:]
    layout = detector_layout(len(samples.classes), height, width)
    rows_NU, told = load_boxes(
        teacher.outputs,
        samples,
        of_width(layout, samples.class_count),
        terms_of(config.data.source, samples.classes),
        key=key,
        categories=teacher.categories,
    )
    return rows_NU, tuple(f"teacher {teacher.name!r}: {one}" for one in told)


def used_of(find: Callable[[Tensor], int | None], answers_NC: Tensor, key: str) -> int | None:
    """How many first numbers of a model's answers say something; None = all.

    Args:
        find: `raykd.evaluate.task.TaskMetrics.used`.
        answers_NC: of some samples.
        key: of the model, for errors.

    Raises:
        InputError: they are no answers of the task.
    """
    try:
        return find(answers_NC.float())
    except ValueError as error:
        raise InputError.at(key, str(error)) from None
