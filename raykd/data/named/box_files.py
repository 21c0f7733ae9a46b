"""Images with boxes from COCO JSON, Pascal VOC and YOLO files, each mistake named with file and id.

Every image is decoded, all to one size: larger or smaller ones are refused, or resized with their boxes where `size` says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image, UnidentifiedImageError

from raykd.config.sources import CocoSource, VocSource, YoloSource
from raykd.data.dataset import Dataset
from raykd.detection.layout import label_rows
from raykd.errors import InputError, Problem

KEY = "data.source"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_TOLERANCE = 0.5
"""Pixels by which a box may stick out, since files round; it is cut at the border then."""
_MOST_PROBLEMS = 10
_MOST_XML = 2**22
Box = tuple[int, tuple[float, float, float, float], bool]
"""Class, corners in pixels of the file, and whether it is a crowd."""


@dataclass(frozen=True)
class BoxedImage:
    """One image as a file tells of it.

    Attributes:
        name: its id, as errors and predictions have it.
        file: of its pixels.
        boxes: None where it is not labelled, which is not the same as none at all.
    """

    name: str
    file: Path
    boxes: list[Box] | None


@dataclass
class _Mistakes:
    """What is wrong, as far as it is told."""

    found: list[Problem] = field(default_factory=list)
    more: int = 0

    def add(self, key: str, message: str) -> None:
        if len(self.found) < _MOST_PROBLEMS:
            self.found.append(Problem(key, message))
        else:
            self.more += 1

    def refuse(self) -> None:
        if self.more:
            self.found.append(Problem(KEY, f"and {self.more:,} mistakes more of this kind"))
        if self.found:
            raise InputError(self.found)


def load_coco(source: CocoSource, task: str) -> Dataset:  # noqa: ARG001 - one signature for all
    """Images and boxes of a COCO file, `images`, `annotations` and `categories`; crowds are neither right nor wrong.

    Classes are the categories in the order of their ids. An image that no annotation names has no boxes; one that is
    listed in `unlabelled` has no labels.

    Raises:
        InputError: a missing file or image, ids that do not exist or repeat, boxes that are none; with file and id.
    """
    path = Path(source.path).expanduser()
    tree = json_tree(path, f"{KEY}.path")
    mistakes = _Mistakes()
    names, number_of = categories(tree, path)
    boxes_of = _annotations(tree, path, number_of, mistakes)
    folder = path.parent if source.images is None else Path(source.images).expanduser()
    hidden = {str(one) for one in tree.get("unlabelled", ())}
    images, known = [], set()
    for one in listed(tree, "images", path):
        key = str(one.get("id"))
        if key in known:
            mistakes.add(f"{KEY}.path", f"{path}: image id {key} is there twice")
        known.add(key)
        own = None if key in hidden else boxes_of.get(key, [])
        images.append(BoxedImage(key, folder / str(one.get("file_name")), own))
    for key in boxes_of.keys() - known:
        mistakes.add(f"{KEY}.path", f"{path}: annotations are of image id {key}, which `images` does not list")  # fmt: skip
    mistakes.refuse()
    return _dataset(images, names, source.size, source.mode)


def load_voc(source: VocSource, task: str) -> Dataset:  # noqa: ARG001
    """Images and boxes of a folder as Pascal VOC has it: `JPEGImages` and `Annotations` with one XML file for each image.

    An image without an XML file has no labels. Corners are pixels counted from 1, both ends included.

    Raises:
        InputError: as of `load_coco`.
    """
    root, mistakes = Path(source.path).expanduser(), _Mistakes()
    images, found = [], {}
    for file in pictures(root / "JPEGImages"):
        xml = root / "Annotations" / f"{file.stem}.xml"
        found[file] = list(_voc_objects(xml)) if xml.is_file() else None
    there = {name for objects in found.values() for name, _ in objects or ()}
    names = source.classes or tuple(sorted(there))
    number_of = {name: number for number, name in enumerate(names)}
    for file, objects in found.items():
        boxes: list[Box] | None = None if objects is None else []
        for name, (x1, y1, x2, y2) in objects or ():
            if name not in number_of:
                mistakes.add(f"{KEY}.classes", f"{root / 'Annotations' / file.stem}.xml has an object {name!r}, which is none of {', '.join(names)}")  # fmt: skip
            elif boxes is not None:
                boxes.append((number_of[name], (x1 - 1, y1 - 1, x2, y2), False))
        images.append(BoxedImage(file.stem, file, boxes))
    mistakes.refuse()
    return _dataset(images, names, source.size, source.mode)


def load_yolo(source: YoloSource, task: str) -> Dataset:  # noqa: ARG001
    """Images and boxes of a folder as YOLO has it: `images` and `labels` with one text file for each image.

    Its lines are `class x y width height`, the middle and the size as parts of the image. An image without a text file has no
    labels; an empty one says that there are no boxes.

    Raises:
        InputError: as of `load_coco`.
    """
    root, mistakes, images = Path(source.path).expanduser(), _Mistakes(), []
    for file in pictures(root / "images"):
        text = root / "labels" / f"{file.stem}.txt"
        boxes = None
        if text.is_file():
            boxes = list(_yolo_boxes(text, size_of(file), len(source.classes), mistakes))
        images.append(BoxedImage(file.stem, file, boxes))
    mistakes.refuse()
    return _dataset(images, source.classes, source.size, source.mode)


def categories(tree: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names of the categories in the order of their ids, and id -> number of the class."""
    given = sorted(listed(tree, "categories", path), key=lambda one: one["id"])
    if not given:
        raise InputError.at(f"{KEY}.path", f"{path} has no categories; at least one is needed")
    return tuple(str(one["name"]) for one in given), {one["id"]: n for n, one in enumerate(given)}


