"""Pictures of what is trained on: samples, their views, what each model sees of them; each class."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data.dataset import PARTS
from raykd.data.samples import Samples
from raykd.data.texts import decode_texts
from raykd.disks import new_file
from raykd.errors import InputError
from raykd.tasks import find_task
from raykd.types import ORIGINAL_VIEW, Batch, is_labelled

Preprocessor = Callable[[Tensor], Tensor]
_CELL_INCHES = 0.95
_RGB = 3
_IMAGE_AXES = 3
_FONT_POINTS = 7
_ID_SHOWN = 14  # characters
_CHARACTERS_A_LINE, _CHARACTERS_SHOWN, _WORDS_SHOWN = 24, 190, 32


def draw_views(
    samples: Samples,
    path: Path | str,
    *,
    preprocess: Mapping[str, Preprocessor] | None = None,
    count: int = 6,
    views: int = 3,
) -> None:
    """Write a PNG: a row per sample; the sample and its first views, as they are and for each model.

    Source space is drawn with 0 as black and 1 as white, what a model sees stretched to its own range.
    A blended sample says its own share; where labels say where things are, boxes are drawn around these.

    Args:
        samples: the samples; images are drawn as such, texts by their beginning, other inputs as curves.
        path: the file to write; its folder is made.
        preprocess: model's name -> its preprocessing of a batch [B, ...].
        count: how many training samples.
        views: how many views beside the original.

    Raises:
        InputError: the samples have several inputs.
    """
    assert samples.input_shape, "samples with several inputs are refused"
    draw_one = _write_one if samples.is_text else _draw_one
    outlines = find_task(samples.task).labels.outlines
    train = samples.splits["train"]
    rows = train[np.linspace(0, len(train) - 1, min(count, len(train))).astype(np.int64)]
    columns = [samples.batch(rows, view) for view in range(ORIGINAL_VIEW, views)]
    blocks: dict[str, Preprocessor | None] = {"source": None, **(preprocess or {})}
    across = len(blocks) * len(columns)
    figure, grid = _figure(len(rows), [1.0] * across)
    for block, (name, model_sees) in enumerate(blocks.items()):
        for column, batch in enumerate(columns):
            (shown,) = batch.inputs.values()
            with torch.no_grad():
                seen = shown if model_sees is None else model_sees(shown)
            view = "original" if column == 0 else f"view {column - 1}"
            cells = grid[:, block * len(columns) + column]
            cells[0].set_title(f"{name}\n{view}", fontsize=_FONT_POINTS)
            for index, cell in enumerate(cells):
                draw_one(cell, seen[index], raw=model_sees is None)
                _note_share(cell, batch, index)
                if model_sees is None and outlines is not None:
                    _draw_boxes(cell, outlines(batch.labels[index].numpy()))
    for index, row in enumerate(rows):
        grid[index, 0].set_ylabel(_name_of(samples, int(row)), fontsize=_FONT_POINTS)
    _save(figure, path)


def draw_classes(samples: Samples, path: Path | str, *, count: int = 8, most: int = 20) -> None:
    """Write a PNG: a row per class, with its labels in each split and its first training samples.

    A regression has one row, whose left cell is a histogram of the known values of each split. Labels
    outside the budget are counted too.

    Args:
        samples: the samples; images are drawn as such, texts by their beginning, other inputs as curves.
        path: the file to write; its folder is made.
        count: how many samples of each class.
        most: classes that are drawn; of more the largest and the smallest, half and half.

    Raises:
        InputError: the samples have several inputs, or no classes.
    """
    assert samples.input_shape, "samples with several inputs are refused"
    if not samples.classes:
        raise InputError.at("data.source", "has no labels, so there are no classes to draw")
    draw_one = _write_one if samples.is_text else _draw_one
    form = find_task(samples.task).labels
    known = {part: samples.splits[part] for part in PARTS}
    known = {part: rows[is_labelled(samples.all_labels[rows])] for part, rows in known.items()}
    counts = {
        part: form.counts(samples.all_labels[rows], samples.class_count)
        for part, rows in known.items()
    }
    classes = _drawn(counts["train"], most)
    figure, grid = _figure(len(classes), [2.0, *[1.0] * count])
    highest = max(int(counts[part].max()) for part in PARTS)
    for cells, label in zip(grid, classes, strict=True):
        if form.measured:
            _draw_values(cells[0], {part: samples.all_labels[rows] for part, rows in known.items()})
        else:
            _draw_counts(cells[0], [int(counts[part][label]) for part in PARTS], highest)
        cells[0].set_ylabel(samples.classes[label][:14], fontsize=_FONT_POINTS)
        rows = known["train"][form.holds(samples.all_labels[known["train"]], label)][:count]
        (shown,) = samples.batch(rows, ORIGINAL_VIEW).inputs.values()
        for index, cell in enumerate(cells[1:]):
            if index < len(rows):
                draw_one(cell, shown[index], raw=True)
                cell.set_xlabel(_short(samples, rows[index]), fontsize=_FONT_POINTS)
            else:
                cell.axis("off")
    _save(figure, path)


def _figure(rows: int, widths: Sequence[float]) -> tuple[Any, Any]:
    """A figure and its cells [rows, columns]; a column is so many cells wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_CELL_INCHES * sum(widths), _CELL_INCHES * (rows + 0.6)))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)


