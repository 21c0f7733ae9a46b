"""Overlap of boxes, and how boxes are written.

Shape suffixes: N and M boxes; 4 are the corners (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def areas(boxes_N4: Tensor) -> Tensor:
    """Area of each box [N] in square pixels; that of a box with swapped corners is 0."""
    return (boxes_N4[..., 2:] - boxes_N4[..., :2]).clamp(min=0).prod(-1)


def iou(boxes_N4: Tensor, others_M4: Tensor) -> Tensor:
    """Intersection over union of every box with every other, [..., N, M] in [0, 1]; 0 where both have no area."""
    shared = _shared(boxes_N4[..., :, None, :], others_M4[..., None, :, :])
    union = areas(boxes_N4)[..., :, None] + areas(others_M4)[..., None, :] - shared
    return _ratio(shared, union)


def generalised_iou(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    """Generalised intersection over union of pairs [N] in (−1, 1]: IoU − |C ∖ (A ∪ B)| / |C|.

    C is the smallest box around both. Rezatofighi et al. 2019 (GIoU), algorithm 1.
    """
    shared = _shared(boxes_N4, others_N4)
    union = areas(boxes_N4) + areas(others_N4) - shared
    least = torch.minimum(boxes_N4[..., :2], others_N4[..., :2])
    most = torch.maximum(boxes_N4[..., 2:], others_N4[..., 2:])
    around = areas(torch.cat([least, most], dim=-1))
    return _ratio(shared, union) - _ratio(around - union, around)


def from_corner_and_size(rows_N4: Tensor) -> Tensor:
    """(x1, y1, width, height) as corners: COCO's way of writing."""
    return torch.cat([rows_N4[..., :2], rows_N4[..., :2] + rows_N4[..., 2:]], dim=-1)


def to_corner_and_size(boxes_N4: Tensor) -> Tensor:
    """Corners as (x1, y1, width, height)."""
    return torch.cat([boxes_N4[..., :2], boxes_N4[..., 2:] - boxes_N4[..., :2]], dim=-1)


def from_centre_and_size(rows_N4: Tensor) -> Tensor:
    """(x centre, y centre, width, height) as corners: YOLO's way of writing."""
    half = rows_N4[..., 2:] / 2
    return torch.cat([rows_N4[..., :2] - half, rows_N4[..., :2] + half], dim=-1)


def to_centre_and_size(boxes_N4: Tensor) -> Tensor:
    """Corners as (x centre, y centre, width, height)."""
    least, most = boxes_N4[..., :2], boxes_N4[..., 2:]
    return torch.cat([(least + most) / 2, most - least], dim=-1)


def clipped(boxes_N4: Tensor, *, height: float, width: float) -> Tensor:
    """Boxes cut at the border of their image; one that is outside has no area afterwards."""
    most = boxes_N4.new_tensor([width, height, width, height])
    return torch.minimum(boxes_N4.clamp(min=0), most)


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    least = torch.maximum(boxes[..., :2], others[..., :2])
    most = torch.minimum(boxes[..., 2:], others[..., 2:])
    return (most - least).clamp(min=0).prod(-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where the whole is 0; its gradient is finite there."""
    there = whole > 0
    return torch.where(there, part / torch.where(there, whole, 1.0), 0.0)