def _annotations(
    tree: Mapping[str, Any], path: Path, number_of: Mapping[Any, int], mistakes: _Mistakes
) -> dict[str, list[Box]]:
    """Image id -> its boxes."""
    found: dict[str, list[Box]] = {}
    for one in listed(tree, "annotations", path):
        where = f"{path}: annotation {one.get('id')} of image {one.get('image_id')}"
        if one.get("category_id") not in number_of:
            mistakes.add(f"{KEY}.path", f"{where} has category {one.get('category_id')}, which `categories` does not list: {', '.join(map(str, number_of))}")  # fmt: skip
            continue
        try:
            x, y, width, height = (float(value) for value in one["bbox"])
        except (KeyError, TypeError, ValueError):
            mistakes.add(f"{KEY}.path", f"{where} has bbox {one.get('bbox')!r}; needs four numbers, [x, y, width, height]")  # fmt: skip
            continue
        box = (number_of[one["category_id"]], (x, y, x + width, y + height), bool(one.get("iscrowd")))  # fmt: skip
        if problem := _no_box(box[1]):
            mistakes.add(f"{KEY}.path", f"{where} {problem}")
            continue
        found.setdefault(str(one.get("image_id")), []).append(box)
    return found


def _voc_objects(xml: Path) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """Name and corners of each object, as they are written."""
    try:
        for one in ET.fromstring(_plain_xml(xml)).iter("object"):  # noqa: S314 - entities are refused before
            corners = tuple(float(_text(one, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))  # fmt: skip
            yield _text(one, "name"), (corners[0], corners[1], corners[2], corners[3])
    except (OSError, ValueError, ET.ParseError) as error:
        raise InputError.at(f"{KEY}.path", f"{xml} is no annotation of Pascal VOC: {error}") from error  # fmt: skip


def _plain_xml(file: Path) -> str:
    """The text of an annotation that is neither huge nor full of entities."""
    if file.stat().st_size > _MOST_XML:
        raise ValueError(f"has more than {_MOST_XML:,} bytes")
    text = file.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("declares a DOCTYPE or entities, which no annotation needs")
    return text


def _text(element: ET.Element, tag: str) -> str:
    found = element.findtext(tag)
    if found is None:
        raise ValueError(f"an object has no {tag}")
    return found.strip()


def _yolo_boxes(
    file: Path, size: tuple[int, int], classes: int, mistakes: _Mistakes
) -> Iterator[Box]:
    width, height = size
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            label, x, y, w, h = (float(value) for value in line.split())
        except ValueError:
            mistakes.add(f"{KEY}.path", f"{where} is {line.strip()[:60]!r}; needs five numbers, `class x y width height`")  # fmt: skip
            continue
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)  # fmt: skip
        if label != int(label if math.isfinite(label) else 0) or not 0 <= label < classes:
            mistakes.add(f"{KEY}.classes", f"{where} has class {label:g}; there are 0 to {classes - 1}")  # fmt: skip
        elif problem := _no_box(corners):
            mistakes.add(f"{KEY}.path", f"{where} {problem}")
        else:
            yield int(label), corners, False


