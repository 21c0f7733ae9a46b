"""A search as figures: all trials at once, what matters, each key alone, curves, fronts."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from raykd.report.comparison_figures import differences
from raykd.report.folder import RunData
from raykd.report.style import (
    COLOURS,
    INK,
    MUTED,
    PAPER,
    RULE,
    Maker,
    Picture,
    finish,
    is_narrow,
    label,
    panels,
    percent_ticks,
    sheet,
)
from raykd.report.sweep import Summary, as_comparison, measure_of, short_names
from raykd.report.wording import compact

_RANKED = ("finished", "stopped", "cut")
_LEAST_TRIALS = 6
_TREES = 300
_COLUMNS = 3
_STATE_COLOURS = {
    "finished": COLOURS["student"],
    "stopped": COLOURS["labels"],
    "cut": COLOURS["teacher"],
}


Trials = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Side:
    """One searched key as an axis.

    Attributes:
        name: short name.
        places_N: where each trial lies on it.
        log: whether places are log10 of the values.
        ticks: position -> text, where values are no numbers; empty else.
        form: a value as text.
    """

    name: str
    places_N: NDArray[np.float64]
    log: bool
    ticks: Mapping[float, str]
    form: Callable[[float], str] = "{:z.3g}".format


def sweep_makers(run: RunData) -> list[Maker]:
    """All figures of a search that its trials allow."""
    summary = run.summary
    trials = [record for record in summary["trials"] if record["state"] in _RANKED]
    makers: list[Maker] = [
        partial(_of_sides, make, summary, trials) for make in (_parallel, _importance, _slices)
    ]
    makers += [partial(_learning, run, trials), partial(_fronts, summary, trials)]
    if summary["finalists"]:
        makers.append(partial(differences, as_comparison(run).summary))
    return makers


def _of_sides(
    make: Callable[[Summary, Trials, Sequence[Side]], Picture | None],
    summary: Summary,
    trials: Trials,
) -> Picture | None:
    """A figure with an axis for each parameter, whose names are shorter on a phone."""
    sides = [_side(summary, key, trials) for key in summary["search"]["parameters"]]
    return make(summary, trials, sides)


def _side(summary: Summary, key: str, trials: Trials) -> Side:
    space, values = summary["search"]["parameters"][key], [t["values"][key] for t in trials]
    name = label(short_names(summary)[key])
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers:
        log = space["space"] == "loguniform" or bool(space.get("log"))
        places = np.array([math.log10(v) if log else float(v) for v in values])
        return Side(name, places, log, {})
    known = list(dict.fromkeys(str(v) for v in space.get("categories") or values))
    places = np.array([float(known.index(str(value))) for value in values])
    return Side(name, places, False, {float(i): label(text, 16) for i, text in enumerate(known)})


def _values(trials: Trials) -> NDArray[np.float64]:
    return np.array([trial["value"] for trial in trials], dtype=np.float64)


def _is_share(summary: Summary) -> bool:
    return bool(summary["metric"] == "accuracy")


def _merits(summary: Summary, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    return values_N if _is_share(summary) else -values_N


def _parallel(summary: Summary, trials: Trials, sides: Sequence[Side]) -> Picture | None:
    """A line for each trial through what it tried to what it reached."""
    if not trials:
        return None
    values_N, measure = _values(trials), measure_of(summary)
    last = Side(f"validation {measure.name}", values_N, False, {}, measure.form)
    figure = sheet(7.2, 3.4)
    axes = figure.add_subplot()
    every = [*sides, last]
    heights = np.stack([_scaled(side.places_N) for side in every])
    merits_N = _merits(summary, values_N)
    shades = mpl.colormaps["viridis"](_scaled(merits_N) * 0.85)
    for index in np.argsort(merits_N):
        own = trials[index]["trial"] == summary["best"]["trial"]
        tint = COLOURS["labels"] if own else shades[index]
        style = "-" if trials[index]["state"] == "finished" else (0, (3, 2))
        axes.plot(range(len(every)), heights[:, index], color=tint, linestyle=style,
                  linewidth=2.6 if own else 1.3, alpha=1.0 if own else 0.8, zorder=3 if own else 2)  # fmt: skip
    for position, side in enumerate(every):
        axes.axvline(position, color=MUTED, linewidth=0.8, zorder=1)
        _scale(axes, position, side)
    axes.set_xticks(range(len(every)), [_broken(side.name) for side in every])
    axes.set_xlim(-0.15, len(every) - 0.7)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    return finish(
        figure,
        name="parallel",
        title="All trials",
        caption="A line is a trial, from what it tried to what it reached on validation; lighter is better, dashes were "
        f"stopped early. {_best_words(summary, 'The thick line')}",
    )  # fmt: skip


def _best_words(summary: Summary, what: str) -> str:
    """How the trial that best.yaml holds is drawn, where it holds one."""
    if summary["best"]["trial"] is None:
        return "best.yaml repeats the recipe itself, which is none of them."
    return f"{what} is what best.yaml holds."


def _broken(name: str) -> str:
    """A name on several short lines where there is little room beside the next one."""
    return (
        "\n".join(textwrap.wrap(re.sub(r"([._])", r"\1 ", name), 11)).replace("_ ", "_")
        if is_narrow()
        else name
    )


def _scaled(places_N: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(places_N.min()), float(places_N.max())
    return np.full_like(places_N, 0.5) if high == low else (places_N - low) / (high - low)


def _scale(axes: Axes, position: int, side: Side) -> None:
    """A few values beside a vertical axis."""
    low, high = float(side.places_N.min()), float(side.places_N.max())
    marks = side.ticks or {v: _text(v, side) for v in (low, (low + high) / 2, high)}
    for value, text in marks.items():
        if low <= value <= high:
            height = 0.5 if high == low else (value - low) / (high - low)
            box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
            axes.annotate(text, (position, height), xytext=(4, 0), textcoords="offset points", fontsize=7.5,
                          va="center", color=INK, bbox=box, zorder=4)  # fmt: skip


def _text(position: float, side: Side) -> str:
    return side.form(10**position if side.log else position)


def _importance(summary: Summary, trials: Trials, sides: Sequence[Side]) -> Picture | None:
    """How much of the metric's spread a random forest explains by each key."""
    if len(trials) < _LEAST_TRIALS or len(sides) < 2 or np.ptp(_values(trials)) == 0:
        return None
    places = tuple(tuple(side.places_N.tolist()) for side in sides)
    means, stds = importances(places, tuple(_values(trials).tolist()))
    order = np.argsort(means)
    figure = sheet(7.2, 0.9 + 0.34 * len(sides))
    axes = figure.add_subplot()
    heights = np.arange(len(sides))
    axes.barh(heights, means[order], xerr=stds[order], height=0.55, color=COLOURS["student"],
              error_kw={"ecolor": MUTED, "elinewidth": 1.2})  # fmt: skip
    axes.set_yticks(heights, [sides[index].name for index in order])
    axes.set_xlim(0.0, 1.0)
    axes.grid(visible=False, axis="y")
    percent_ticks(axes.xaxis)
    axes.set_xlabel(f"share of the spread of {measure_of(summary).name}")
    return finish(
        figure,
        name="importance",
        title="What mattered",
        caption=f"From a random forest over {len(trials)} trials, lines show one standard deviation over its trees. "
        "Indicative only: with so few trials it can mislead, and trials that were stopped early count with what they "
        "had reached.",
    )  # fmt: skip


