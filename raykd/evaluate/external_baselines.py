"""The student held against other models: how much better it is, and who is right where the other is wrong.

Shapes: R replicas, N samples, C outputs, M labelled samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.evaluate.outputs import Evaluation, SplitOutputs
from raykd.evaluate.statistics import mcnemar, paired_gain
from raykd.evaluate.task import TaskMetrics, redrawn_pair
from raykd.tasks import find_task
from raykd.types import is_labelled

_SEED = 0


def external_baseline_numbers(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """Numbers of one model that the student is held against.

    Returns:
        V on `validation` and `test` (`test_last` is `test`: it has one epoch). `gain`: paired difference of the
        student's replicas from the model in the task's metric on test, positive where the student is better; as of
        `paired_gain`, and with a bootstrap interval even of one replica. `mcnemar`: on test, of replica 0, which
        is the student that is kept: samples that `both`, the `student_only`, the `model_only` and `neither` have
        right (in multilabel: in all labels), and the exact `p`; None in regression and of embeddings, which are no
        more right than wrong. None without labels.
    """
    task = find_task(evaluation.task).metrics
    test, validation = evaluation.splits["test"], evaluation.splits.get("validation")
    known = bool(is_labelled(test.labels_N).any())
    numbers = _numbers(task, test, name)
    return {
        "validation": None if validation is None else _numbers(task, validation, name),
        "test": numbers,
        "test_last": numbers and dict(numbers),
        "gain": _gain(task, test, name) if known else None,
        "mcnemar": _odds(task, test, name) if known and task.right_or_wrong else None,
    }


def _numbers(task: TaskMetrics, split: SplitOutputs, name: str) -> dict[str, float] | None:
    if not bool(is_labelled(split.labels_N).any()):
        return None
    return task.numbers(split.rivals[name], split.labels_N)


def _gain(task: TaskMetrics, test: SplitOutputs, name: str) -> dict[str, Any]:
    students_RNC, rival_NC = test.students["student"], test.rivals[name]
    own_R = [_merit(task, one_NC, test.labels_N) for one_NC in students_RNC]
    scores_RM = torch.stack([task.scores(one_NC, test.labels_N) for one_NC in students_RNC])
    other_M = task.scores(rival_NC, test.labels_N)
    return paired_gain(
        own_R,
        [_merit(task, rival_NC, test.labels_N)] * len(own_R),
        scores_RM.cpu().numpy(),
        np.stack([other_M.cpu().numpy()] * len(own_R)),
        seed=_SEED,
        from_scores=task.from_scores,
        fixed_control=True,
        redrawn=redrawn_pair(
            task, students_RNC, rival_NC.expand(len(own_R), *rival_NC.shape), test.labels_N
        ),
    )


def _merit(task: TaskMetrics, answers_NC: Tensor, labels_N: Tensor) -> float:
    return task.merit(task.numbers(answers_NC, labels_N)[task.metric])


def _odds(task: TaskMetrics, test: SplitOutputs, name: str) -> dict[str, Any]:
    sides = (test.students["student"][0], test.rivals[name])
    right = [(task.scores(side, test.labels_N) == 1).cpu().numpy() for side in sides]
    found = mcnemar(*right)
    found["student_only"], found["model_only"] = found.pop("only_first"), found.pop("only_second")
    return {"replica": 0, **found}
