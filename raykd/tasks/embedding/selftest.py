"""What a teacher's embeddings must show: neighbours of the same class more often than by chance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raykd.config.roles import Expect
from raykd.errors import TeacherError
from raykd.tasks.embedding.metrics import has_pairs, retrieval_metrics


def check_vectors(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """The mAP at 10 on labelled validation samples; their recall at 1 is held against `expect` and chance.

    Chance is that another sample, drawn at random, is of the same class. Without two labelled samples of one
    class there is nothing to judge by: NaN then.

    Args:
        name: the teacher's name.
        outputs_NC: its embeddings.
        labels_N: classes, all known; may be none.
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than chance.
    """
    if not has_pairs(labels_N):
        return math.nan
    numbers = retrieval_metrics(outputs_NC, labels_N)
    recall, size_C = numbers["recall_1"], torch.bincount(labels_N).double()
    askers = float(size_C[size_C > 1].sum())
    found = f"teacher {name!r} has a recall at 1 of {recall:.1%} on {askers:.0f} labelled validation samples"
    if expect.recall_1 is not None:
        if recall < expect.recall_1:
            raise TeacherError(
                f"{found}, less than teachers.{name}.expect.recall_1={expect.recall_1:g}; check its "
                "preprocessing and weights, or lower the expectation"
            )
        return numbers["map_10"]
    chance = float((size_C * (size_C - 1)).sum()) / (askers * (len(labels_N) - 1))
    if recall <= chance + 2 * math.sqrt(chance * (1 - chance) / askers):
        raise TeacherError(
            f"{found}, no better than chance ({chance:.1%}); check its weights and preprocessing, or set "
            f"teachers.{name}.expect.recall_1=0 to use it all the same"
        )
    return numbers["map_10"]
