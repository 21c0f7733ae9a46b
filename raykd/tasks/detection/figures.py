"""What a report of detectors shows beside what it shows of every task: pictures with boxes, precision, classes, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from raykd.detection.layout import true_boxes
from raykd.detection.precision import RECALLS, SIZES, matched, precision_curve
from raykd.report.folder import RunData
from raykd.report.style import COLOURS, MUTED, Picture, finish, is_narrow, legend_below, sheet
from raykd.report.tables import Table, dot
from raykd.report.task import TaskFigures
from raykd.report.wording import NONE, percent, role_name
from raykd.tasks.detection.metrics import SURE, images_of
from raykd.types import is_labelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_EXAMPLES = 8


def _of(numbers: Mapping[str, Any] | None, key: str) -> float | None:
    found = None if numbers is None else numbers.get(key)
    value = found["mean"] if isinstance(found, Mapping) else found
    return None if value is None else float(value)


def by_class(run: RunData) -> Table | None:
    """Mean AP of every model on each class of test."""
    summary, evaluation = run.summary, run.evaluation
    if evaluation is None or not evaluation.classes:
        return None
    models = [("student", summary["student"]), *summary.get("controls", {}).items()]
    models += [("ensemble", summary["ensemble"]), *summary["teachers"].items()]
    keys = [f"ap.{number}" for number in range(len(evaluation.classes))]
    values = [(name, [_of(one.get("test"), key) for key in keys]) for name, one in models]
    return Table(
        name="ap_by_class",
        title="mAP 50:95 by class",
        columns=("model", *evaluation.classes),
        rows=[
            (role_name(name), *(NONE if one is None else percent(one) for one in found))
            for name, found in values
        ],
        records=[(name, *found) for name, found in values],
        fields=("model", *evaluation.classes),
        note="On test; of students the mean over replicas. A teacher finds nothing of a class that it does not know.",
        dots=[dot(name) for name, _ in values],
    )


def by_size(run: RunData) -> Table | None:
    """Mean AP of every model on the boxes of each of COCO's sizes that test has."""
    summary = run.summary
    models = [("student", summary["student"]), *summary.get("controls", {}).items()]
    models += [("ensemble", summary["ensemble"]), *summary["teachers"].items()]
    sizes = [
        size for size in SIZES if _of(summary["student"].get("test"), f"ap_{size}") is not None
    ]
    if not sizes:
        return None
    values = [
        (name, [_of(one.get("test"), f"ap_{size}") for size in sizes]) for name, one in models
    ]
    return Table(
        name="ap_by_size",
        title="mAP 50:95 by size",
        columns=("model", *sizes),
        rows=[
            (role_name(name), *(NONE if one is None else percent(one) for one in found))
            for name, found in values
        ],
        records=[(name, *found) for name, found in values],
        fields=("model", *sizes),
        note="COCO's sizes: small is an area below 32² pixels, medium below 96².",
        dots=[dot(name) for name, _ in values],
    )


def examples(run: RunData) -> Picture | None:
    """Test images on which the student and the ensemble differ, with the boxes of both and the true ones."""
    evaluation = run.evaluation
    if evaluation is None or evaluation.examples_rows is None or evaluation.examples_inputs is None:
        return None
    test, inputs = evaluation.splits["test"], evaluation.examples_inputs
    if "student" not in test.students or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return None
    count = min(_MOST_EXAMPLES, len(inputs))
    columns = min(2 if is_narrow() else 4, count)
    lines = -(-count // columns)
    figure = sheet(2.4 * max(columns, 2), 2.5 * lines)
    for position in range(count):
        row = int(evaluation.examples_rows[position])
        axes = figure.add_subplot(lines, columns, position + 1)
        height, width = inputs.shape[-2:]
        shown = inputs[position].movedim(0, -1).squeeze(-1)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
        axes.set_axis_off()
        _draw(axes, test.labels_N[row], evaluation.classes, MUTED, "-")
        _draw(axes, test.ensemble[row], evaluation.classes, COLOURS["ensemble"], ":")
        _draw(axes, test.students["student"][0, row], evaluation.classes, COLOURS["student"], "--")
        axes.set(xlim=(-1, width + 1), ylim=(height + 1, -1))
    return finish(
        figure,
        name="examples",
        title="Where student and ensemble find other boxes",
        caption="Test images with the true boxes (grey), those of the ensemble (dotted, yellow) and of the student (dashed, "
        f"blue, first replica), from a score of {SURE:g} on.",
    )


def _draw(axes: Axes, row_L: Tensor, names: Sequence[str], colour: str, style: str) -> None:
    boxes = true_boxes(row_L[None])
    for four, label, score in zip(
        boxes.boxes_BM4[0].tolist(),
        boxes.classes_BM[0].tolist(),
        boxes.scores_BM[0].tolist(),
        strict=True,
    ):
        if score >= SURE:
            x1, y1, x2, y2 = four
            edges = [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]
            axes.plot(*edges, color=colour, linestyle=style, linewidth=1.2)
            axes.text(x1, y1, names[label] if label < len(names) else label, color=colour, size=7)


def precision_and_recall(run: RunData) -> Picture | None:
    """Precision at each recall of student, controls and ensemble at IoU 0.5, mean over the classes of test."""
    evaluation = run.evaluation
    if evaluation is None or not bool(is_labelled(evaluation.splits["test"].labels_N).any()):
        return None
    test, classes = evaluation.splits["test"], range(len(evaluation.classes))
    models = {role: answers[0] for role, answers in test.students.items() if role in COLOURS}
    figure = sheet(5.2, 3.4)
    axes = figure.add_subplot()
    for role, found_BL in {**models, "ensemble": test.ensemble}.items():
        images = images_of(found_BL, test.labels_N)
        curves = np.stack([precision_curve(matched(images, c))[0] for c in classes])
        if not np.isnan(curves).all():
            axes.plot(
                RECALLS, np.nanmean(curves, axis=0), color=COLOURS[role], label=role_name(role)
            )
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    legend_below(figure, axes)
    return finish(
        figure,
        name="precision_recall",
        title="Precision and recall of boxes",
        caption="On test at IoU 0.5, mean over the classes; of students the first replica. The area under a curve is its AP50.",
    )


FIGURES = TaskFigures(pictures=(precision_and_recall, examples), tables=(by_class, by_size))
