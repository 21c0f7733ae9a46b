"""Read boxes that somebody's detector has found: a teacher without a model, as a results file of COCO."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raykd.data import Samples
from raykd.data.named.box_terms import Terms
from raykd.detection.layout import Layout
from raykd.detection.structured import packed_boxes, slots, used
from raykd.errors import InputError, Problem

Categories = Mapping[int, int | str | None]
_MOST_PROBLEMS = 10
_AT_ONCE = 256
_SHAPE = "a list of {image_id, category_id, bbox: [x, y, width, height], score}"
_Box = tuple[int, tuple[float, float, float, float], float]
"""Class, corners in pixels of the sample, score."""


@dataclass
class _Reading:
    """What was found in a file so far, and what is wrong with it."""

    key: str
    file: Path
    boxes: dict[int, list[_Box]] = field(default_factory=dict)
    cut: int = 0
    problems: list[Problem] = field(default_factory=list)
    more: int = 0

    def add(self, message: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(f"{self.key}.outputs", f"{self.file}: {message}"))
        else:
            self.more += 1

    def refuse(self) -> None:
        if self.more:
            self.problems.append(Problem(f"{self.key}.outputs", f"and {self.more:,} mistakes more in {self.file}"))  # fmt: skip
        if self.problems:
            raise InputError(self.problems)


def load_boxes(
    path: str,
    samples: Samples,
    layout: Layout,
    terms: Terms,
    *,
    key: str,
    categories: Categories | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Rows of raw boxes float32 [N, used] in the data's row order (`raykd.detection.structured`); what to know of them.

    Boxes that stick out of their image are cut at its border; of more than a row has room for the surest are kept. An image
    that the file does not name has none.

    Args:
        path: a JSON file, a list of `image_id`, `category_id`, `bbox` (x, y, width, height in pixels of the image's
            file) and `score`.
        samples: the data whose ids the images have.
        layout: of the student's answers.
        terms: what ids and pixels of the file mean.
        key: dotted key of the teacher in the recipe, for errors.
        categories: the data's class of each of the file's categories, None of one that is none of them; the classes that
            it names are those that the teacher knows. None: the ids are the data's, and the teacher knows all.

    Raises:
        InputError: the file is missing or none; up to ten mistakes with image and entry: unknown images or categories, NaN,
            swapped corners, boxes outside, scores that are none.
    """
    file = Path(path).expanduser()
    class_of, knows_C = _classes(categories, samples, terms, key)
    reading = _Reading(key, file)
    rows = {name: row for row, name in enumerate(samples.named(np.arange(len(samples))))}
    height, width = samples.input_shape[-2:]
    for number, one in enumerate(_entries(file, f"{key}.outputs")):
        where = f"entry {number} (from 0) of image {one.get('image_id')!r}"
        row = rows.get(str(one.get("image_id")))
        if row is None:
            reading.add(f"{where}: the data have no such image; their ids are like {next(iter(rows))!r}")  # fmt: skip
            continue
        category = one.get("category_id")
        if not isinstance(category, int) or category not in class_of:
            reading.add(f"{where}: its category {category!r} is none of {', '.join(map(str, class_of))}; say in {key}.categories what it is, null for none of the data's classes")  # fmt: skip
            continue
        sides = terms.sizes.get(str(one["image_id"]), (width, height))
        found = _box(one, sides)
        if isinstance(found, str):
            reading.add(f"{where}: {found}")
            continue
        label = class_of[category]
        if label is not None:
            corners, score, cut = found
            x1, y1, x2, y2 = corners
            across, down = width / sides[0], height / sides[1]
            scaled = (x1 * across, y1 * down, x2 * across, y2 * down)
            reading.boxes.setdefault(row, []).append((label, scaled, score))
            reading.cut += cut
    reading.refuse()
    if not reading.boxes:
        raise InputError.at(
            f"{key}.outputs",
            f"{file} holds no box of the data's classes: nothing can be learnt of it",
        )
    return _packed(reading, len(samples), layout, knows_C), _notes(reading, len(samples), layout)


