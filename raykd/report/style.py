"""How figures look: one colour per role everywhere, and SVG that follows the page's light or dark.

The hues are Okabe and Ito's, told apart by people with any colour vision; roles differ in marker or
line style too. In SVG each colour below becomes a CSS variable of the page, so that figures turn dark
with it; PNG files keep the light colours.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

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
MARKERS = {"student": "o", "labels": "s", "best_teacher": "^", "hard": "D", "ensemble": "*"}
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


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: file name without suffix.
        title: heading.
        caption: what to see in it.
        svg: an `<svg>` element without external references, for inlining.
        png: the same as a PNG file on white.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


@contextmanager
def styled() -> Iterator[None]:
    """Figures made inside look like raykd's; matplotlib's own settings are put back."""
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # A class may be named in a script that the font lacks; the browser has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def colour(role: str) -> str:
    """The colour of a role; roles of the user's own share the teachers' grey."""
    return COLOURS.get(role, COLOURS["teacher"])


def label(text: str, longest: int = 28) -> str:
    """A name fit for a figure: on one line, not too long, not hidden for its leading underscore."""
    line = " ".join(text.split())
    short = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return f" {short}" if short.startswith("_") else short


def percent_ticks(axis: Axis) -> None:
    """Ticks of a share as `95 %`, with decimals only where they are needed."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %"))


def finish(figure: Figure, *, name: str, title: str, caption: str) -> Picture:
    """Draw a figure as SVG for the page and as PNG for files."""
    text, pixels = io.StringIO(), io.BytesIO()
    nothing: Mapping[str, None] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", transparent=True, metadata=dict(nothing))
    figure.savefig(pixels, format="png", dpi=_DPI, facecolor="white")
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
    gap = 0.062
    placed: list[list[float]] = []
    ordered = sorted(labels, key=lambda item: item[0])
    for level, _, _ in ordered:
        target = (level - low) / (high - low)
        placed.append([max(target, placed[-1][0] + gap) if placed else target])
    overflow = placed[-1][0] - 1.0 if placed else 0.0
    if overflow > 0:  # shift the top ones down again, pushing what is below
        ceiling = 1.0
        for position in reversed(placed):
            position[0] = min(position[0], ceiling)
            ceiling = position[0] - gap
    for (_, text, tint), (height,) in zip(ordered, placed, strict=True):
        axes.annotate(
            text, (1.015, height), xycoords="axes fraction", color=tint, va="center", fontsize=8.5
        )


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