def _no_box(corners: Sequence[float]) -> str:
    """What is wrong with corners; empty where nothing is."""
    if not all(map(math.isfinite, corners)):
        return "has NaN or infinity in its box"
    x1, y1, x2, y2 = corners
    if not (x2 > x1 and y2 > y1):
        return (
            f"has the corners ({x1:g}, {y1:g}) and ({x2:g}, {y2:g}); the second one has to be to the right of and below the "
            "first: are they swapped, or is its size negative or 0?"
        )
    return ""


def _dataset(
    images: Sequence[BoxedImage], names: Sequence[str], size: int | None, mode: str
) -> Dataset:
    if not images:
        raise InputError.at(f"{KEY}.path", "there are no images")
    mistakes, pixels, rows, crowds = _Mistakes(), [], [], []
    for one in images:
        shown = _decoded(one, size, mode, mistakes)
        if shown is None:
            continue
        array, across, down, width, height = shown
        pixels.append(array)
        boxes = None if one.boxes is None else list(_inside(one, width, height, mistakes))
        rows.append(
            None if boxes is None
            else ([b[0] for b in boxes], [_scaled(b[1], across, down) for b in boxes])
        )  # fmt: skip
        crowds.append([b[2] for b in boxes or ()])
    shapes = {array.shape for array in pixels}
    if len(shapes) > 1:
        sizes = ", ".join(f"{s[2]}×{s[1]}" for s in sorted(shapes)[:4])
        mistakes.add(f"{KEY}.size", f"images have {len(shapes)} sizes ({sizes}, ...); set size, to which all are resized")  # fmt: skip
    mistakes.refuse()
    return Dataset(
        np.stack(pixels),
        label_rows(rows, crowds),
        ids=[one.name for one in images],
        classes=tuple(names),
        task="detection",
    )


def _decoded(
    one: BoxedImage, size: int | None, mode: str, mistakes: _Mistakes
) -> tuple[np.ndarray, float, float, int, int] | None:
    """Pixels uint8 [C, H, W], by how much it was scaled in x and y, and the size of the file."""
    try:
        with Image.open(one.file) as opened:
            image = opened.convert(mode)
    except FileNotFoundError:
        mistakes.add(f"{KEY}.images", f"image {one.name}: there is no file {one.file}")
        return None
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        mistakes.add(f"{KEY}.images", f"image {one.name}: {one.file} cannot be read ({error})")
        return None
    width, height = image.size
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    shown = array[None] if array.ndim == len(("H", "W")) else array.transpose(2, 0, 1)
    return shown, image.width / width, image.height / height, width, height


def _inside(one: BoxedImage, width: int, height: int, mistakes: _Mistakes) -> Iterator[Box]:
    """The boxes cut at the border; those that stick out are mistakes."""
    for label, (x1, y1, x2, y2), crowd in one.boxes or ():
        corners = (x1, y1, x2, y2)
        out = max(-x1, -y1, x2 - width, y2 - height)
        if problem := _no_box(corners):
            mistakes.add(f"{KEY}.path", f"image {one.name} ({one.file.name}) {problem}")
        elif out > _TOLERANCE:
            mistakes.add(f"{KEY}.path", f"image {one.name} ({one.file.name}) has {width}×{height} pixels and a box ({x1:g}, {y1:g}, {x2:g}, {y2:g}), which lies outside by {out:g}")  # fmt: skip
        else:
            cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            yield label, cut, crowd


def _scaled(corners: Sequence[float], across: float, down: float) -> list[float]:
    x1, y1, x2, y2 = corners
    return [x1 * across, y1 * down, x2 * across, y2 * down]


def pictures(folder: Path) -> list[Path]:
    """Files of a folder that are images, sorted."""
    if not folder.is_dir():
        raise InputError.at(f"{KEY}.path", f"there is no folder {folder}")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of an image file, of which only the beginning is read."""
    try:
        with Image.open(file) as opened:
            return opened.size
    except (OSError, UnidentifiedImageError) as error:
        raise InputError.at(f"{KEY}.path", f"{file} cannot be read ({error})") from error


def json_tree(path: Path, key: str) -> dict[str, Any]:
    """What a JSON file of COCO holds."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.at(key, f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(tree, dict):
        raise InputError.at(key, f"{path} holds a {type(tree).__name__}; a COCO file is an object with images, annotations and categories")  # fmt: skip
    return tree


def listed(tree: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    """One of its lists."""
    found = tree.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError.at(f"{KEY}.path", f"{path} has no list `{name}` of objects, which a COCO file has")  # fmt: skip
    if name != "annotations" and any("id" not in one for one in found):
        raise InputError.at(f"{KEY}.path", f"{path} has an entry of `{name}` without an id")
    return found
