"""Pictures and tables of a classification: recall, confusions, agreement, calibration, examples.

Every figure function returns a finished picture, or None where the run has nothing to show for it; call
them inside `styled()`. Shapes: R replicas, N test samples, C classes, E examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate import Evaluation, reliability
from raykd.evaluate.closeness import agreement_matrix, error_correlation
from raykd.report.diagnostics import (
    DIVERGING,
    cells,
    class_names,
    labelled_test,
    matrix,
    ranked,
    ranked_table,
)
from raykd.report.folder import RunData
from raykd.report.style import (
    COLOURS,
    MARKERS,
    MUTED,
    PAPER,
    Picture,
    colour,
    finish,
    is_narrow,
    label,
    legend_below,
    lines_below,
    panels,
    percent_ticks,
    sheet,
    square,
)
from raykd.report.tables import Table
from raykd.report.task import TaskFigures
from raykd.report.wording import BASELINE, role_name
from raykd.tasks.classification.error_analysis import class_recall, mean_confusion
from raykd.tasks.classification.metrics import METRICS
from raykd.types import UNLABELLED

_MOST_CLASSES, _MOST_CLASSES_ON_PHONE = 30, 10
_GRAVE = 10.0
"""Points of a class by which student and ensemble differ that have the full colour, at least."""
_MOST_EXAMPLES = 12
_LEAST_IN_BIN = 5
_MOST_TEACHERS, _MOST_TEACHERS_ON_PHONE = 16, 5


def agreement(run: RunData) -> Picture | None:
    """Who gives the same answers, and who makes the same mistakes."""
    test = labelled_test(run)
    if test is None or not test.teachers:
        return None
    most = _MOST_TEACHERS_ON_PHONE if is_narrow() else _MOST_TEACHERS
    teachers = dict(list(test.teachers.items())[:most])
    fixed = [*teachers.values(), test.ensemble]
    roles = ["student", *([BASELINE] if BASELINE in test.students else [])]
    names = [label(name, 16) for name in teachers]
    names += [role_name(role) for role in ("ensemble", *roles)]
    replicas = [
        [*fixed, *(test.students[role][r] for role in roles)]
        for r in range(len(test.students["student"]))
    ]
    same = np.mean([agreement_matrix(models) for models in replicas], axis=0)
    right = METRICS.scores
    scores = [torch.stack([right(model, test.labels_N) for model in models]) for models in replicas]
    shared = np.mean([error_correlation(scores_MN) for scores_MN in scores], axis=0)
    side = square(1.6 + 0.46 * len(names))
    figure, (first, second) = panels(2 * side + 1.4, side, 2, sharey=True)
    matrix(first, 100 * same, names, "same answer (% of test samples)", "{:.0f}", span=10.0)
    matrix(second, shared, names, "shared mistakes (correlation)", "{:z.2f}", span=0.3)
    left_out = len(test.teachers) - len(teachers)
    rest = f" {left_out} more teachers are not shown." if left_out else ""
    return finish(
        figure,
        name="agreement",
        title="Who agrees with whom",
        caption="How often two models give the same answer, and the correlation of being wrong; "
        f"teachers that share few mistakes make a better ensemble. Means over replicas.{rest}",
    )


def classes(run: RunData) -> Picture | None:
    """Recall by class of student, ensemble and baseline."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    return ranked(
        class_recall(run.evaluation),
        name="classes",
        title="Recall by class",
        axis="recall on test",
        ends="",
        kind="classes",
    )


def confusions(run: RunData) -> Picture | None:
    """What the student mistakes more or less often than the ensemble."""
    test = labelled_test(run)
    if test is None or run.evaluation is None:
        return None
    student = mean_confusion(test.students["student"], test.labels_N)
    difference = 100 * (student - mean_confusion(test.ensemble[None], test.labels_N))
    moved_C = np.nan_to_num(np.abs(difference)).sum(axis=1)
    most = _MOST_CLASSES_ON_PHONE if is_narrow() else _MOST_CLASSES
    picked = np.sort(np.argsort(-moved_C, kind="stable")[:most])
    shown = difference[np.ix_(picked, picked)]
    names = [label(class_names(run.evaluation)[index], 16) for index in picked]
    side = square(2.2 + 0.34 * len(picked))
    figure = sheet(side + 0.6, side)
    axes = figure.add_subplot()
    furthest = max(_GRAVE, float(np.nanmax(np.abs(shown), initial=0.0)))
    better = np.where(picked[:, None] == picked[None, :], shown, -shown)
    cells(axes, better, names, DIVERGING, (-furthest, furthest))
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value) and round(value):
            tint = "#ffffff" if abs(value) > 0.62 * furthest else "#20242a"
            text = f"{value:+.0f}".replace("-", "−")
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", color=tint, fontsize=7.5
            )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    rest = f" The {most} classes that differ most are shown." if len(moved_C) > most else ""
    return finish(
        figure,
        name="confusions",
        title="Confusions: student minus ensemble",
        caption="In points of each true class (row). Orange: the student does worse, since it recognises "
        "the class less often (diagonal) or makes a mistake more often; blue: it does better. Full colour is "
        f"{furthest:.0f} points.{rest}",
    )