def _classes(
    categories: Categories | None, samples: Samples, terms: Terms, key: str
) -> tuple[Mapping[int, int | None], torch.Tensor]:
    """The data's class of each category, and which classes the teacher knows, bool [C]."""
    names = list(samples.classes)
    if categories is None:
        return terms.class_of, torch.ones(len(names), dtype=torch.bool)
    found: dict[int, int | None] = {}
    problems = []
    for category, meant in categories.items():
        number = names.index(meant) if isinstance(meant, str) and meant in names else meant
        if isinstance(number, str) or (number is not None and number >= len(names)):
            problems.append(Problem(f"{key}.categories.{category}", f"found {meant!r}; the data's classes are {', '.join(names)}, or 0 to {len(names) - 1}, or null"))  # fmt: skip
            continue
        found[category] = number
    knows_C = torch.zeros(len(names), dtype=torch.bool)
    knows_C[sorted({one for one in found.values() if one is not None})] = True
    if not problems and not bool(knows_C.any()):
        problems.append(Problem(f"{key}.categories", "names none of the data's classes; a teacher of no class says nothing"))  # fmt: skip
    if problems:
        raise InputError(problems)
    return found, knows_C


def _entries(file: Path, key: str) -> Iterator[Mapping[str, Any]]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError.at(key, f"no file at {file}; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError.at(key, f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(tree, list) or not all(isinstance(one, dict) for one in tree):
        raise InputError.at(key, f"{file} holds a {type(tree).__name__} that is no results file of COCO: {_SHAPE}")  # fmt: skip
    yield from tree


def _box(
    one: Mapping[str, Any], sides: tuple[int, int]
) -> tuple[tuple[float, float, float, float], float, bool] | str:
    """Corners within the image, score, and whether it was cut; or what is wrong."""
    try:
        x, y, width, height = (float(value) for value in one["bbox"])
        score = float(one["score"])
    except (KeyError, TypeError, ValueError):
        return f"it has bbox {one.get('bbox')!r} and score {one.get('score')!r}; needs four numbers, [x, y, width, height], and one"  # fmt: skip
    if not all(map(math.isfinite, (x, y, width, height, score))):
        return "NaN or infinity in bbox or score"
    if not 0 <= score <= 1:
        return f"its score is {score:g}; allowed are 0 to 1: a sigmoid or softmax of it"
    if not (width > 0 and height > 0):
        return f"its bbox has the size {width:g}×{height:g}; bbox is [x, y, width, height], with a size above 0: are these corners that are swapped?"  # fmt: skip
    corners = (max(x, 0.0), max(y, 0.0), min(x + width, sides[0]), min(y + height, sides[1]))
    if not (corners[2] > corners[0] and corners[3] > corners[1]):
        return f"its box ({x:g}, {y:g}) to ({x + width:g}, {y + height:g}) lies outside of the image, which has {sides[0]}×{sides[1]} pixels"  # fmt: skip
    return corners, score, corners != (x, y, x + width, y + height)


def _packed(reading: _Reading, count: int, layout: Layout, knows_C: torch.Tensor) -> np.ndarray:
    rows = np.zeros((count, used(layout)), np.float32)
    for start in range(0, count, _AT_ONCE):
        some = [reading.boxes.get(row, []) for row in range(start, min(start + _AT_ONCE, count))]
        most = max(1, *map(len, some))
        boxes = torch.zeros(len(some), most, 4)
        scores = torch.zeros(len(some), most, layout.classes)
        for place, own in enumerate(some):
            for number, (label, corners, score) in enumerate(own):
                boxes[place, number] = torch.tensor(corners)
                scores[place, number, label] = score
        packed = packed_boxes(boxes, scores, layout, knows_C)
        rows[start : start + len(some)] = packed[:, : rows.shape[1]].numpy()
    return rows


def _notes(reading: _Reading, count: int, layout: Layout) -> list[str]:
    notes, room = [], slots(layout)
    if empty := count - len(reading.boxes):
        notes.append(f"{reading.file} has no box for {empty:,} of {count:,} images")
    if reading.cut:
        notes.append(f"{reading.cut:,} boxes of {reading.file} stick out of their image and were cut at its border")  # fmt: skip
    if more := sum(max(0, len(own) - room) for own in reading.boxes.values()):
        notes.append(f"{more:,} boxes of {reading.file} were left out: of each image the {room} surest are kept")  # fmt: skip
    return notes
