"""What a detector must show before it teaches: boxes where validation has some."""

from __future__ import annotations

from torch import Tensor

from raykd.config.roles import Expect
from raykd.detection.structured import read_answers
from raykd.errors import TeacherError
from raykd.tasks.detection.metrics import box_metrics, found_rows

_LEAST = 0.01
"""AP50 of a detector that has learnt nothing is below it."""


def check_boxes(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """Mean AP on labelled validation images, of the classes that the teacher knows; as `raykd.teachers.selftest.SelfTest`.

    Raises:
        TeacherError: no answers of a detector, less than expected, or hardly a box at its place.
    """
    if not len(outputs_NC):
        return float("nan")
    try:
        knows_C = read_answers(outputs_NC).knows_BC[0]
        numbers = box_metrics(found_rows(outputs_NC), labels_N)
    except ValueError as error:
        raise TeacherError(f"teacher {name!r} answers with no boxes: {error}") from error
    known = [numbers[f"ap.{c}"] for c in knows_C.nonzero()[:, 0].tolist() if f"ap.{c}" in numbers]
    ap = sum(known) / len(known) if known else float("nan")
    found = f"teacher {name!r} has AP {ap:.3f} on validation over the {len(known)} classes that it knows"
    if expect.ap is not None:
        if not ap >= expect.ap:
            raise TeacherError(
                f"{found}, less than teachers.{name}.expect.ap={expect.ap:g}; check what it is given and the unit of its "
                "boxes (pixels of the image), or lower the expectation"
            )
        return ap
    if not numbers["ap50"] >= _LEAST:
        raise TeacherError(
            f"{found} and AP50 {numbers['ap50']:.3f} over all, hardly a box at its place; check what it is given, the order "
            f"of its classes and the unit of its boxes, or set teachers.{name}.expect.ap=0 to use it all the same"
        )
    return ap
