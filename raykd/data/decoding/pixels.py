"""From what a source holds to decoded samples; what cannot be decoded is told, and left at zero.

Shapes: B samples of a block, D numbers of a sample.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from raykd.data.decoding.layout import Layout

Decoded = tuple[np.ndarray, dict[int, str]]
"""Samples [B, ...], and place in the block -> what is wrong with a sample."""
BREAKS = (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""


def decode_images(encoded: Sequence[bytes | None], layout: Layout) -> Decoded:
    """Images [B, C, H, W] of encoded ones; None is a sample without an image."""
    images = np.zeros((len(encoded), *layout.shape), dtype=layout.dtype)
    bad = {}
    for place, payload in enumerate(encoded):
        try:
            image = decode_image(payload, layout.mode, layout.size)
        except BREAKS as error:
            bad[place] = f"{error}".split("<")[0].strip() or type(error).__name__
            continue
        if image.shape == layout.shape:
            images[place] = image
        else:
            found, wanted = (f"{shape[2]}×{shape[1]}" for shape in (image.shape, layout.shape))
            bad[place] = f"is {found} pixels, others are {wanted}; set data.source.size"
    return images, bad


def decode_image(payload: bytes | None, mode: str | None, size: int | None) -> np.ndarray:
    """One image, uint8 [C, H, W].

    Raises:
        OSError, ValueError, SyntaxError, EOFError, IndexError, DecompressionBombError: it is damaged.
    """
    if payload is None:
        raise ValueError("has no image")
    with Image.open(io.BytesIO(payload)) as opened:
        image: Image.Image = opened.convert(mode)
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == len(("H", "W")) else pixels.transpose(2, 0, 1)


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size` pixels, the central square cropped."""
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode_numbers(columns: Sequence[Any], layout: Layout) -> Decoded:
    """Samples of one column of lists or tensors, or of several columns of numbers (pyarrow arrays)."""
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and told below
        if len(columns) == 1 and _is_nested(columns[0]):
            values, bad = _nested(columns[0], layout)
        else:
            every = [column.cast("float64").to_numpy(zero_copy_only=False) for column in columns]
            values, bad = np.stack(every, axis=1).astype(layout.dtype), {}
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for place in np.flatnonzero(~finite).tolist():
            bad.setdefault(place, "has NaN, infinity or no value")
            values[place] = 0
    return values, bad


def _is_nested(column: Any) -> bool:
    return hasattr(column, "storage") or hasattr(column, "flatten")


def _nested(column: Any, layout: Layout) -> Decoded:
    """Lists of one length, or tensors."""
    column = getattr(column, "storage", column)
    width = int(np.prod(layout.shape))
    flat = column.flatten()
    if not column.null_count and len(flat) == width * len(column) and _even(column, width):
        numbers = flat.to_numpy(zero_copy_only=False).astype(layout.dtype)
        return numbers.reshape(len(column), *layout.shape), {}
    values, bad = np.zeros((len(column), width), dtype=layout.dtype), {}
    for place, row in enumerate(column):
        found = row.as_py()
        if found is not None and len(found) == width:
            values[place] = found
        else:
            bad[place] = (
                "has no value" if found is None else f"has {len(found)} numbers, not {width}"
            )
    return values.reshape(len(column), *layout.shape), bad


def _even(column: Any, width: int) -> bool:
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    return bool((lengths == width).all())
