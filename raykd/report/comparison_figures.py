"""Figures of a comparison: what sets the methods apart, and what they cost. Call them inside `styled()`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from raykd.report.comparison import time_ratio
from raykd.report.folder import RunData, text_of
from raykd.report.style import (
    COLOURS,
    INK,
    MUTED,
    PAPER,
    Maker,
    Picture,
    finish,
    label,
    name_points,
    sheet,
    wrapped,
)
from raykd.report.verdicts import outcome
from raykd.report.wording import role_name

Summary = Mapping[str, Any]
_TONES = {"win": "best_teacher", "loss": "labels", "tie": "teacher", "single": "teacher"}


def comparison_makers(run: RunData) -> list[Maker]:
    """Differences with their intervals; what they cost."""
    return [partial(differences, run.summary), partial(_cost, run.summary)]


def differences(summary: Summary) -> Picture | None:
    """Each method's paired difference from the reference on test, with its interval."""
    words, methods = text_of(summary), summary["methods"]
    names = [name for name in reversed(summary["ranking"]) if methods[name].get("gain")]
    if not names:
        return None
    figure = sheet(7.2, 1.0 + 0.36 * len(names))
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.0)
    for height, name in enumerate(names):
        _difference(axes, height, methods[name]["gain"], words.gain.factor)
    axes.set_yticks(range(len(names)), [label(role_name(name)) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    unit = f" ({words.gain.unit.strip()})" if words.gain.unit else ""
    reference = role_name(summary["reference"])
    axes.set_xlabel(
        wrapped(
            f"{words.gain.name} in test {words.metric.name}{unit}; right of 0 is better than {reference}"
        )
    )
    return finish(
        figure,
        name="gains",
        title=f"Differences from {reference}",
        caption="Large dots are mean paired differences on test, lines their 95 % intervals over replicas (not "
        "corrected for their number), small dots the single replicas. Best on validation on top.",
    )  # fmt: skip


def _difference(axes: Axes, height: int, gain: Mapping[str, Any], factor: float) -> None:
    tint = COLOURS[_TONES[outcome(gain)]]
    values = [factor * value for value in gain["values"]]
    axes.scatter(values, [height] * len(values), s=12, color=tint, alpha=0.5, linewidths=0)
    if gain["ci95"] is not None:
        axes.plot([factor * b for b in gain["ci95"]], [height, height], color=tint, linewidth=2.2)
    axes.plot(factor * gain["mean"], height, "o", color=tint, markersize=7, markeredgecolor=PAPER)


def _cost(summary: Summary) -> Picture | None:
    """Gain against training time."""
    words, methods = text_of(summary), summary["methods"]
    held = [name for name in summary["ranking"] if methods[name].get("gain")]
    ratios = {name: ratio for name in held if (ratio := time_ratio(summary, name)) is not None}
    if not ratios:
        return None
    figure = sheet(7.2, 3.6)
    axes = figure.add_subplot()
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(1.0, 0.0, "D", color=COLOURS["student"], markersize=7)
    named = [(1.0, 0.0, label(role_name(summary["reference"]), 22))]
    for name, ratio in ratios.items():
        gain = methods[name]["gain"]
        point = (ratio, words.gain.factor * gain["mean"])
        axes.plot(*point, "o", color=COLOURS[_TONES[outcome(gain)]], markersize=7)
        named.append((*point, label(role_name(name), 22)))
    axes.margins(x=0.1, y=0.15)
    name_points(axes, named)
    axes.set_xlabel(wrapped(f"training time, as a multiple of {role_name(summary['reference'])}'s"))
    axes.set_ylabel(f"{words.gain.heading} on test")
    return finish(
        figure,
        name="size",
        title="Gain against cost",
        caption="Up and to the left is better. Training time of one student as measured in this comparison.",
    )