def calibration(run: RunData) -> Picture | None:
    """Confidence against accuracy."""
    test = labelled_test(run)
    if test is None:
        return None
    models: dict[str, Tensor] = {"ensemble": test.ensemble[None]}
    models.update({r: test.students[r] for r in (BASELINE, "student") if r in test.students})
    figure, (left, right) = panels(8.6, 3.5, 2)
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for role, log_probs_RNC in models.items():
        pooled = log_probs_RNC.flatten(0, 1)
        confidence, accuracy, counts = reliability(pooled, test.labels_N.repeat(len(log_probs_RNC)))
        filled = counts >= min(_LEAST_IN_BIN * len(log_probs_RNC), counts.max())
        style: dict[str, Any] = {"color": colour(role), "zorder": 4 if role == "student" else 3}
        left.plot(
            confidence[filled],
            accuracy[filled],
            marker=MARKERS[role],
            markersize=8 if role == "ensemble" else 5,
            markeredgecolor=PAPER,
            markeredgewidth=0.5,
            linewidth=1.5,
            label=role_name(role),
            **style,
        )
        edges = np.linspace(0, 1, len(counts) + 1)
        right.stairs(counts / counts.sum(), edges, linewidth=1.6, **style)
    for axes in (left, right):
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        axes.set_xlabel("confidence")
    left.set_title("accuracy at each confidence")
    right.set_title("share of test samples")
    legend_below(figure, left)
    return finish(
        figure,
        name="calibration",
        title="Calibration",
        caption="On the diagonal a model is right as often as it claims; below it, it is too sure of "
        f"itself. 15 equal-width bins, replicas pooled; bins with fewer than {_LEAST_IN_BIN} samples per "
        "replica are left out of the accuracies.",
    )


def examples(run: RunData) -> Picture | None:
    """Test samples on which student and baseline differ."""
    test, evaluation = labelled_test(run), run.evaluation
    if test is None or evaluation is None or evaluation.examples_rows is None:
        return None
    images = _images(evaluation.examples_inputs)
    if images is None:
        return None
    other = BASELINE if BASELINE in test.students else "ensemble"
    student_N = test.students["student"][0].argmax(dim=1)
    other_N = (test.students[other][0] if other == BASELINE else test.ensemble).argmax(dim=1)
    rows = evaluation.examples_rows
    kept = torch.nonzero(student_N[rows] != other_N[rows]).flatten()[:_MOST_EXAMPLES].tolist()
    if not kept:
        return None
    columns = min(3 if is_narrow() else 6, len(kept))
    lines = -(-len(kept) // columns)
    figure = sheet(1.62 * max(columns, 3), (1.9 if is_narrow() else 2.2) * lines)
    for position, index in enumerate(kept):
        row = int(rows[index])
        axes = figure.add_subplot(lines, columns, position + 1)
        axes.imshow(images[index], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        answered = {"student": int(student_N[row]), other: int(other_N[row])}
        _caption_of(axes, evaluation, int(test.labels_N[row]), answered)
    return finish(
        figure,
        name="examples",
        title=f"Where student and {role_name(other)} differ",
        caption="Test samples with their true class (grey), the student's answer (first replica) and "
        f"that of {role_name(other)}; ✓ right, ✗ wrong.",
    )


def _caption_of(axes: Axes, evaluation: Evaluation, truth: int, answered: dict[str, int]) -> None:
    names = class_names(evaluation)
    true_name = names[truth] if truth != UNLABELLED else "unknown"
    lines = [(label(true_name, 16), MUTED)]
    for role, answer in answered.items():
        mark = "" if truth == UNLABELLED else " ✓" if answer == truth else " ✗"
        lines.append((label(names[answer], 16) + mark, COLOURS[role]))
    lines_below(axes, lines, size=8.5)


def _images(inputs: Tensor | None) -> NDArray[np.float64] | None:
    """Pictures [E, H, W] or [E, H, W, 3] in [0, 1], or None where the inputs are no pictures."""
    if inputs is None or inputs.ndim not in (3, 4):
        return None
    array = inputs.double().numpy()
    if array.ndim == 4:
        channels = array.shape[1]
        if channels not in (1, 3):
            return None
        array = array[:, 0] if channels == 1 else np.moveaxis(array, 1, -1)
    low, high = float(array.min()), float(array.max())
    stretched: NDArray[np.float64] = (array - low) / ((high - low) or 1.0)
    return stretched


def recalls(run: RunData) -> Table | None:
    """Recall by class in numbers."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    return ranked_table(
        class_recall(run.evaluation),
        name="classes",
        title="Recall by class",
        what="class",
        note="Mean over replicas; the difference in points.",
    )


FIGURES = TaskFigures(
    pictures=(classes, confusions, agreement, calibration, examples),
    tables=(recalls,),
)