def _save(figure: Any, path: Path | str) -> None:
    figure.tight_layout(pad=0.3)
    with new_file(Path(path)) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _drawn(counts_C: np.ndarray, most: int) -> list[int]:
    """Classes in order; of too many the largest and the smallest."""
    if len(counts_C) <= most:
        return list(range(len(counts_C)))
    by_size = np.argsort(-counts_C, kind="stable").tolist()
    return sorted([*by_size[: most // 2], *by_size[-(most - most // 2) :]])


def _draw_counts(cell: Any, counts: list[int], highest: int) -> None:
    bars = cell.barh(PARTS[::-1], counts[::-1], height=0.7)
    cell.bar_label(
        bars, labels=[f"{one:,}" for one in counts[::-1]], fontsize=_FONT_POINTS - 1, padding=1
    )
    cell.set_xlim(0, 1.4 * max(1, highest))
    cell.set_xticks([])
    cell.tick_params(labelsize=_FONT_POINTS - 1, length=0)


def _draw_values(cell: Any, values: Mapping[str, np.ndarray]) -> None:
    every = np.concatenate(list(values.values()))
    edges = np.linspace(every.min(), every.max(), 21)
    for part, found in values.items():
        cell.hist(found, edges, histtype="step", label=part, linewidth=0.8)
    cell.legend(fontsize=_FONT_POINTS - 2)
    cell.tick_params(labelsize=_FONT_POINTS - 2)


def _draw_one(cell: Any, sample: Tensor, *, raw: bool) -> None:
    cell.set_xticks([])
    cell.set_yticks([])
    values = sample.detach().to(device="cpu", dtype=torch.float32)
    if values.ndim != _IMAGE_AXES:
        cell.plot(values.flatten().numpy(), linewidth=0.6)
        return
    low, high = (0.0, 1.0) if raw else (float(values.min()), float(values.max()))
    scaled = ((values - low) / ((high - low) or 1.0)).clamp(0, 1)
    if len(scaled) >= _RGB:
        cell.imshow(scaled[:_RGB].permute(1, 2, 0).numpy())
    else:
        cell.imshow(scaled[0].numpy(), cmap="gray", vmin=0, vmax=1)


def _draw_boxes(cell: Any, boxes_M4: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for x1, y1, x2, y2 in (boxes_M4 - 0.5).tolist():  # a picture's first pixel has its middle at 0
        cell.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="C1", linewidth=0.8))


def _write_one(cell: Any, sample: Tensor, *, raw: bool) -> None:
    """The beginning of a text, or of its ids without padding where a model sees it."""
    cell.set_xticks([])
    cell.set_yticks([])
    if raw:
        (text,) = decode_texts(sample[None].numpy())
    else:
        text = " ".join(str(token) for token in sample[sample != 0][:_WORDS_SHOWN].tolist())
    lines = textwrap.wrap(text[:_CHARACTERS_SHOWN], _CHARACTERS_A_LINE)
    cell.text(0, 1, "\n".join(lines).replace("$", r"\$"), va="top", fontsize=_FONT_POINTS / 2)


def _note_share(cell: Any, batch: Batch, index: int) -> None:
    share = 1.0 if batch.mixed is None else float(batch.mixed.share_B[index])
    if share < 1.0:
        cell.set_xlabel(f"{share:.0%}", fontsize=_FONT_POINTS)


def _name_of(samples: Samples, row: int) -> str:
    name = find_task(samples.task).labels.shown(samples.all_labels[row], samples.classes)
    return f"{name[:14]}\n{_short(samples, row)}"


def _short(samples: Samples, row: int) -> str:
    """The user's own id of a sample, its end where it is long."""
    (name,) = samples.named(np.array([row]))
    return name if len(name) <= _ID_SHOWN else f"…{name[1 - _ID_SHOWN :]}"
