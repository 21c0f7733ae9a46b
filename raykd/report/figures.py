"""Figures of a run's outcome: gains, size against accuracy, learning curves, weights, timing.

Every function returns a finished picture, or None where the run has nothing to show for it; call them
inside `styled()`. Shapes: R replicas, E epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from raykd.report.folder import Curve, RunData, curve, metrics_of, text_of
from raykd.report.style import (
    COLOURS,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    Picture,
    colour,
    finish,
    is_narrow,
    label,
    labels_right,
    legend_below,
    panels,
    percent_ticks,
    sheet,
    wrapped,
)
from raykd.report.verdicts import Row, result_table
from raykd.report.wording import OTHER, RIVAL, compact, duration, percent, role_name

_TEACHER_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_TEACHER_LINES = 8
_SAME = 0.02
"""Weights that differ by less are the same in a figure; a table has them exactly."""


def gains(run: RunData) -> Picture | None:
    """Paired differences against each control with their intervals."""
    found = run.summary.get("gains") or {}
    if not found:
        return None
    words = text_of(run.summary)
    factor, signed = words.gain.factor, words.gain.signed
    figure = sheet(7.2, 1.0 + 0.62 * len(found))
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.0)
    for height, (role, gain) in enumerate(reversed(found.items())):
        tint = colour(role)
        values = [factor * value for value in gain["values"]]
        axes.scatter(
            values, [height - 0.22] * len(values), s=14, color=tint, alpha=0.55, linewidths=0
        )
        if gain["ci95"] is not None:
            low, high = (factor * bound for bound in gain["ci95"])
            axes.plot([low, high], [height, height], color=tint, linewidth=2.6)
        mean = factor * gain["mean"]
        axes.plot(mean, height, "o", color=tint, markersize=8, markeredgecolor=PAPER)
        axes.annotate(
            signed(gain["mean"]),
            (mean, height),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
        )
    against = "against\n" if is_narrow() else "against "
    axes.set_yticks(range(len(found)), [against + label(role_name(r)) for r in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    unit = f" ({words.gain.unit.strip()})" if words.gain.unit else ""
    what = f"{words.gain.name} {'of' if metrics_of(run.summary).lower else 'in'} test {words.metric.name}{unit}"
    axes.set_xlabel(wrapped(f"{what}; right of 0 the student is better"))
    several = next(iter(found.values()))["n"] > 1
    intervals = (
        "lines are 95 % intervals over replicas, small dots the single replicas. A line that crosses 0 "
        "shows no difference."
        if several
        else "there is a single replica, so there are no intervals."
    )
    return finish(
        figure,
        name="gains",
        title="Gain over each control",
        caption=f"The same student, taught otherwise: large dots are mean paired gains, {intervals}",
    )


def size(run: RunData) -> Picture | None:
    """The task's metric against the number of parameters."""
    words = text_of(run.summary)
    rows = [row for row in result_table(run.summary) if row.value is not None]
    if not any(row.parameters for row in rows):
        return None
    unsized = not all(row.parameters for row in rows)
    figure = sheet(7.2, 3.6)
    axes, aside = _sized(figure, unsized=unsized)
    teachers = 0
    own = [row.role for row in rows if row.role not in ("teacher", "ensemble", RIVAL, OTHER)]
    _along_sizes(axes, [row for row in rows if row.role in ("student", OTHER) and row.parameters])
    for row in rows:
        marker = MARKERS.get(row.role, "h")
        # One network taught several ways has one size: side by side they can be told apart.
        apart = own.index(row.role) - (len(own) - 1) / 2 if row.role in own else 0.0
        if row.role == "teacher":
            marker = _TEACHER_MARKERS[teachers % len(_TEACHER_MARKERS)]
            teachers += 1
        if row.parameters:
            _point(axes, row, marker, 1.07**apart * row.parameters)
        else:
            _point(aside, row, marker, 0.0)
    if words.metric.form is percent:
        percent_ticks(axes.yaxis)
    axes.margins(x=0.12, y=0.15)
    axes.set_xlabel("parameters (logarithmic)")
    axes.set_ylabel(f"test {words.metric.name}")
    _legend_of(figure, axes, aside)
    apart_words = (
        " Apart at the right: models whose parameters are not counted, such as estimators and functions, and an "
        "ensemble with one of them."
        if unsized
        else ""
    )
    several = any(row.role == OTHER for row in rows)
    others = " The line goes through the run's students." if several else ""
    return finish(
        figure,
        name="size",
        title=f"{words.metric.name[0].upper()}{words.metric.name[1:]} against size",
        caption=f"{'Down' if metrics_of(run.summary).lower else 'Up'} and to the left is better. Student and controls are one network, so they share "
        "one size and are drawn side by side; bars are ±1 standard deviation over replicas. The ensemble counts all teachers."
        f"{apart_words}{others}",
    )


