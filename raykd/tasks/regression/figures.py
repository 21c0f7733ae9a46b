"""How a regression errs: predictions against the truth, sizes of errors, whose errors are alike.

Every figure function returns a finished picture, or None where the run has nothing to show for it; call
them inside `styled()`. Shapes: R replicas, N labelled test samples, M models.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate import Evaluation
from raykd.evaluate.influence import pull
from raykd.report.diagnostics import labelled_test, matrix
from raykd.report.folder import RunData, mean_weights
from raykd.report.kept_tables import PULL_NOTE, teacher_rows
from raykd.report.style import (
    MUTED,
    Picture,
    colour,
    finish,
    is_narrow,
    label,
    legend_below,
    panels,
    percent_ticks,
    sheet,
    square,
)
from raykd.report.tables import Table
from raykd.report.task import TaskFigures
from raykd.report.wording import BASELINE, role_name, significant
from raykd.types import is_labelled

Floats = NDArray[np.float64]
_MOST_POINTS = 1200
_MOST_TEACHERS, _MOST_TEACHERS_ON_PHONE = 16, 4
_DECILES = 10
_SHARES = (0.5, 0.9, 0.95)


def models_of(evaluation: Evaluation) -> tuple[Floats, dict[str, Floats]]:
    """True values [N], and role -> predictions [R, N] of student, baseline and ensemble."""
    test = evaluation.splits["test"]
    known = is_labelled(test.labels_N)
    found: dict[str, Tensor] = {"ensemble": test.ensemble[None]}
    found |= {r: test.students[r] for r in (BASELINE, "student") if r in test.students}
    truth: Floats = test.labels_N[known].double().numpy()
    return truth, {role: values[:, known, 0].double().numpy() for role, values in found.items()}


def predictions(run: RunData) -> Picture | None:
    """Predicted against true values."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    truth_N, models = models_of(run.evaluation)
    picked = np.argsort(truth_N, kind="stable")
    picked = picked[np.linspace(0, len(picked) - 1, min(_MOST_POINTS, len(picked))).astype(int)]
    name = run.evaluation.classes[0] if run.evaluation.classes else "value"
    figure, every = panels(3.1 * len(models), 3.2, len(models), sharex=True, sharey=True)
    shown = [truth_N, *(values_RN[0] for values_RN in models.values())]
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    for axes, (role, values_RN) in zip(every, models.items(), strict=True):
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.scatter(
            truth_N[picked], values_RN[0, picked], s=7, color=colour(role), alpha=0.45, linewidths=0
        )
        axes.set_title(role_name(role))
        axes.set_box_aspect(1)
    for axes in every if not is_narrow() else every[-1:]:
        axes.set_xlabel("true")
    every[0].set_ylabel(f"predicted {label(name, 30)}")
    several = len(truth_N) > _MOST_POINTS
    rest = (
        f" {_MOST_POINTS} of {len(truth_N)} test samples, evenly by true value." if several else ""
    )
    return finish(
        figure,
        name="predictions",
        title="Predicted against true",
        caption=f"Test samples; on the dashed line a prediction is right. First replicas.{rest}",
    )


