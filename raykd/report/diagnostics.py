"""Parts of figures and tables that tasks share: shares by class or label, square tables of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from raykd.evaluate import Evaluation, SplitOutputs
from raykd.report.folder import RunData
from raykd.report.style import (
    MARKERS,
    PAPER,
    RULE,
    Picture,
    colour,
    finish,
    is_narrow,
    label,
    percent_ticks,
    sheet,
    wrapped,
)
from raykd.report.tables import Table
from raykd.report.wording import BASELINE, percent, points, role_name
from raykd.types import is_labelled

_MOST_CLASSES = 30
DIVERGING = LinearSegmentedColormap.from_list(
    "difference", ["#a63a00", "#f0a878", "#f7f7f7", "#86b9dc", "#00507d"]
)
_SEQUENTIAL = LinearSegmentedColormap.from_list("agreement", ["#eef4f9", "#7fb2d6", "#00507d"])


@dataclass(frozen=True)
class ClassRecall:
    """Recall by class; NaN where test has no sample of it.

    Attributes:
        names: class names [C].
        samples_C: test samples of each class.
        student_C: mean over replicas.
        ensemble_C: of the ensemble.
        baseline_C: of labels alone, mean over replicas; None without this control.
    """

    names: tuple[str, ...]
    samples_C: NDArray[np.int64]
    student_C: NDArray[np.float64]
    ensemble_C: NDArray[np.float64]
    baseline_C: NDArray[np.float64] | None


def class_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Class names in label order; the labels where there are none."""
    classes = evaluation.splits["test"].ensemble.shape[1]
    named = evaluation.classes
    return named if len(named) == classes else tuple(str(label) for label in range(classes))


def labelled_test(run: RunData) -> SplitOutputs | None:
    """The test split, if the run has one with labels."""
    if run.evaluation is None:
        return None
    test = run.evaluation.splits["test"]
    return test if bool(is_labelled(test.labels_N).any()) else None


def ranked(
    recall: ClassRecall, *, name: str, title: str, axis: str, ends: str, kind: str
) -> Picture:
    """A share for each class or label, of student, ensemble and baseline, the worst at the top.

    Args:
        recall: the shares.
        name: file name of the picture.
        title: heading.
        axis: what the shares are.
        ends: another sentence of the caption, with a leading space.
        kind: "classes" or "labels".
    """
    behind_C = recall.student_C - recall.ensemble_C
    known = np.flatnonzero(recall.samples_C)
    picked = known[np.argsort(behind_C[known], kind="stable")][:_MOST_CLASSES][::-1]
    heights = np.arange(len(picked))
    figure = sheet(7.2, 1.3 + 0.27 * len(picked))
    axes = figure.add_subplot()
    spans = [recall.ensemble_C[picked], recall.student_C[picked]]
    axes.hlines(heights, *spans, color=RULE, linewidth=3.5, zorder=1)
    series = {
        "ensemble": recall.ensemble_C,
        BASELINE: recall.baseline_C,
        "student": recall.student_C,
    }
    for role, values in series.items():
        if values is not None:
            axes.plot(
                values[picked],
                heights,
                MARKERS[role],
                color=colour(role),
                markeredgecolor=PAPER,
                markersize=11 if role == "ensemble" else 7.5,
                label=role_name(role),
            )
    axes.set_yticks(heights, [label(recall.names[index]) for index in picked])
    axes.set_ylim(-0.7, len(picked) - 0.3)
    percent_ticks(axes.xaxis)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(axis)
    figure.legend(loc="outside upper center", ncols=2 if is_narrow() else 3)
    rest = f" The {_MOST_CLASSES} worst {kind} are shown." if len(known) > _MOST_CLASSES else ""
    return finish(
        figure,
        name=name,
        title=title,
        caption="Ordered by how the student stands against the ensemble: where it falls behind most is "
        f"at the top.{ends}{rest}",
    )


def matrix(
    axes: Axes,
    values: NDArray[np.float64],
    names: list[str],
    title: str,
    form: str,
    *,
    span: float,
) -> None:
    """A square table of numbers as coloured cells, the diagonal left out.

    Args:
        axes: where.
        values: [M, M].
        names: of rows and columns.
        title: above it.
        form: of a number.
        span: the colours cover at least so much, so that small differences look small.
    """
    others = values[~np.eye(len(values), dtype=bool)]
    known = others[np.isfinite(others)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    low = min(low, high - span)
    shown = values.copy()
    np.fill_diagonal(shown, np.nan)
    pad = 0.1 * (high - low)
    cells(axes, shown, names, _SEQUENTIAL, (low - pad, high + pad))
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            tint = "#ffffff" if (value - low) / (high - low) > 0.6 else "#20242a"
            text = form.format(value).replace("-", "−")
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", color=tint, fontsize=8
            )
    axes.set_title(wrapped(title, 28))


def cells(
    axes: Axes,
    values: NDArray[np.float64],
    names: list[str],
    colours: LinearSegmentedColormap,
    limits: tuple[float, float],
    rows: list[str] | None = None,
) -> None:
    """Coloured cells as shapes rather than pixels, rows from the top; named as the columns, or as `rows`."""
    rows = names if rows is None else rows
    masked = np.ma.masked_invalid(values)
    axes.pcolormesh(
        masked, cmap=colours, vmin=limits[0], vmax=limits[1], edgecolors=PAPER, linewidth=1.0
    )
    axes.set_aspect("equal")
    axes.set_ylim(len(rows), 0)
    centres = np.arange(len(names)) + 0.5
    if max(map(len, names)) > 3:
        axes.set_xticks(centres, names, rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(centres, names)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def ranked_table(shares: ClassRecall, *, name: str, title: str, what: str, note: str) -> Table:
    """A share for each class or label in numbers; those without a sample are left out.

    Args:
        shares: of student, ensemble and baseline.
        name: of the file.
        title: above it.
        what: a class, or a label.
        note: below it.
    """
    rows: list[tuple[str, ...]] = []
    records: list[tuple[str | float | None, ...]] = []
    for index in np.flatnonzero(shares.samples_C):
        own, whole = float(shares.student_C[index]), float(shares.ensemble_C[index])
        base = None if shares.baseline_C is None else float(shares.baseline_C[index])
        samples = int(shares.samples_C[index])
        shown = [percent(own), percent(whole), percent(base), points(own - whole)]
        rows.append((shares.names[index], str(samples), *shown))
        records.append((shares.names[index], samples, own, whole, base, own - whole))
    return Table(
        name=name,
        title=title,
        columns=(what, "samples", "student", "ensemble", "labels alone", "student − ensemble"),
        rows=rows,
        records=records,
        fields=(what, "samples", "student", "ensemble", "labels", "student_minus_ensemble"),
        note=note,
    )
