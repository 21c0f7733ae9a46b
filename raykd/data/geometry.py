"""What is drawn for some views before any pixel is looked at: small arrays, made on the host.

Where pixels go is an affine map [2, 3] of (x, y, 1), x to the right and y down, in pixels of the upper left corner: the
pixel in column i reaches from i to i + 1. So it maps the corners of boxes, and its inverse maps them back. Everything is
of 64 bits and computed for each sample by itself. Shape suffixes: B samples, M boxes of one, 4 corners (x1, y1, x2, y2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raykd.data.gathering import moved

_FLAT = 1e-12
_STRAIGHT = 1e-9
"""Below this part of a row's largest number an entry of a map counts as 0."""
_LEAST_SIDE = 1.0
"""Pixels that have to be left of a box in both directions; of a smaller one all of it."""
Drawn = dict[str, np.ndarray]
"""What a step has drawn, by name: [B, ...] or [2, B], the samples always last where there are two axes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Geometry:
    """Views of some samples, not yet made.

    Attributes:
        rows: int64 [B], the samples.
        drawn: of each step.
        partners: views of the samples that are blended in, with the steps before the one that blends; None without.
        share_B: float32 [B] in [0, 1], the own share; None without blending.
    """

    rows: np.ndarray
    drawn: tuple[Drawn, ...] = ()
    partners: Geometry | None = None
    share_B: np.ndarray | None = None

    def part(self, some: slice) -> Geometry:
        """The same of some of the samples."""
        return Geometry(
            rows=self.rows[some],
            drawn=tuple({name: a[..., some] for name, a in one.items()} for one in self.drawn),
            partners=None if self.partners is None else self.partners.part(some),
            share_B=None if self.share_B is None else self.share_B[some],
        )


def on_device(drawn: Drawn, device: torch.device) -> dict[str, Tensor]:
    """What a step has drawn as tensors, uint64 as int64 of the same bits; the device is not waited for."""
    return {name: moved(_tensor(array), device) for name, array in drawn.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)


class Places(NamedTuple):
    """Where images are in their views.

    Attributes:
        maps_B23: where pixels went, float64 [B, 2, 3].
        seen_B4: corners of the part of each view that shows its image, which a step may have cut and a later one moved on;
            of turned images the box around it. Float64, pixels of the view.
    """

    maps_B23: np.ndarray
    seen_B4: np.ndarray

    def then(self, maps_B23: np.ndarray, size: tuple[int, int]) -> Places:
        """After one more step, whose views are of a size (H, W)."""
        seen_B14 = boxes_cut(
            boxes_moved(self.seen_B4[:, None], maps_B23), whole(len(maps_B23), size)
        )
        return Places(followed_by(self.maps_B23, maps_B23), seen_B14[:, 0])


def unmoved(count: int) -> np.ndarray:
    """Maps, float64 [B, 2, 3], under which everything stays where it is."""
    return np.tile(np.eye(2, 3), (count, 1, 1))


def whole(count: int, size: tuple[int, int]) -> np.ndarray:
    """Corners of whole images of a size (H, W), float64 [B, 4]."""
    return np.tile(np.array([0.0, 0.0, size[1], size[0]]), (count, 1))


def moved_by(
    right_B: np.ndarray,
    down_B: np.ndarray,
    *,
    wide: np.ndarray | float = 1.0,
    high: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Maps, float64 [B, 2, 3], that stretch about the upper left corner and then move, in pixels."""
    maps_B23 = np.zeros((len(right_B), 2, 3))
    maps_B23[:, 0, 0], maps_B23[:, 1, 1] = wide, high
    maps_B23[:, 0, 2], maps_B23[:, 1, 2] = right_B, down_B
    return maps_B23


