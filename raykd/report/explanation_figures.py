"""Figures of `raykd explain`: likeness of maps, the maps themselves, importance by feature, deletion.

Shapes: N samples, U units, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate.explanation import Explanation
from raykd.report.explanation_text import Numbers, by_importance, is_value, model_name, two_digits
from raykd.report.style import (
    COLOURS,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    Picture,
    drawn,
    finish,
    is_narrow,
    label,
    legend_beside,
    lines_below,
    panels,
    percent_ticks,
    sheet,
    wrapped,
)

_MOST_SHOWN = 8
_MOST_TEACHERS = 5
_MOST_FEATURES = 20
_TEACHER_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_HEAT = LinearSegmentedColormap.from_list(
    "evidence", ["#00507d", "#86b9dc", "#f7f7f7", "#f0a878", "#a63a00"]
)
_PALE = 0.55
"""How far an image is lightened beneath its map."""


def explanation_pictures(found: Explanation, numbers: Numbers) -> dict[str, Picture]:
    """All pictures that there are."""
    shown = partial(importance, numbers) if found.features else partial(maps, found, numbers)
    made = drawn([partial(similarity, numbers), shown, partial(deletion, numbers)])
    return {one.name: one for one in made if one is not None}


def similarity(numbers: Numbers) -> Picture:
    """Likeness of the student's maps to each model's, beside that of networks with fresh weights."""
    found = numbers["similarity"]
    figure, every = panels(9.0, 1.5 + 0.42 * len(found), 2, sharey=True)
    heights = np.arange(len(found))[::-1]
    titles = {"spearman": "rank correlation (Spearman)", "top20_iou": "IoU of the top 20 %"}
    for axes, (measure, title) in zip(every, titles.items(), strict=True):
        for height, one in zip(heights, found.values(), strict=True):
            _interval(axes, one[measure]["control"], height - 0.16, MUTED, "D")
            _interval(axes, one[measure]["student"], height + 0.16, COLOURS["student"], "o")
        axes.axvline(0, color=INK, linewidth=1.0)
        axes.set_title(title)
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    figure.axes[0].set_yticks(heights, [label(model_name(name)) for name in found])
    for name, tint, marker in (("student", COLOURS["student"], "o"), ("fresh weights", MUTED, "D")):
        figure.axes[0].plot([], [], marker, color=tint, label=name)
    figure.legend(loc="outside lower center", ncols=2)
    return finish(
        figure,
        name="similarity",
        title="Whose maps the student's are like",
        caption="Means over samples with 95 % intervals. Grey: the same network before it learnt anything, which is what "
        "maps have in common for no reason.",
    )


def _interval(axes: Axes, one: Numbers, height: float, tint: str, marker: str) -> None:
    if one["mean"] is None:
        return
    if one["ci95"] is not None:
        axes.plot(one["ci95"], [height, height], color=tint, linewidth=2.2)
    axes.plot(one["mean"], height, marker, color=tint, markersize=6.5, markeredgecolor=PAPER)


def maps(found: Explanation, numbers: Numbers) -> Picture:
    """Samples, and on each what every model rests on."""
    most = 0 if is_narrow() else _MOST_TEACHERS
    models = dict(list(found.maps.taught.items())[: 2 + most])
    by_model = {name: found.occlusion.by_unit(maps_NK) for name, maps_NK in models.items()}
    grey = _grey(found.inputs)
    lines, columns = min(_MOST_SHOWN, len(grey)), 1 + len(models)
    figure = sheet(1.35 * columns, 0.45 + 1.62 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for n, row in enumerate(grid):
        one = numbers["each"][n]
        told = [(label(one["truth"] or "unknown", 16), MUTED)]
        if not is_value(numbers):
            told.append((f"maps of {label(one['explained'], 12)}", MUTED))
        _shown(row[0], _image(found.inputs[n]), told)
        for axes, (name, value_NU) in zip(row[1:], by_model.items(), strict=True):
            picture = _overlaid(grey[n], value_NU[n].view(grey[n].shape).numpy())
            _shown(axes, picture, _lines(one, name))
    for axes, title in zip(grid[0], ("sample", *map(model_name, models)), strict=True):
        axes.set_title(label(title, 12), loc="center")
    rest = len(found.maps.taught) - len(models)
    held = "in the PNG file and " if is_narrow() else ""
    more = f" {rest} more teachers are {held}in explain.json." if rest else ""
    sign = (
        "Orange: hiding this changes the value."
        if is_value(numbers)
        else "The maps are of the output named below the sample: orange speaks for it, blue against it."
    )
    return finish(
        figure,
        name="maps",
        title="Where student and teachers look",
        caption=f"{sign} Each map has its own scale. Below: what the sample is (grey), what each model says, ✓ right, ✗ wrong, "
        f"and ρ, the rank correlation with the student's map. The largest divergence comes first.{more}",
    )


def _lines(one: Numbers, name: str) -> list[tuple[str, str]]:
    answer, truth = one["answers"][name], one["truth"]
    mark = "" if truth is None else " ✓" if answer == truth else " ✗"
    tint = COLOURS.get(name, INK)
    lines = [(label(answer or "none", 12) + mark, tint)]
    if name in one["similarity"]:
        lines.append((f"ρ {two_digits(one['similarity'][name]['spearman'])}", MUTED))
    return lines


def _shown(axes: Axes, picture: NDArray[np.float64], lines: Sequence[tuple[str, str]]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    lines_below(axes, lines, size=8.0)


def _image(sample: Tensor) -> NDArray[np.float64]:
    """A picture [H, W] or [H, W, 3] in [0, 1]; of other numbers of channels their mean."""
    array = sample.double().numpy()
    array = np.moveaxis(array, 0, -1) if len(array) == 3 else array.mean(axis=0)
    low, high = float(array.min()), float(array.max())
    stretched: NDArray[np.float64] = (array - low) / ((high - low) or 1.0)
    return stretched


def _grey(inputs: Tensor) -> list[NDArray[np.float64]]:
    pictures = [_image(sample) for sample in inputs]
    return [one if one.ndim == 2 else one.mean(axis=2) for one in pictures]


def _overlaid(grey_HW: NDArray[np.float64], values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map in colour over its lightened image, [H, W, 3]."""
    furthest = float(np.abs(values_HW).max()) or 1.0
    scaled_HW = values_HW / furthest
    colours = _HEAT(0.5 + 0.5 * scaled_HW)[..., :3]
    pale = (_PALE + (1 - _PALE) * grey_HW)[..., None]
    cover = np.sqrt(np.abs(scaled_HW))[..., None]
    blended: NDArray[np.float64] = (1 - cover) * pale + cover * colours
    return blended


