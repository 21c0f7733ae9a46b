"""Found boxes of new images: as a results file of COCO, in words, and drawn on pictures.

Shapes: M boxes of an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raykd.disks import write_whole
from raykd.export.task import Boxes, Predicted

SURE = 0.4
"""Score from which a box is told in words and drawn."""
_SIDE = 256
"""Pixels that a picture has at least, so that its words can be read."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def in_words(boxes: Boxes, names: Sequence[str]) -> str:
    """The boxes that the model is sure of: class, score and corners."""
    said = [
        f"{_name(names, label)} {score:.2f} ({', '.join(f'{edge:.1f}' for edge in corners)})"
        for corners, label, score in _sure(boxes)
    ]
    return "; ".join(said) or "nothing"


def in_pixels(
    predicted: Predicted, sizes: Sequence[tuple[int, int]] | None, shown: Sequence[int]
) -> Predicted:
    """The same with boxes in pixels of the images' files.

    Args:
        predicted: with boxes in pixels of what the student was shown; without boxes it stays as it is.
        sizes: width and height of each file; None = they are those of what the student was shown.
        shown: shape of that, [..., height, width].
    """
    if sizes is None or predicted.boxes is None:
        return predicted
    height, width = shown[-2:]
    boxes = []
    for one, (own_width, own_height) in zip(predicted.boxes, sizes, strict=True):
        across, down = own_width / width, own_height / height
        factors = np.array([across, down, across, down], np.float32)
        boxes.append(replace(one, corners_M4=one.corners_M4 * factors))
    words = tuple(in_words(one, predicted.classes) for one in boxes)
    return replace(predicted, boxes=tuple(boxes), words=words)


def coco_results(
    ids: Sequence[Any], predicted: Predicted, category_of: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Found boxes as COCO has results: `image_id`, `category_id`, `bbox` (x, y, width, height) and `score`, image by image.

    Args:
        ids: of the images; whole numbers as numbers.
        predicted: with boxes.
        category_of: class -> category id; None counts the classes from 1.
    """
    assert predicted.boxes is not None, "only of detectors"
    found = []
    for name, boxes in zip(ids, predicted.boxes, strict=True):
        rows = zip(
            boxes.corners_M4.tolist(),
            boxes.class_M.tolist(),
            boxes.score_M.tolist(),
            strict=True,
        )
        for (x1, y1, x2, y2), label, score in rows:
            found.append(
                {
                    "image_id": _image_id(name),
                    "category_id": label + 1 if category_of is None else category_of[label],
                    "bbox": [round(one, 3) for one in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(score, 6),
                }
            )
    return found


def write_coco(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write results as one JSON list; a reader sees the old file or the new one."""
    write_whole(path, [json.dumps(list(results), indent=1).encode()], durable=False)


def draw(folder: Path, ids: Sequence[Any], images: np.ndarray, predicted: Predicted) -> list[Path]:
    """Pictures with the boxes that the model is sure of, as PNG files.

    Args:
        folder: of the files, made where it is not there.
        ids: of the images, after which the files are called.
        images: uint8 or float in [0, 1], [N, C, H, W], C 1 or 3.
        predicted: with boxes in pixels of these images.
    """
    from PIL import Image, ImageDraw

    assert predicted.boxes is not None, "only of detectors"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (name, image, boxes) in enumerate(zip(ids, images, predicted.boxes, strict=True)):
        pixels = image if image.dtype == np.uint8 else (255 * image.clip(0, 1)).round()
        shown = pixels.astype(np.uint8).transpose(1, 2, 0)
        picture = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown).convert("RGB")
        scale = max(1, -(-_SIDE // min(picture.size)))
        picture = picture.resize(
            (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
        )
        pen = ImageDraw.Draw(picture)
        for corners, label, score in _sure(boxes):
            colour = _COLOURS[label % len(_COLOURS)]
            x1, y1, x2, y2 = (edge * scale for edge in corners)
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
            pen.text((x1 + 3, y1 + 2), f"{_name(predicted.classes, label)} {score:.2f}", colour)
        file = folder / f"{number:05d}_{_safe(str(name))}.png"
        picture.save(file)
        files.append(file)
    return files


def _sure(boxes: Boxes) -> list[tuple[list[float], int, float]]:
    rows = zip(
        boxes.corners_M4.tolist(), boxes.class_M.tolist(), boxes.score_M.tolist(), strict=True
    )
    return [(corners, label, score) for corners, label, score in rows if score >= SURE]


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _image_id(name: Any) -> int | str:
    text = str(name)
    return int(text) if text.isdecimal() and str(int(text)) == text else text


def _safe(name: str) -> str:
    """A name of a file that leads nowhere else."""
    kept = "".join(one if one.isalnum() or one in "-_." else "_" for one in name)
    return kept.strip(".")[:60] or "image"
