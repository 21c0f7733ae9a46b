"""What the student keeps and loses by class, and from whom, as pictures; call them inside `styled()`.

Shapes: T teachers, G groups (classes, labels).
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from raykd.evaluate.kept import LEAST
from raykd.report.diagnostics import DIVERGING, cells
from raykd.report.kept import Analysis, Place
from raykd.report.kept_tables import pull_by_group
from raykd.report.style import (
    INK,
    NARROW,
    PAPER,
    Picture,
    colour,
    finish,
    is_narrow,
    label,
    panels,
    percent_ticks,
    sheet,
    wrapped,
)
from raykd.report.wording import BASELINE

_MOST = 30
_MOST_TEACHERS = 16
_MOST_ON_PHONE = 10
_TELLING = 0.25
"""Share of the pull above or below a teacher's weight that has the full colour, at least."""


def kept(a: Analysis) -> Picture | None:
    """Retention and negative flips of each class, label and slice, with their intervals."""
    places = [place for place in a.places if "retention" in place.parts]
    if len(places) < 2:
        return None
    places.sort(key=lambda place: place.parts["retention"].share)
    shown = places[:_MOST][::-1]
    measures = [m for m in ("retention", "negative_flips") if m in a.whole]
    width = 8.6 if len(measures) > 1 else 5.6
    figure, every = panels(width, 1.1 + 0.27 * len(shown), len(measures), sharey=True)
    titles = {
        "retention": "kept of what the ensemble gets right",
        "negative_flips": "lost of what labels alone get right",
    }
    for axes, measure in zip(every, measures, strict=True):
        _intervals(axes, shown, measure)
        axes.axvline(a.whole[measure].share, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_title(wrapped(titles[measure], 28))
        percent_ticks(axes.xaxis)
        axes.grid(visible=False, axis="y")
    every[0].set_yticks(np.arange(len(shown)), [label(place.name) for place in shown])
    every[0].set_ylim(-0.7, len(shown) - 0.3)
    rest = f" The {_MOST} lowest are shown." if len(places) > _MOST else ""
    return finish(
        figure,
        name="kept",
        title="Kept and lost",
        caption="95 % Wilson intervals; the dashed line is the share over all of test. Where least is kept is at the top; "
        f"pale: fewer than {LEAST} {a.words.decisions}, which say little.{rest}",
    )


def _intervals(axes: Axes, places: list[Place], measure: str) -> None:
    tint = colour("student" if measure == "retention" else BASELINE)
    for height, place in enumerate(places):
        part = place.parts.get(measure)
        if part is None:
            continue
        strength = 1.0 if part.n >= LEAST else 0.35
        axes.hlines(height, part.low, part.high, color=tint, linewidth=2.4, alpha=strength)
        axes.plot(
            part.share,
            height,
            "o",
            color=tint,
            markersize=6.5,
            alpha=strength,
            markeredgecolor=PAPER,
        )


def attribution(a: Analysis) -> Picture | None:
    """Which teacher has which share of the pull in each class."""
    if a.pull is None or len(a.teachers) < 2 or len(a.names) < 2:
        return None
    shares_TG = pull_by_group(a)
    sizes_G = np.array([a.pull.size_N[a.groups_N == g].sum() for g in range(len(a.names))])
    known = np.flatnonzero(np.isfinite(shares_TG).all(axis=0))
    if len(known) < 2:
        return None
    most = _MOST_ON_PHONE if is_narrow() else _MOST
    picked = np.sort(known[np.argsort(-sizes_G[known], kind="stable")][:most])
    rows = np.arange(len(a.teachers))[:_MOST_TEACHERS]
    shares = np.column_stack([a.pull.shares(), shares_TG[:, picked]])[rows]
    above = shares - a.weights_T[rows, None]
    furthest = max(_TELLING, float(np.abs(above).max()))
    names = ["all", *(label(a.names[g], 16) for g in picked)]
    below = 0.5 if max(map(len, names)) <= 3 else 1.2  # where names are turned
    cell = min(0.44, (NARROW - 0.9) / len(names)) if is_narrow() else 0.44
    figure = sheet(1.9 + cell * len(names), below + cell * len(rows))
    axes = figure.add_subplot()
    teachers = [label(a.teachers[k], 16) for k in rows]
    cells(axes, above, names, DIVERGING, (-furthest, furthest), teachers)
    axes.axvline(1, color=INK, linewidth=1.4)
    for (row, column), share in np.ndenumerate(shares):
        tint = "#ffffff" if abs(above[row, column]) > 0.62 * furthest else "#20242a"
        text = f"{100 * share:z.0f}".replace("-", "−")
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=tint, fontsize=8)
    rest = f" The {most} {a.words.groups} with the strongest pull are shown." * (len(known) > most)
    more = f" {len(a.teachers) - _MOST_TEACHERS} more teachers are in the table." * (
        len(a.teachers) > _MOST_TEACHERS
    )
    return finish(
        figure,
        name="attribution",
        title="Whose knowledge it is",
        caption="How much of the pull of the ensemble each teacher has, in %; each column sums to 100. Blue: more than its "
        f"weight in the mixture, orange: less; full colour is {100 * furthest:.0f} points from it.{rest}{more}",
    )


MAKERS = (kept, attribution)
"""The pictures of the section, in their order."""
