"""Pictures of what students and teachers earn where they act: returns by variant, and one episode side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from raykd.evaluate.returns import RANDOM
from raykd.report.folder import RunData
from raykd.report.returns import role_of
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
    lines_below,
    panels,
    sheet,
    wrapped,
)
from raykd.report.wording import mean_of, role_name, significant

_MOST_PANELS = 3
_FRAMES_ON_PHONE = 4


def returns(run: RunData) -> Picture | None:
    """Mean returns with their intervals, a panel for each variant."""
    found = run.summary.get("returns") or {}
    if not found:
        return None
    models = [m for m in dict.fromkeys(m for one in found.values() for m in one) if m != RANDOM]
    across = 1 if is_narrow() else 2 if len(found) == 4 else min(_MOST_PANELS, len(found))
    lines = -(-len(found) // across)
    figure = sheet(10.0, (0.9 + 0.25 * len(models)) * lines)
    every = list(figure.subplots(lines, across, sharey=True, squeeze=False).flat)
    for axes, (variant, numbers) in zip(every, found.items(), strict=False):
        _variant(axes, run.summary, models, numbers)
        axes.set_title(label(variant))
    for axes in every[len(found) :]:
        axes.set_visible(False)
    every[0].set_yticks(range(len(models)), [label(role_name(one), 18) for one in models])
    every[0].set_ylim(len(models) - 0.4, -0.6)
    return finish(
        figure,
        name="returns",
        title="Return by variant of the environment",
        caption="Mean return over common seeds with its 95 % interval (bootstrap over replicas and seeds); small dots are single "
        "replicas. The line is the best teacher of the variant, chosen on other seeds. A number at the left edge is of a model beyond it.",
    )


def _variant(
    axes: Axes, summary: Mapping[str, Any], models: Sequence[str], numbers: Mapping[str, Any]
) -> None:
    best = numbers["student"]["against_teacher"]["teacher"]
    axes.axvline(numbers[best]["return"], color=INK, linewidth=0.9)
    least = _least_shown(summary, models, numbers)
    for height, name in enumerate(models):
        one = numbers.get(name)
        if one is None:
            continue
        role = role_of(summary, name)
        tint = COLOURS.get(role, COLOURS["teacher"]) if role != "teacher" else colour("teacher")
        if one["ci95_bootstrap"][1] < least:  # beyond the panel, which would show nothing else
            told = f"\N{BLACK LEFT-POINTING SMALL TRIANGLE} {significant(mean_of(one['return']))}"
            axes.text(0.01, height, told, color=tint, va="center", transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        axes.plot(one["ci95_bootstrap"], [height, height], color=tint, linewidth=2.6)
        if isinstance(one["return"], Mapping):
            values = one["return"]["values"]
            axes.scatter(values, [height + 0.27] * len(values), s=10, color=tint, alpha=0.55, linewidths=0)  # fmt: skip
        mean = mean_of(one["return"])
        if mean is not None:
            axes.plot(mean, height, MARKERS.get(role, "h"), color=tint, markersize=7, markeredgecolor=PAPER)  # fmt: skip
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)


def _least_shown(
    summary: Mapping[str, Any], models: Sequence[str], numbers: Mapping[str, Any]
) -> float:
    """The return below which a model is told in words: as far below student and teachers as these are wide apart."""
    known = [name for name in models if name in numbers]
    own = [n for n in known if n == "student" or role_of(summary, n) in ("teacher", "ensemble")]
    ends = [end for name in own for end in numbers[name]["ci95_bootstrap"]]
    least: float = 2 * min(ends) - max(ends)
    return least


def frames(run: RunData) -> Picture | None:
    """What the student and the best teacher do in one episode of the same seed, from left to right."""
    found = run.frames
    if found is None:
        return None
    names = [str(name) for name in found["names"]]
    count = found["frames"].shape[1]
    shown = np.arange(count)
    if is_narrow():
        shown = np.unique(np.linspace(0, count - 1, _FRAMES_ON_PHONE).round().astype(int))
    height, width = found["frames"].shape[2:4]
    side = (3.9 if is_narrow() else 10.0) / len(shown)
    figure = sheet(side * len(shown), (side * height / width + 0.3) * len(names) + 0.25)
    every = figure.subplots(len(names), len(shown), squeeze=False)
    for row, name in enumerate(names):
        for column, place in enumerate(shown.tolist()):
            axes = every[row][column]
            axes.imshow(found["frames"][row, place], interpolation="nearest", aspect="equal")
            axes.set_axis_off()
            lines_below(axes, [(f"step {int(found['steps'][row, place])}", MUTED)], size=7.5)
        total = significant(float(found["returns"][row]), 3)
        every[row][0].set_title(f"{label(role_name(name))}, return {total}")
    return finish(
        figure,
        name="frames",
        title="One episode, side by side",
        caption=f"{wrapped(str(found['variant']))}, the first common seed; student: replica 0. Frames are evenly spaced over "
        "each one's own episode, the last one being its end.",
    )


def learning_by_round(run: RunData) -> Picture | None:
    """What was asked of the teachers in each round."""
    found = run.summary.get("generations") or []
    if not any(one.get("states") for one in found):
        return None
    figure, every = panels(7.2, 2.6, 2)
    for axes, key, title in zip(every, ("states", "teacher_samples_scored"), ("states trained on", "teacher queries"), strict=True):  # fmt: skip
        axes.bar(range(len(found)), [one.get(key) or 0 for one in found], width=0.55, color=COLOURS["student"])  # fmt: skip
        axes.set_xticks(range(len(found)), [label(one["stage"], 12) for one in found])
        axes.set_title(title)
        axes.grid(visible=False, axis="x")
    return finish(
        figure,
        name="rounds",
        title="What each round was given",
        caption="States that a replica of the round was trained on, and samples that teachers were asked about in the round "
        "by all replicas and controls.",
    )
