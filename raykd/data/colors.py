"""Colours of images, float32 [B, C, H, W] in [0, 1]; red, green, blue where they have three channels.

The definitions are those of Pillow and torchvision. Sums over pixels are of whole numbers, so that they depend neither on
the batch nor on threads. Factors are [B, 1, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)
"""ITU-R BT.601."""
_STEPS = 2.0**24
"""Shades that a sum tells apart."""


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black and away from it."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean grey and away from it."""
    grey_B1HW = _grey(images)
    total_B = (grey_B1HW * _STEPS).round_().long().sum(dim=(1, 2, 3))
    pixels = grey_B1HW[0].numel()
    mean = (total_B.double() / (_STEPS * pixels)).float()[:, None, None, None]
    return _blend(images, mean, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards each pixel's grey and away from it."""
    return _blend(images, _grey(images), factor)


def hue(images_B3HW: Tensor, turn: Tensor) -> Tensor:
    """Turn all hues by a part of the circle, [B, 1, 1, 1] in [−0.5, 0.5]; an image that is not turned stays as it is."""
    red, green, blue = images_B3HW.split(1, dim=1)
    value = images_B3HW.amax(dim=1, keepdim=True)
    spread = value - images_B3HW.amin(dim=1, keepdim=True)
    divisor = torch.where(spread == 0, 1.0, spread)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    sixth = (sixth + 6.0 * turn).remainder(6.0)
    # Smith 1978, written for one channel: value minus spread, but for two sixths about the channel's own hue.
    parts = []
    for own in (5.0, 3.0, 1.0):
        from_own = (sixth + own).remainder(6.0)
        parts.append(value - spread * torch.minimum(from_own, 4.0 - from_own).clamp_(0, 1))
    return torch.where(turn == 0, images_B3HW, torch.cat(parts, dim=1))


def _grey(images: Tensor) -> Tensor:
    """[B, 1, H, W]."""
    if images.shape[1] != len(_GREY):
        return images[:, :1]
    red, green, blue = images.split(1, dim=1)
    grey_B1HW: Tensor = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    return grey_B1HW


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + (1.0 - factor) * other).clamp_(0, 1)


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
"""In the order in which they are made."""