@lru_cache(maxsize=1)  # the figures for a desktop and for a phone show the same
def importances(
    places: tuple[tuple[float, ...], ...], values: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of each key in a random forest's decrease of variance: mean and spread over trees [K].

    Args:
        places: of each of K keys where N trials lie on it.
        values: what they reached.
    """
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=_TREES, random_state=0, n_jobs=1)
    forest.fit(np.stack(places, axis=1), np.array(values))
    by_tree = np.array([tree.feature_importances_ for tree in forest.estimators_])
    return by_tree.mean(axis=0), by_tree.std(axis=0)


def _slices(summary: Summary, trials: Trials, sides: Sequence[Side]) -> Picture | None:
    """The metric against each key alone."""
    if not trials:
        return None
    columns = min(1 if is_narrow() else _COLUMNS, len(sides))
    rows = -(-len(sides) // columns)
    figure = sheet(7.2, 0.4 + 2.2 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    values_N = _values(trials)
    tints = [_STATE_COLOURS[trial["state"]] for trial in trials]
    for axes, side in zip(grid, sides, strict=False):
        places_N = 10**side.places_N if side.log else side.places_N
        axes.scatter(places_N, values_N, c=tints, s=26, edgecolors=PAPER, linewidths=0.7)
        if side.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:zg}")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if side.ticks:
            axes.set_xticks(list(side.ticks), list(side.ticks.values()), fontsize=7.5)
            axes.set_xlim(-0.5, len(side.ticks) - 0.5)
        axes.set_xlabel(side.name)
    for axes in list(grid)[len(sides) :]:
        axes.set_visible(False)
    first = figure.axes[0]
    if _is_share(summary):
        percent_ticks(first.yaxis)
    for row in range(rows):
        figure.axes[row * columns].set_ylabel(f"val. {measure_of(summary).name}")
    return finish(
        figure,
        name="slices",
        title="Each key alone",
        caption="A dot is a trial; blue ran to its end, orange was stopped early. The other keys differ too.",
    )  # fmt: skip


def _learning(run: RunData, trials: Trials) -> Picture | None:
    """The metric over epochs; a stopped trial ends in a cross."""
    summary, metric = run.summary, run.summary["metric"]
    curves = {}
    for trial in trials:
        lines = run.epochs.get(f"trial/{trial['trial']}") or ()
        points = [(line["epoch"], line["validation"][metric]) for line in lines]
        if points:
            curves[trial["trial"]] = points
    if not curves:
        return None
    figure = sheet(7.2, 3.4)
    axes = figure.add_subplot()
    for trial in trials:
        points = curves.get(trial["trial"], [])
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        own, stopped = trial["trial"] == summary["best"]["trial"], trial["state"] != "finished"
        tint = COLOURS["student"] if own else COLOURS["labels"] if stopped else COLOURS["teacher"]
        axes.plot(epochs, values, color=tint, linewidth=2.4 if own else 1.1, zorder=3 if own else 2,
                  alpha=1.0 if own else 0.75)  # fmt: skip
        if stopped:
            axes.plot(epochs[-1], values[-1], "x", color=tint, markersize=6)
    for rung in _rungs(summary, max(epoch for points in curves.values() for epoch, _ in points)):
        axes.axvline(rung, color=RULE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    if _is_share(summary):
        percent_ticks(axes.yaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {measure_of(summary).name}")
    return finish(
        figure,
        name="learning",
        title="Trials over their epochs",
        caption=f"{_best_words(summary, 'Blue')} Grey ran to its end, orange was stopped early at the cross. Dashed "
        "lines are the rungs at which trials are stopped.",
    )  # fmt: skip


def _rungs(summary: Summary, last: int) -> list[int]:
    scheduler, found = summary["search"]["scheduler"], []
    if scheduler["type"] == "asha":
        rung = scheduler["grace_epochs"]
        while rung < last:
            found.append(rung)
            rung *= scheduler["reduction"]
    return found


def _fronts(summary: Summary, trials: Trials) -> Picture | None:
    """The metric against what the student costs."""
    axes_of = {
        axis: words
        for axis, words in {"parameters": "parameters", "flops": "FLOPs of one sample"}.items()
        if len({trial["cost"].get(axis) for trial in trials}) > 1
    }
    if not axes_of:  # students of one size have no front
        return None
    figure, every = panels(7.2, 3.2, len(axes_of), sharey=True)
    records = {trial["trial"]: trial for trial in trials}
    for axes, (axis, words) in zip(every, axes_of.items(), strict=True):
        prices = [trial["cost"].get(axis) or np.nan for trial in trials]
        tints = [_STATE_COLOURS[trial["state"]] for trial in trials]
        axes.scatter(prices, _values(trials), c=tints, s=22, alpha=0.75, linewidths=0)
        front = [records[name] for name in summary["pareto"].get(axis, []) if name in records]
        points = [(trial["cost"][axis], trial["value"]) for trial in front]
        if points:
            axes.plot(*zip(*points, strict=True), drawstyle="steps-post", color=INK, linewidth=1.2)
        for trial, point in zip(front, points, strict=True):
            axes.annotate(
                trial["trial"], point, xytext=(4, 5), textcoords="offset points", fontsize=8
            )
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel(words)
        axes.margins(x=0.12, y=0.12)
    if _is_share(summary):
        percent_ticks(every[0].yaxis)
    every[0].set_ylabel(f"validation {measure_of(summary).name}")
    return finish(
        figure,
        name="size",
        title="Quality against size",
        caption="Trials on the line are better than all smaller ones; the recipe of each lies in pareto/ under its "
        "number. Blue ran to its end, orange was stopped early.",
    )  # fmt: skip