def importance(numbers: Numbers) -> Picture:
    """What each feature of a table is worth to each model."""
    found = numbers["importance"]
    features = by_importance(numbers)[:_MOST_FEATURES][::-1]
    models = list(next(iter(found.values())))
    figure = sheet(8.0, 1.4 + 0.3 * len(features))
    axes = figure.add_subplot()
    heights = np.arange(len(features))
    teachers = [name for name in models if name not in COLOURS]
    for name in models:
        marker = MARKERS.get(name) or _TEACHER_MARKERS[teachers.index(name) % len(_TEACHER_MARKERS)]
        large = name not in teachers
        axes.plot(
            [found[feature][name] for feature in features],
            heights,
            marker,
            color=COLOURS.get(name, COLOURS["teacher"]),
            markersize=(12 if marker == "*" else 8) if large else 6.5,
            markeredgecolor=PAPER,
            zorder=4 if large else 3,
            label=label(model_name(name), 20),
        )
    axes.set_yticks(heights, [label(feature) for feature in features])
    axes.set_ylim(-0.7, len(features) - 0.3)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    unit = "change of the value" if is_value(numbers) else "change of the probability"
    axes.set_xlabel(wrapped(f"mean {unit} when the feature is hidden"))
    legend_beside(axes)
    left_out = len(found) - len(features)
    rest = f" The {len(features)} most important to the ensemble are shown." if left_out else ""
    return finish(
        figure,
        name="importance",
        title="Mean importance of each feature",
        caption=f"Over the samples that are explained, whichever way the score moves.{rest} A model that is less sure of "
        "itself has smaller changes in all of them: compare the order.",
    )


def deletion(numbers: Numbers) -> Picture:
    """How the student's score falls as its most important parts go first, or any."""
    found = numbers["deletion"]
    figure = sheet(7.2, 3.2)
    axes = figure.add_subplot()
    curves: Sequence[tuple[str, str, str, Callable[[Any], Any] | str]] = (
        ("random", "in a random order", MUTED, "--"),
        ("own", "its most important first", COLOURS["student"], "-"),
    )
    for name, words, tint, style in curves:
        mean = [one["mean"] for one in found[name]]
        axes.plot(
            found["share"], mean, color=tint, linestyle=style, marker="o", markersize=4, label=words
        )
        if all(one["ci95"] is not None for one in found[name]):
            low, high = zip(*(one["ci95"] for one in found[name]), strict=True)
            axes.fill_between(found["share"], low, high, color=tint, alpha=0.15, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    percent_ticks(axes.xaxis)
    axes.set_xlabel("removed from the sample")
    axes.set_ylabel("change of the value" if is_value(numbers) else "fall of the probability")
    axes.margins(x=0.01)
    legend_beside(axes)
    return finish(
        figure,
        name="deletion",
        title="What removing costs the student",
        caption="Means over samples with 95 % intervals. The further its own order lies above the random one, the more "
        "its maps say of what it rests on.",
    )