def turned(cos_B: np.ndarray, sin_B: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps, float64 [B, 2, 3], that turn counter-clockwise about the centre of images of a size (H, W)."""
    linear_B22 = np.array([[cos_B, sin_B], [-sin_B, cos_B]], np.float64).transpose(2, 0, 1)
    centre_2 = np.array([size[1] / 2, size[0] / 2])
    return np.concatenate([linear_B22, (centre_2 - linear_B22 @ centre_2)[:, :, None]], axis=2)


def followed_by(first_B23: np.ndarray, then_B23: np.ndarray) -> np.ndarray:
    """One map after another, float64 [B, 2, 3]."""
    composed_B23: np.ndarray = then_B23[:, :, :2] @ first_B23
    composed_B23[:, :, 2] += then_B23[:, :, 2]
    return composed_B23


def inverse(maps_B23: np.ndarray) -> np.ndarray:
    """The maps back, float64 [B, 2, 3].

    Raises:
        ValueError: there is none, since a map takes the image to a line.
    """
    linear_B22 = maps_B23[:, :, :2]
    if (np.abs(np.linalg.det(linear_B22)) < _FLAT).any():
        raise ValueError("no way back from a map of rank below 2")
    back_B22: np.ndarray = np.linalg.inv(linear_B22)
    return np.concatenate([back_B22, -back_B22 @ maps_B23[:, :, 2:]], axis=2)


def keeps_boxes(maps_B23: np.ndarray) -> np.ndarray:
    """Which maps leave boxes boxes (moves, flips, stretches and quarter turns), so that they come back as they were, bool [B]."""
    size_B22 = np.abs(maps_B23[:, :, :2])
    there_B22 = size_B22 > _STRAIGHT * size_B22.max(axis=2, keepdims=True)
    kept_B: np.ndarray = (there_B22.sum(axis=2) == 1).all(axis=1)
    return kept_B


def boxes_moved(boxes_BM4: np.ndarray, maps_B23: np.ndarray) -> np.ndarray:
    """Boxes of images where their maps take them, float64 [B, M, 4]; not cut at the border.

    Under a map that turns by less than a quarter it is the smallest box around the turned one, which is larger.

    Args:
        boxes_BM4: corners in pixels.
        maps_B23: of each image.
    """
    x1, y1, x2, y2 = np.moveaxis(boxes_BM4.astype(np.float64), -1, 0)
    corners = ((x1, y1), (x2, y1), (x1, y2), (x2, y2))
    (a, b, right), (c, d, down) = maps_B23.transpose(1, 2, 0)[..., None]
    # One operation after another of single numbers: a product of matrices rounds as the size of the batch has it.
    x_4BM = np.stack([a * x + b * y + right for x, y in corners])
    y_4BM = np.stack([c * x + d * y + down for x, y in corners])
    return np.stack([x_4BM.min(0), y_4BM.min(0), x_4BM.max(0), y_4BM.max(0)], axis=-1)


def boxes_cut(boxes_BM4: np.ndarray, seen_B4: np.ndarray) -> np.ndarray:
    """Boxes cut at what is seen of each image; one that is outside has no area afterwards."""
    least_B14, most_B14 = seen_B4[:, None, [0, 1, 0, 1]], seen_B4[:, None, [2, 3, 2, 3]]
    cut_BM4: np.ndarray = np.clip(boxes_BM4, least_B14, most_B14)
    return cut_BM4


def visible_share(boxes_BM4: np.ndarray, cut_BM4: np.ndarray) -> np.ndarray:
    """The part of each box's area that is left within the image, [B, M] in [0, 1]; 0 where less than a pixel across is left.

    Args:
        boxes_BM4: before the cut.
        cut_BM4: after it.
    """
    before_BM2, after_BM2 = (one[..., 2:] - one[..., :2] for one in (boxes_BM4, cut_BM4))
    seen_BM = after_BM2.prod(axis=-1) / np.maximum(before_BM2.prod(axis=-1), _FLAT)
    least_BM2 = np.minimum(before_BM2, _LEAST_SIDE) - _FLAT
    share_BM: np.ndarray = np.where((after_BM2 >= least_BM2).all(axis=-1), seen_BM, 0.0)
    return share_BM


def carried(from_B23: np.ndarray, to_B23: np.ndarray) -> np.ndarray:
    """Maps from one view of images to another, float64 [B, 2, 3], so that boxes found in the one are boxes of the other.

    Args:
        from_B23: where pixels went in the view that boxes are known in.
        to_B23: where they go in the other.

    Raises:
        ValueError: the first view turned its image, so that a box in it is larger than the one that it was.
    """
    if not keeps_boxes(from_B23).all():
        raise ValueError(
            "boxes do not come back through a turn that is no quarter turn; what is known of such a view serves it alone"
        )
    return followed_by(inverse(from_B23), to_B23)