def _along_sizes(axes: Axes, students: Sequence[Row]) -> None:
    """A line through the students of a run, from the smallest to the largest."""
    if len(students) > 1:
        ordered = sorted((row.parameters or 0, row.value or 0.0) for row in students)
        axes.plot(
            [size for size, _ in ordered],
            [value for _, value in ordered],
            color=colour("student"),
            linewidth=1.0,
            alpha=0.6,
            zorder=2,
        )


def _sized(figure: Figure, *, unsized: bool) -> tuple[Axes, Axes]:
    """Axes for models by their size, and axes beside them for models whose size is not known (else the same)."""
    if not unsized:
        axes = aside = figure.add_subplot()
    else:
        axes, aside = figure.subplots(1, 2, sharey=True, width_ratios=[6, 1])
        aside.set_xlim(-1, 1)
        aside.set_xticks([0], ["not\ncounted"])
        aside.tick_params(axis="y", length=0)
        aside.spines["left"].set_visible(False)
        aside.grid(visible=False, axis="x")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=5 if is_narrow() else 8))
    axes.xaxis.set_minor_locator(NullLocator())
    return axes, aside


def _legend_of(figure: Figure, axes: Axes, aside: Axes) -> None:
    """One legend of both, right of them; on a phone below."""
    handles, names = axes.get_legend_handles_labels()
    if aside is not axes:
        more_handles, more_names = aside.get_legend_handles_labels()
        handles, names = [*handles, *more_handles], [*names, *more_names]
    if is_narrow():
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    else:
        figure.legend(handles, names, loc="outside right center", labelspacing=0.7)


