"""Image folders, and how encoded images are decoded, whatever they lie in.

Shapes: B samples of a block.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raykd.config.sources import FilesSource, ImagesSource, ObjectSource
from raykd.data.decoding.layout import (
    IMAGES,
    KEY,
    Decoded,
    Index,
    Layout,
    Required,
    Spans,
    list_files,
    span_parts,
)
from raykd.errors import DataError, InputError, Problem, refuse

FOLDER = "folder"
"""Column of an image folder: the first folder of each path or, where that is a part (`train/`), the second."""
_BREAKS = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises for damaged files, and for those of more pixels than its limit."""
_TRIED = 16
_CHANNELS = {"RGB": 3, "L": 1}
_TO_BYTES = 65_535 / 255
_OF_16_BITS = ("PNG", "PPM")
"""Formats whose 16 bits Pillow may give as 32."""
_UNSCALED = {"I": "32-bit or signed whole numbers", "F": "floats"}
_PARTS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""Names of folders that are parts of the data, not classes."""
_NOT_PARTS = (
    "the folders are called like parts (train, val, test), but samples with labels of a table are split by data.splits; name "
    "their part in a column of it, and that column in data.splits.by, to keep them"
)


def index_images(source: ImagesSource, required: Required) -> Index:
    """Every image below a folder.

    Raises:
        InputError: there is none, none can be decoded, or a column is asked for that a folder has not.
    """
    others = "give others by data.source.labels"
    refuse(
        Problem(key, f"found {name!r}; an image folder has the column {FOLDER}; {others}")
        for name, key in required.items()
        if name != FOLDER
    )
    files = list_files(source.path, IMAGES)
    count = len(files)
    spans = Spans(
        tuple(file.path for file in files),
        np.arange(count),
        np.zeros(count, np.int64),
        np.full(count, -1),
    )
    names = [file.name for file in files]
    parts_N = _parts_of(names)
    splits = parts_N if FOLDER in required else None
    below = names if splits is None else [name.partition("/")[2] for name in names]
    loose = [name for name, inner in zip(names, below, strict=True) if "/" not in inner]
    if FOLDER in required and loose:
        where = "" if splits is None else " of their part"
        raise InputError.at(
            required[FOLDER], f"{len(loose)} images lie in no sub-folder{where} (e.g. {loose[0]}), which would be "
            "their class; move them, or give data.source.labels"
        )  # fmt: skip
    folders = pa.array([inner.partition("/")[0] for inner in below])
    layout = span_layout(source, spans)
    parts = span_parts(spans, layout)
    notes = () if parts_N is None or splits is not None else (_NOT_PARTS,)
    return Index(
        pa.array(names), files, layout, parts, {FOLDER: folders}, splits=splits, notes=notes
    )


def _parts_of(names: Sequence[str]) -> Any:
    """The part that each path's first folder says, a pyarrow array; None where they are no parts."""
    firsts = [name.partition("/")[0].lower() for name in names]
    parts = {_PARTS.get(first) for first in firsts}
    if None in parts or "train" not in parts:
        return None
    return pa.array([_PARTS[first] for first in firsts])


def span_layout(source: FilesSource, spans: Spans) -> Layout:
    """How images in files are decoded; as `image_layout`."""
    return image_layout(source, (read_span(spans, row) for row in range(len(spans.file_N))))


def image_layout(source: FilesSource | ObjectSource, encoded: Iterator[bytes | None]) -> Layout:
    """How images are decoded; where no size is given, that of the first one which can be.

    Raises:
        InputError: none of the first ones can be decoded.
    """
    if source.size is not None:
        shape = (_CHANNELS[source.mode], source.size, source.size)
        return Layout("image", shape, "|u1", source.mode, source.size)
    why = "there is none"
    for payload, _ in zip(encoded, range(_TRIED), strict=False):
        try:
            shape = _decode_image(payload, source.mode, None).shape
        except _BREAKS as error:
            why = str(error)
            continue
        return Layout("image", shape, "|u1", source.mode)
    raise InputError.at(
        KEY, f"none of the first {_TRIED} images can be decoded ({why}); mend them, or set data.source.size"
    )  # fmt: skip


def read_span(spans: Spans, row: int) -> bytes:
    """The bytes of a sample.

    Raises:
        DataError: its file cannot be read, or ends before it.
    """
    path = Path(spans.paths[spans.file_N[row]])
    offset, length = int(spans.offset_N[row]), int(spans.length_N[row])
    try:
        with path.open("rb") as file:
            file.seek(offset)
            payload = file.read(length)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read here: {error}; every node needs to see data.source.path"
        ) from error
    if len(payload) < length:
        raise DataError(
            f"{path} ends before byte {offset + length:,}; it was changed meanwhile: start again"
        )
    return payload


def decode_images(encoded: Sequence[bytes | None], layout: Layout) -> Decoded:
    """Images [B, C, H, W] of encoded ones; None is a sample without an image."""
    images = np.zeros((len(encoded), *layout.shape), dtype=layout.dtype)
    bad = {}
    for index, payload in enumerate(encoded):
        try:
            image = _decode_image(payload, layout.mode, layout.size)
        except _BREAKS as error:
            bad[index] = f"{error}".split("<")[0].strip() or type(error).__name__
            continue
        if image.shape == layout.shape:
            images[index] = image
        else:
            found, needed = (f"{shape[2]}×{shape[1]}" for shape in (image.shape, layout.shape))
            bad[index] = f"is {found} pixels, others are {needed}; set data.source.size"
    return images, bad


def _decode_image(payload: bytes | None, mode: str | None, size: int | None) -> np.ndarray:
    """One image, uint8 [C, H, W].

    Raises:
        OSError, ValueError, SyntaxError, EOFError, IndexError: it is damaged.
        DecompressionBombError, DecompressionBombWarning: it has more pixels than `Image.MAX_IMAGE_PIXELS`.
    """
    if payload is None:
        raise ValueError("has no image")
    with _open(payload) as opened:
        image: Image.Image = _of_bytes(opened).convert(mode)
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == len(("H", "W")) else pixels.transpose(2, 0, 1)


def _open(payload: bytes) -> Image.Image:
    """The header of an image; Pillow would only warn of one that has up to twice the pixels of its limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(payload))


def _of_bytes(opened: Image.Image) -> Image.Image:
    """The same image with 8 bits for each value: 16 bits are scaled, so that 65,535 becomes 255.

    Raises:
        ValueError: its values have no fixed white, so that no scale can be known.
    """
    if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in _OF_16_BITS):
        values = np.asarray(opened).astype(np.float64)
        return Image.fromarray(np.rint(values / _TO_BYTES).astype(np.uint8))
    if opened.mode in _UNSCALED:
        raise ValueError(
            f"has {_UNSCALED[opened.mode]}, which have no fixed white; scale it and save it with 8 or 16 bits"
        )
    return opened


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size` pixels, the central square cropped.

    Raises:
        ValueError: it is so narrow that it would have more pixels than Pillow's limit.
    """
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(
            f"is {image.width}×{image.height} pixels, too narrow to be resized to {size}: crop it"
        )
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