def residuals(run: RunData) -> Picture | None:
    """How large the errors are, and where."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    truth_N, models = models_of(run.evaluation)
    figure, (left, right) = panels(8.6, 3.4, 2)
    for role, values_RN in models.items():
        errors_RN = values_RN - truth_N
        _sizes(left, errors_RN, role)
        _by_decile(right, errors_RN, truth_N, role)
    left.set_title("size of the errors")
    left.set_xlabel("share of test samples")
    left.set_ylabel("error of at most")
    percent_ticks(left.xaxis)
    left.set_ylim(bottom=0)
    right.set_title("RMSE by true value")
    right.set_xlabel("true value, tenths of the test samples")
    right.set_ylim(bottom=0)
    legend_below(figure, left)
    return finish(
        figure,
        name="residuals",
        title="Errors",
        caption="Size: lower is better; half of the samples have an error of at most the value at 50 %. "
        "RMSE: where in the range of the target the errors are large. Replicas pooled, up to 99 %.",
    )


def distances(run: RunData) -> Picture | None:
    """Whose errors are alike."""
    test = labelled_test(run)
    if test is None or not test.teachers:
        return None
    known = is_labelled(test.labels_N)
    truth_N = test.labels_N[known].double().numpy()
    most = _MOST_TEACHERS_ON_PHONE if is_narrow() else _MOST_TEACHERS
    teachers = dict(list(test.teachers.items())[:most])
    roles = ["student", *([BASELINE] if BASELINE in test.students else [])]
    names = [label(name, 16) for name in teachers]
    names += [role_name(role) for role in ("ensemble", *roles)]
    fixed = [*teachers.values(), test.ensemble]
    found = []
    for r in range(len(test.students["student"])):
        models = [*fixed, *(test.students[role][r] for role in roles)]
        errors_MN = np.stack([values[known, 0].double().numpy() - truth_N for values in models])
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.corrcoef(errors_MN))
    side = square(1.6 + 0.52 * len(names))
    figure = sheet(side + 0.9, side)
    matrix(
        figure.add_subplot(),
        np.mean(found, axis=0),
        names,
        "correlation of errors",
        "{:z.2f}",
        span=0.3,
    )
    return finish(
        figure,
        name="distances",
        title="Whose errors are alike",
        caption="Teachers whose errors are little correlated make a better ensemble. Means over replicas.",
    )


def quantiles(run: RunData) -> Table | None:
    """Sizes of errors in numbers."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    truth_N, models = models_of(run.evaluation)
    rows: list[tuple[str, ...]] = []
    records: list[tuple[str | float, ...]] = []
    for role, values_RN in models.items():
        errors_RN = values_RN - truth_N
        sizes = [
            *np.quantile(np.abs(errors_RN), _SHARES),
            np.abs(errors_RN).max(),
            errors_RN.mean(),
        ]
        rows.append((role_name(role), *(significant(float(size), 3) for size in sizes)))
        records.append((role, *(float(size) for size in sizes)))
    shares = [f"{100 * share:.0f} % within" for share in _SHARES]
    return Table(
        name="residuals",
        title="Sizes of errors on test",
        columns=("model", *shares, "largest", "mean error"),
        rows=rows,
        records=records,
        fields=("model", "q50", "q90", "q95", "largest", "mean_error"),
        note="Absolute errors in the unit of the target; replicas pooled. A positive mean error: on average "
        "the model answers too high.",
        dots=[role.replace("_", "-") for role in models],
    )


def from_whom(run: RunData) -> Table | None:
    """Each teacher's share of what the ensemble changes in a student of labels alone."""
    test = None if run.evaluation is None else run.evaluation.splits["test"]
    if test is None or BASELINE not in test.students or len(test.teachers) < 2:
        return None
    teachers = list(test.teachers)
    weights_T = mean_weights(run, teachers)
    shares_T = pull(test.students[BASELINE], test.teachers, weights_T).shares()
    rows, records = teacher_rows(teachers, weights_T, shares_T)
    return Table(
        name="teachers_kept",
        title="From whom",
        columns=("teacher", "weight", "share of the pull"),
        rows=rows,
        records=records,
        fields=("teacher", "weight", "pull"),
        note=f"{PULL_NOTE} Here q is what a student of labels alone says, of all test samples.",
    )


def how_wrong(evaluation: Evaluation) -> list[str]:
    """Sizes of the student's errors beside the ensemble's, as a sentence.

    Raises:
        ValueError: no test sample is labelled.
    """
    truth_N, models = models_of(evaluation)
    half, most = (
        [
            significant(float(np.quantile(np.abs(models[role] - truth_N), share)), 3)
            for share in _SHARES
        ]
        for role in ("student", "ensemble")
    )
    return [
        f"Half of its test answers are within {half[0]} of the truth and 95 % within {half[2]} "
        f"(the ensemble: {most[0]} and {most[2]})."
    ]


def _sizes(axes: Axes, errors_RN: Floats, role: str) -> None:
    shares = np.linspace(0, 0.99, 100)
    front = role == "student"
    axes.plot(
        shares,
        np.quantile(np.abs(errors_RN), shares),
        color=colour(role),
        linewidth=2.2 if front else 1.5,
        label=role_name(role),
        zorder=4 if front else 3,
    )


def _by_decile(axes: Axes, errors_RN: Floats, truth_N: Floats, role: str) -> None:
    parts = np.array_split(np.argsort(truth_N, kind="stable"), min(_DECILES, len(truth_N)))
    centres = [truth_N[part].mean() for part in parts]
    roots = [np.sqrt(np.square(errors_RN[:, part]).mean()) for part in parts]
    axes.plot(centres, roots, marker="o", markersize=3.5, color=colour(role), linewidth=1.5)


FIGURES = TaskFigures(
    pictures=(predictions, residuals, distances), tables=(quantiles, from_whom), lost=how_wrong
)
