"""What a teacher must show of several labels: right decisions, and samples in a better order than by chance."""

from __future__ import annotations

import math

from torch import Tensor

from raykd.config.roles import Expect
from raykd.errors import TeacherError
from raykd.evaluate.statistics import ranks
from raykd.tasks.multilabel.metrics import right_shares


def check_decisions(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """Share of right label decisions against `expect`, and the order of samples against chance.

    Chance is judged by the area under the ROC curve, mean over labels, since where labels are rare a
    useful teacher may decide no better than always saying no.

    Args:
        name: the teacher's name.
        outputs_NC: its label logits.
        labels_N: 0 and 1 [N, K], all known.
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than chance.
    """
    accuracy = float(right_shares(outputs_NC, labels_N).mean())
    areas = [_area(*pair) for pair in zip(outputs_NC.T, labels_N.T, strict=True)]
    known = [(area, error) for area, error in areas if error > 0]
    found = (
        f"teacher {name!r} has {accuracy:.1%} right label decisions on {len(labels_N)} labelled "
        "validation samples"
    )
    if expect.accuracy is not None:
        if accuracy < expect.accuracy:
            raise TeacherError(
                f"{found}, less than teachers.{name}.expect.accuracy={expect.accuracy:g}; fit it longer, "
                "check its preprocessing and the order of its labels, or lower the expectation"
            )
        return accuracy
    area = sum(area for area, _ in known) / max(1, len(known))
    error = sum(error for _, error in known) / max(1, len(known))
    if known and area <= 0.5 + 2 * error:
        raise TeacherError(
            f"{found} and a mean ROC area of {area:.3f}, no better than chance (0.5); check its weights, "
            f"preprocessing and the order of its labels, or set teachers.{name}.expect.accuracy=0 to use "
            "it all the same"
        )
    return accuracy


def _area(logits_N: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and its standard error at chance; (0, 0) without both kinds."""
    positive = int(labels_N.sum())
    negative = len(labels_N) - positive
    if not positive or not negative:
        return 0.0, 0.0
    rank_N = ranks(logits_N.numpy())
    above = rank_N[labels_N.numpy() == 1].sum() - positive * (positive + 1) / 2
    error = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    return float(above / (positive * negative)), error
