"""How figures look: one colour per role everywhere, and SVG that follows the page's light or dark.

The hues are Okabe and Ito's, told apart by people with any colour vision; roles differ in marker or
line style too. In SVG each colour below becomes a CSS variable of the page, so that figures turn dark
with it; PNG files keep the light colours.

Every figure is drawn twice, for a desktop and for a phone: type has the same size in both, and what stands side by
side in the one stands one below the other in the other. `styled(NARROW)` says which; makers of figures take their
`Figure` and its panels from `sheet` and `panels`, and put legends where `legend_beside` and `legend_below` do.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from raykd.report.wording import OTHER

INK = "#1f2329"
MUTED = "#667080"
RULE = "#d9dee5"
PAPER = "#fefefe"
COLOURS = {
    "student": "#0072b2",
    "labels": "#d55e00",
    "best_teacher": "#009e73",
    "hard": "#cc79a7",
    "ensemble": "#e69f00",
    "teacher": "#7c8796",
}
MARKERS = {
    "student": "o",
    OTHER: "o",
    "labels": "s",
    "best_teacher": "^",
    "hard": "D",
    "ensemble": "*",
}
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--{role.replace('_', '-')})" for role, colour in COLOURS.items()},
}
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$x"
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "raykd",
}
_DPI = 160
WIDE, NARROW = 10.0, 4.0
"""Inches that a figure may take on a desktop, and on a phone of 390 pixels."""


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: file name without suffix.
        title: heading.
        caption: what to see in it.
        svg: an `<svg>` element without external references, for inlining.
        png: the same as a PNG file on white; empty of a picture for a phone.
        narrow: the same for a phone; None where there is no other.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    narrow: Picture | None = None


@contextmanager
def styled(room: float = WIDE) -> Iterator[None]:
    """Figures made inside look like raykd's; matplotlib's own settings are put back.

    Args:
        room: inches that a figure may take, `WIDE` or `NARROW`.
    """
    settings = {**_SETTINGS, "figure.figsize": (room, room)}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A class may be named in a script that the font lacks; the browser has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


Maker = Callable[[], Picture | None]
"""Makes a picture, or None where there is nothing to show; called inside `styled`, once for each room."""


def drawn(makers: Sequence[Maker]) -> list[Picture | None]:
    """What each of the makers makes, drawn for a desktop and for a phone."""
    with styled():
        wide = [make() for make in makers]
    with styled(NARROW):
        narrow = [
            make() if one is not None else None for make, one in zip(makers, wide, strict=True)
        ]
    return [
        None
        if one is None
        else replace(one, narrow=other if other is not None and other.svg else None)
        for one, other in zip(wide, narrow, strict=True)
    ]


def is_narrow() -> bool:
    """Whether figures are being drawn for a phone."""
    return bool(mpl.rcParams["figure.figsize"][0] <= NARROW)


def sheet(width: float, height: float) -> Figure:
    """An empty figure.

    Args:
        width: inches; on a phone all that there are, or less.
        height: inches.
    """
    return Figure(figsize=(min(width, mpl.rcParams["figure.figsize"][0]), height))


def square(side: float) -> float:
    """Inches of a square picture's side: `side`, or what a phone has."""
    return min(side, 0.92 * NARROW) if is_narrow() else side


def panels(width: float, height: float, count: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of several panels: side by side, on a phone one below the other.

    Args:
        width: inches of all together.
        height: inches of each.
        count: how many.
        shared: `sharex` or `sharey`, as `Figure.subplots` takes them.
    """
    rows, columns = (count, 1) if is_narrow() else (1, count)
    figure = sheet(width, height * rows)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def legend_beside(axes: Axes) -> None:
    """A legend right of the axes; on a phone below them."""
    if is_narrow():
        legend_below(axes.figure, axes)
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), labelspacing=0.7)


def legend_below(figure: Any, axes: Axes, most: int = 4) -> None:
    """A legend of what `axes` show below all panels, in as many columns as there is room for."""
    handles, names = axes.get_legend_handles_labels()
    columns = min(2 if is_narrow() else most, len(names))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def colour(role: str) -> str:
    """The colour of a role; roles of the user's own share the teachers' grey."""
    return COLOURS.get("student" if role == OTHER else role, COLOURS["teacher"])


def label(text: str, longest: int = 28) -> str:
    """A name fit for a figure: on one line, not too long, not hidden for its leading underscore."""
    line = " ".join(text.split())
    longest = min(longest, 18) if is_narrow() else longest
    short = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return f" {short}" if short.startswith("_") else short


def wrapped(text: str, width: int = 40) -> str:
    """Words below or above axes, over as many lines of so many characters as a phone needs."""
    return "\n".join(textwrap.wrap(text, width)) if is_narrow() else text


def percent_ticks(axis: Axis) -> None:
    """Ticks of a share as `95 %`, with decimals only where they are needed."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):zg} %"))


