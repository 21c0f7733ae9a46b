"""New images for a detector: a folder of them, or those of a COCO file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from raykd.data.named.box_files import json_tree, pictures
from raykd.errors import InputError
from raykd.export.description import Description

KEY = "DATA"
_MODES = {1: "L", 3: "RGB"}
_TREE = ".json"
Read = tuple[np.ndarray, np.ndarray, dict[int, str], list[tuple[int, int]]]
"""Ids and values of all images, place -> what is wrong with one, and width and height of each file."""


def has_images(path: Path) -> bool:
    """Whether a path is what is read here."""
    return path.is_dir() or path.suffix.lower() == _TREE


def read_images(about: Description, path: Path) -> Read:
    """Images as the student takes them, each resized to its input where it has another size.

    Args:
        about: the student's description.
        path: a folder of images, or a COCO file with `images` beside them.

    Raises:
        InputError: there are none, or the student takes no images.
    """
    files = _files(path)
    channels, *sides = about.input.shape
    if channels not in _MODES or len(sides) != len(("H", "W")):
        raise InputError.at(KEY, f"found {path}; the student takes {list(about.input.shape)}, no images")  # fmt: skip
    if not files:
        raise InputError.at(KEY, f"{path} has no images")
    height, width = sides
    values = np.zeros((len(files), channels, height, width), np.uint8)
    sizes, bad = [(width, height)] * len(files), dict[int, str]()
    for place, file in enumerate(files.values()):
        try:
            with Image.open(file) as opened:
                image = opened.convert(_MODES[channels])
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            bad[place] = f"{file} cannot be read ({error})"
            continue
        sizes[place] = image.size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        shown = np.asarray(image)
        values[place] = shown[None] if channels == 1 else shown.transpose(2, 0, 1)
    given = values if about.input.bytes else values.astype(np.float32) / 255
    return np.array(list(files)), given, bad, sizes


def categories_of(path: Path, classes: Sequence[str]) -> dict[int, int] | None:
    """Class -> category id of a COCO file, by name; None where `path` is none, or lists no categories.

    Raises:
        InputError: it has no category of the name of a class.
    """
    if path.suffix.lower() != _TREE:
        return None
    found = _tree(path).get("categories")
    if not isinstance(found, list) or not found:
        return None
    number_of = {str(one.get("name")): int(one["id"]) for one in found}
    if missing := [name for name in classes if name not in number_of]:
        raise InputError.at(
            KEY,
            f"{path} has no category {missing[0]!r}, which the student finds; it has {', '.join(number_of)}: name it so, or "
            "leave `categories` out, and the classes are counted from 1",
        )
    return {number: number_of[name] for number, name in enumerate(classes)}


def _files(path: Path) -> dict[str, Path]:
    """Id of each image -> its file."""
    if path.is_dir():
        return {file.stem: file for file in pictures(path)}
    listed = _tree(path).get("images")
    if not isinstance(listed, list) or not all(_is_image(one) for one in listed):
        raise InputError.at(KEY, f"{path} has no list `images` of objects with id and file_name, which a COCO file has")  # fmt: skip
    return {str(one["id"]): path.parent / one["file_name"] for one in listed}


def _is_image(one: Any) -> bool:
    return isinstance(one, Mapping) and "id" in one and isinstance(one.get("file_name"), str)


def _tree(path: Path) -> dict[str, Any]:
    return json_tree(path, KEY)
