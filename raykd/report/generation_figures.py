"""The picture of a run with stages: quality and size along the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from raykd.report.folder import RunData
from raykd.report.returns import chain_measure
from raykd.report.style import (
    COLOURS,
    INK,
    PAPER,
    Picture,
    finish,
    label,
    legend_below,
    percent_ticks,
    sheet,
)
from raykd.report.wording import compact, count, percent


def generations(run: RunData) -> Picture | None:
    """The task's metric of every stage's student and of its teachers, above the students' sizes."""
    found = run.summary.get("generations") or []
    metric = chain_measure(run.summary)
    key = metric.key
    if not any((one["validation"] or {}).get(key) for one in found):
        return None
    figure = sheet(7.2, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _quality(above, found, key)
    if metric.form is percent:
        percent_ticks(above.yaxis)
    above.set_ylabel(metric.name)
    above.margins(x=0.12, y=0.15)
    _sizes(below, found)
    legend_below(figure, above)
    return finish(
        figure,
        name="generations",
        title="Quality and size along the chain",
        caption="Each stage's students on validation, small dots being single replicas and bars ±1 standard deviation; the "
        "diamond is the last stage on test. Stars are the ensemble of a stage's teachers on validation. Below: parameters "
        "of the student.",
    )


def _quality(axes: Axes, found: Sequence[Mapping[str, Any]], key: str) -> None:
    tint = COLOURS["student"]
    known = [(x, one["validation"][key]) for x, one in enumerate(found) if one["validation"]]
    for x, value in known:
        axes.scatter(
            [x] * len(value["values"]), value["values"], s=12, color=tint, alpha=0.45, linewidths=0
        )
    axes.errorbar(
        [x for x, _ in known],
        [value["mean"] for _, value in known],
        yerr=[value["std"] or 0.0 for _, value in known],
        color=tint,
        marker="o",
        markersize=7,
        markeredgecolor=PAPER,
        linewidth=1.2,
        elinewidth=2.0,
        label="student, validation",
    )
    ensembles = [
        (x, float(one["ensemble"]["validation"][key]))
        for x, one in enumerate(found)
        if key in (one["ensemble"]["validation"] or {})
    ]
    axes.plot(
        [x for x, _ in ensembles],
        [value for _, value in ensembles],
        linestyle="none",
        marker="*",
        markersize=10,
        color=COLOURS["ensemble"],
        label="its teachers, validation",
    )
    last = (found[-1]["test"] or {}).get(key)
    if last is not None:
        axes.errorbar(
            [len(found) - 1 + 0.12],
            [last["mean"]],
            yerr=[last["std"] or 0.0],
            color=INK,
            marker="D",
            markersize=6,
            linestyle="none",
            label="last stage, test",
        )


def _sizes(axes: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    sizes = [one["parameters"] or 0 for one in found]
    axes.bar(range(len(found)), sizes, width=0.5, color=COLOURS["teacher"])
    for x, size in enumerate(sizes):
        axes.annotate(
            count(size),
            (x, size),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    axes.set_xticks(range(len(found)), [label(one["stage"], 18) for one in found])
    axes.set_ylim(0, 1.35 * max([*sizes, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.set_ylabel("parameters")
    axes.grid(visible=False, axis="x")