def finish(figure: Figure, *, name: str, title: str, caption: str) -> Picture:
    """Draw a figure as SVG for the page, and as PNG for files unless it is for a phone."""
    text, pixels = io.StringIO(), io.BytesIO()
    nothing: Mapping[str, None] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    engine = figure.get_layout_engine()
    if engine is not None:  # once for both files; `savefig` would lay out and draw twice for each
        engine.execute(figure)
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(text, metadata=dict(nothing))
    if is_narrow():  # a figure that is wide all the same stays with the desktop's
        fits = figure.get_figwidth() <= NARROW
        svg = _inline(text.getvalue(), f"{name}-narrow", title) if fits else ""
        return Picture(name, title, caption, svg, b"")
    figure.set_dpi(_DPI)
    figure.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(pixels)
    return Picture(name, title, caption, _inline(text.getvalue(), name, title), pixels.getvalue())


def lines_below(axes: Axes, lines: Sequence[tuple[str, str]], *, size: float) -> None:
    """Centred lines of text below an image.

    Args:
        axes: the image's.
        lines: text and colour, from the top.
        size: of the type, points.
    """
    for depth, (text, tint) in enumerate(lines):
        axes.annotate(
            text,
            (0.5, 0),
            xytext=(0, -(size + 1.5) - (size + 2.5) * depth),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            color=tint,
            fontsize=size,
        )


def labels_right(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Name horizontal levels at the right edge, moved apart where they would overlap.

    Args:
        axes: where; its limits must be final.
        labels: level in data units, text, colour.
    """
    low, high = axes.get_ylim()
    ordered = sorted(labels, key=lambda item: item[0])
    heights = _apart([(level - low) / (high - low) for level, _, _ in ordered])
    for (_, text, tint), height in zip(ordered, heights, strict=True):
        axes.annotate(
            text, (1.015, height), xycoords="axes fraction", color=tint, va="center", fontsize=8.5
        )


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Name points of a plot at its right edge, each by a thin line, so that no name lies on another.

    Args:
        axes: where; its limits must be final.
        points: x, y and name of each.
    """
    low, high = axes.get_ylim()
    ordered = sorted(points, key=lambda point: point[1])
    heights = _apart([(y - low) / (high - low) for _, y, _ in ordered])
    for (x, y, text), height in zip(ordered, heights, strict=True):
        axes.annotate(
            text, (x, y), xytext=(1.03, height), textcoords="axes fraction", va="center", fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 4.0},
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float = 0.062) -> list[float]:
    """Heights in [0, 1] in rising order, moved so that none is nearer than `gap` to the next."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = max(1.0, gap * (len(placed) - 1))
    for index in reversed(
        range(len(placed))
    ):  # shift the top ones down again, pushing what is below
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file as an element of a page: no prolog, no metadata, own ids, the page's colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", body, count=3)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = re.sub(r'style="[^"]*"', _themed, body)
    heading = re.sub(r"[^\w ,.-]", "", title)
    return body.replace("<svg ", f'<svg role="img" aria-label="{heading}" ', 1)


def _themed(style: re.Match[str]) -> str:
    """A style attribute with the page's variables for our colours."""
    return re.sub(r"#[0-9a-f]{6}", lambda hit: _VARIABLES.get(hit[0], hit[0]), style[0])
