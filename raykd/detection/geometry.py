"""Moves of an image as matrices, what they do to its boxes, and how boxes come back.

A geometry is a matrix [2, 3] (or one for each image, [B, 2, 3]) that takes a point (x, y) of the image before to
`A @ (x, y) + t` of the image after. Floats of 64 bits, so that there and back are exact to 1e-5 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DTYPE = torch.float64
_STRAIGHT = 1e-9
"""Below this part of a row's largest number an entry counts as 0."""


def identity() -> Tensor:
    """Everything stays where it is."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=_DTYPE)


def shifted(x: float, y: float) -> Tensor:
    """`x` pixels to the right and `y` down, as `shift` and `pad_crop` move images."""
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y]], dtype=_DTYPE)


def flipped(width: float) -> Tensor:
    """Left and right changed over in an image of this width."""
    return torch.tensor([[-1.0, 0.0, width], [0.0, 1.0, 0.0]], dtype=_DTYPE)


def cropped(box_4: Tensor, *, height: float, width: float) -> Tensor:
    """The part of an image within a box, resized to `height` × `width`.

    Raises:
        ValueError: the box has no area.
    """
    x1, y1, x2, y2 = box_4.to(_DTYPE).tolist()
    if not (x2 > x1 and y2 > y1):
        raise ValueError(f"a crop needs a box with an area, found ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
    across, down = width / (x2 - x1), height / (y2 - y1)
    return torch.tensor([[across, 0.0, -across * x1], [0.0, down, -down * y1]], dtype=_DTYPE)


def then(first: Tensor, second: Tensor) -> Tensor:
    """One geometry after another, as one: [..., 2, 3]."""
    turned = second[..., :2] @ first[..., :2]
    moved = second[..., :2] @ first[..., 2:] + second[..., 2:]
    return torch.cat([turned, moved], dim=-1)


def inverse(geometry: Tensor) -> Tensor:
    """The way back, [..., 2, 3].

    Raises:
        ValueError: there is none, since the geometry maps the image to a line.
    """
    matrix = geometry[..., :2].to(_DTYPE)
    if bool((torch.linalg.det(matrix).abs() < 1e-12).any()):
        raise ValueError(f"no way back from a geometry of rank below 2: {geometry.tolist()}")
    back = torch.linalg.inv(matrix)
    return torch.cat([back, -back @ geometry[..., 2:].to(_DTYPE)], dim=-1)


def keeps_boxes(geometry: Tensor) -> bool:
    """Whether boxes stay boxes (shifts, flips, scales and quarter turns), so that they come back as they were."""
    size = geometry[..., :2].abs()
    there = size > _STRAIGHT * size.amax(dim=(-2, -1), keepdim=True)
    return bool((there.sum(-1) == 1).all())


def moved(boxes_N4: Tensor, geometry: Tensor) -> Tensor:
    """Boxes of the image before as boxes of the image after; not clipped.

    Under a geometry that turns by less than a quarter it is the smallest box around the turned one.

    Args:
        boxes_N4: [..., N, 4].
        geometry: [2, 3], or [B, 2, 3] with boxes [B, N, 4].

    Returns:
        [..., N, 4], of the boxes' type.
    """
    x1, y1, x2, y2 = boxes_N4.to(_DTYPE).unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x1, y2, x2, y2], dim=-1).unflatten(-1, (4, 2))
    matrix = geometry.to(_DTYPE)[..., None, :, :]
    points = corners @ matrix[..., :2].mT + matrix[..., 2:].mT
    return torch.cat([points.amin(-2), points.amax(-2)], dim=-1).to(boxes_N4.dtype)


def moved_back(boxes_N4: Tensor, geometry: Tensor) -> Tensor:
    """Boxes of the image after as boxes of the image before.

    Raises:
        ValueError: the geometry turns boxes into what is no box, so that they would grow on the way back.
    """
    if not keeps_boxes(geometry):
        raise ValueError(
            "boxes do not come back through a turn that is no quarter turn; answers about such a view serve that view alone"
        )
    return moved(boxes_N4, inverse(geometry))


def visible(
    boxes_N4: Tensor, clipped_N4: Tensor, *, least_share: float = 0.25, least_side: float = 1.0
) -> Tensor:
    """Which boxes are still to be found after a move and a cut at the border, bool [N].

    Args:
        boxes_N4: after the move.
        clipped_N4: the same, cut at the border.
        least_share: of a box's area that has to be left.
        least_side: in pixels, of what is left.
    """
    before, after = ((one[..., 2:] - one[..., :2]).clamp(min=0) for one in (boxes_N4, clipped_N4))
    share = after.prod(-1) / before.prod(-1).clamp(min=1e-12)
    return (share >= least_share) & (after >= least_side).all(-1)