def learning(run: RunData) -> Picture | None:
    """The task's validation metrics over epochs, with the teachers' level."""
    roles = ["student", *(run.summary.get("controls") or {})]
    measures = text_of(run.summary).panels
    found = {
        panel.key: {role: c for role in roles if (c := curve(run, role, "validation", panel.key))}
        for panel in measures
    }
    shown = [panel for panel in measures if found[panel.key]]
    if not shown:
        return None
    figure, every = panels(10.0, 3.7, len(shown))
    cut = 0
    for axes, panel in zip(every, shown, strict=True):
        key = panel.key
        for role, one in found[key].items():
            _line(axes, one, role)
        cut = max(cut, _limits(axes, list(found[key].values()), _levels(run, key)))
        _teacher_levels(axes, run, key)
        axes.set_title(panel.name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.form is percent:
            percent_ticks(axes.yaxis)
    legend_below(figure, figure.axes[0])
    steep = (
        f" Of the first {cut} epoch{'s' * (cut > 1)} some values lie outside, so that the rest can be told apart."
        if cut
        else ""
    )
    return finish(
        figure,
        name="learning",
        title="Learning curves",
        caption="On the samples of validation that choose the best epoch (train.select_on). Mean over replicas; bands span "
        "the lowest and the highest replica. Horizontal lines are where the frozen teachers and their ensemble stand on all "
        f"of validation.{steep}",
    )


def weights(run: RunData) -> Picture | None:
    """Mean weight of each teacher over the student's epochs; None where all count the same all the time."""
    names = sorted(
        {
            name
            for fit, records in run.epochs.items()
            if fit.startswith("student/")
            for record in records
            for name in record.get("weights") or {}
        }
    )
    found = {name: one for name in names if (one := curve(run, "student", "weights", name))}
    if len(found) < 2 or all(
        np.nanmax(np.abs(one.values_RE - 1 / len(found))) < _SAME for one in found.values()
    ):
        return None
    figure = sheet(7.2, 3.0)
    axes = figure.add_subplot()
    tints = (INK, COLOURS["teacher"])
    styles = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
    ends = []
    for index, (name, one) in enumerate(found.items()):
        tint = tints[index % len(tints)]
        mean_E = np.nanmean(one.values_RE, axis=0)
        line = axes.plot(one.epochs_E, mean_E, color=tint, marker="." if len(mean_E) < 3 else "")[0]
        line.set_linestyle(styles[index % len(styles)])
        ends.append((float(mean_E[-1]), label(name), tint))
    axes.axhline(1 / len(found), color=MUTED, linewidth=0.7)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean weight")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    labels_right(axes, ends)
    return finish(
        figure,
        name="weights",
        title="Weight of each teacher",
        caption="Mean over samples and replicas; the weights of a sample sum to 1. The thin line is "
        "where all teachers count the same.",
    )


def timing(run: RunData) -> Picture | None:
    """Seconds of each stage."""
    found = {
        name.removesuffix("_s").replace("_", " "): float(seconds)
        for name, seconds in (run.summary.get("timing") or {}).items()
        if isinstance(seconds, int | float) and name.endswith("_s") and not name.startswith("total")
    }
    if not found:
        return None
    figure = sheet(7.2, 0.9 + 0.34 * len(found))
    axes = figure.add_subplot()
    heights = np.arange(len(found))[::-1]
    axes.barh(heights, list(found.values()), height=0.62, color=COLOURS["student"])
    for height, seconds in zip(heights, found.values(), strict=True):
        axes.annotate(
            duration(seconds),
            (seconds, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(heights, [label(name) for name in found])
    axes.margins(x=0.3 if is_narrow() else 0.14)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    return finish(
        figure,
        name="timing",
        title="Where the time went",
        caption="Wall-clock time by stage. Targets are computed once for the student, its controls and "
        "all replicas.",
    )


def _point(axes: Axes, row: Row, marker: str, position: float) -> None:
    large = row.role in ("student", "ensemble")
    value, tint = row.value or 0.0, colour(row.role)
    if row.value_std is not None:
        ends = [value - row.value_std, value + row.value_std]
        axes.plot([position, position], ends, color=tint, linewidth=1.6, zorder=3)
    axes.plot(
        position,
        value,
        marker,
        color=tint,
        markersize=(14 if marker == "*" else 9) if large else 7.5,
        markeredgecolor=PAPER,
        label=label(row.name),
        zorder=4,
    )


def _line(axes: Axes, one: Curve, role: str) -> None:
    tint = colour(role)
    front = role == "student"
    axes.plot(
        one.epochs_E,
        np.nanmean(one.values_RE, axis=0),
        color=tint,
        linewidth=2.2 if front else 1.5,
        marker=MARKERS.get(role, "h") if len(one.epochs_E) < 3 else "",
        label=label(role_name(role)),
        zorder=4 if front else 3,
    )
    if len(one.values_RE) > 1:
        low, high = np.nanmin(one.values_RE, axis=0), np.nanmax(one.values_RE, axis=0)
        axes.fill_between(one.epochs_E, low, high, color=tint, alpha=0.16, linewidth=0)


def _levels(run: RunData, key: str) -> dict[str, float]:
    """Validation level of the ensemble and of each teacher."""
    if not run.summary.get("ensemble"):
        return {}
    models = {role_name("ensemble"): run.summary["ensemble"], **run.summary["teachers"]}
    return {
        name: model["validation"][key]
        for name, model in models.items()
        if model["validation"] and model["validation"][key] is not None
    }


def _teacher_levels(axes: Axes, run: RunData, key: str) -> None:
    levels = _levels(run, key)
    if len(levels) > _TEACHER_LINES + 1:  # more lines than can be told apart
        levels = {name: levels[name] for name in [role_name("ensemble")] if name in levels}
    low, high = axes.get_ylim()
    named = []
    for name, level in levels.items():
        whole = name == role_name("ensemble")
        tint = COLOURS["ensemble"] if whole else COLOURS["teacher"]
        if low <= level <= high:
            axes.axhline(
                level, color=tint, linewidth=1.5 if whole else 1.0, linestyle=(0, (5, 2)), zorder=2
            )
            named.append((level, label(name, 14), tint))
    labels_right(axes, named)


def _limits(axes: Axes, curves: Sequence[Curve], levels: dict[str, float]) -> int:
    """A range in which the ends can be told apart: of all epochs but the first eighth, where curves are steep.

    Returns:
        how many epochs are left out of it; 0 where their values lie inside all the same.
    """
    last = max(int(one.epochs_E[-1]) for one in curves)
    steep = last // 8

    def finite(part: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.float64]:
        parts = [one.values_RE[:, part(one.epochs_E)].ravel() for one in curves]
        values: NDArray[np.float64] = np.concatenate(parts)
        return values[np.isfinite(values)]

    later, early = (
        finite(lambda epochs_E: epochs_E > steep),
        finite(lambda epochs_E: epochs_E <= steep),
    )
    ends = [*(later if later.size else early), *levels.values()]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 0.05
    axes.set_ylim(low - pad, high + pad)
    axes.margins(x=0.01)
    outside = later.size > 0 and bool(((early < low - pad) | (early > high + pad)).any())
    return steep if outside else 0
