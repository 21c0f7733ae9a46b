"""How files of found boxes speak of a source's samples: numbers of categories, and pixels of the image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raykd.config.sources import BoxFiles, CocoSource, VocSource, YoloSource
from raykd.data.named.box_files import KEY, categories, json_tree, listed, pictures, size_of


@dataclass(frozen=True)
class Terms:
    """What numbers in a file of found boxes mean.

    Attributes:
        class_of: category id -> class.
        sizes: sample's id -> width and height of its file, whose pixels boxes are in; of samples that are not here the file
            is as large as the sample.
    """

    class_of: Mapping[int, int]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def terms_of(source: Any, classes: Sequence[str]) -> Terms:
    """The terms of a source: the category ids of a COCO file, else the classes counted from 1; sizes where images are resized.

    Args:
        source: settings of the data's source.
        classes: names of the data's classes.

    Raises:
        InputError: a file is gone or damaged.
    """
    counted = {number + 1: number for number in range(len(classes))}
    if not isinstance(source, BoxFiles):
        return Terms(counted)
    files: dict[str, Path] = {}
    if isinstance(source, CocoSource):
        path = Path(source.path).expanduser()
        tree = json_tree(path, f"{KEY}.path")
        counted = dict(categories(tree, path)[1])
        folder = path.parent if source.images is None else Path(source.images).expanduser()
        files = {
            str(one["id"]): folder / str(one.get("file_name"))
            for one in listed(tree, "images", path)
        }
    elif isinstance(source, VocSource | YoloSource):
        images = "JPEGImages" if isinstance(source, VocSource) else "images"
        files = {file.stem: file for file in pictures(Path(source.path).expanduser() / images)}
    if source.size is None:
        return Terms(counted)
    return Terms(counted, {name: size_of(file) for name, file in files.items()})
