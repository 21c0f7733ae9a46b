"""The mathematics of the view steps: tensor functions of a batch on any device, each sample on its own.

Images are [B, C, H, W] of uint8 or float32. The steps that only move or blank pixels keep uint8, which
is four times less to move; the others return float32. All work is elementwise or a gather, so
that a sample comes out bit-identical in any batch. A step may change the tensor that it is given.

Shape suffixes: B samples, C channels, H height, W width, K numbers of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from raykd.types import TEXT

_UINT8_MAX = 255.0
_BITS = {torch.uint8: torch.uint8, torch.float32: torch.int32}
_LARGE_IMAGE = 2**14
"""Numbers of an image that the CPU copies by itself; smaller ones it copies together, in one call."""
_GOLDEN, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""As of `raykd.data.hashing`, with a sign."""


def kept_dtype(dtype: np.dtype) -> type[np.generic]:
    """What samples of a dtype are held as until a model sees them."""
    if dtype == np.uint8:
        return np.uint8
    return np.float32 if dtype.kind == "f" else np.int64


def to_float(tensor: Tensor, out: Tensor | None = None) -> Tensor:
    """What models see: float32, uint8 scaled from 0..255 to [0, 1]; float32 and int64 as they are.

    Args:
        tensor: any of these three.
        out: where it is written to; None makes room for it where that is needed.
    """
    if tensor.dtype != torch.uint8:
        return tensor if out is None else out.copy_(tensor)
    if out is None:
        out = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
    out.copy_(tensor)
    # By a tensor: a GPU multiplies by the inverse of a plain number, which rounds otherwise.
    return out.div_(torch.full((), _UINT8_MAX, device=out.device))


def as_shown(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What models see of samples at hand, by name: texts as they are, all else by `to_float`."""
    found = {}
    for name, array in inputs.items():
        kept = np.require(array, kept_dtype(array.dtype), ["C", "W"])
        found[name] = array if name == TEXT else to_float(torch.from_numpy(kept)).numpy()
    return found


def chosen(own: Tensor, other: Tensor, here: Tensor) -> Tensor:
    """`other` where `here` (1 or True) says so, else `own`, bit for bit.

    Of bits, and not by `torch.where`: that takes 1 to 10 ns for each byte on a CPU, this a tenth.
    """
    kind = _BITS[own.dtype]
    own_bits, mask = own.view(kind), here.to(kind).neg_()
    bits = other.view(kind) ^ own_bits
    bits &= mask
    bits ^= own_bits
    return bits.view(own.dtype)


def translate(images_BCHW: Tensor, down_B: Tensor, right_B: Tensor, reach: int) -> Tensor:
    """Move each image by whole pixels; what comes in from outside is zero.

    Args:
        images_BCHW: the images.
        down_B: int64 [B] in [−reach, reach], pixels.
        right_B: int64 [B] in [−reach, reach], pixels.
        reach: the largest move, pixels.
    """
    B, C, H, W = images_BCHW.shape
    if images_BCHW.device.type == "cpu" and C * H * W >= _LARGE_IMAGE:
        moved_BCHW = torch.zeros_like(images_BCHW)
        moves = zip(moved_BCHW, images_BCHW, down_B.tolist(), right_B.tolist(), strict=True)
        for moved, image, down, right in moves:
            to_y, from_y = _overlap(down, H)
            to_x, from_x = _overlap(right, W)
            moved[:, to_y, to_x] = image[:, from_y, from_x]
        return moved_BCHW
    padded = images_BCHW.new_zeros(B, C, H + 2 * reach, W + 2 * reach)
    padded[:, :, reach : reach + H, reach : reach + W] = images_BCHW
    _, plane, row, _ = padded.stride()
    # Every window of the size of an image, wherever it begins in memory; one of them for each image.
    begins = padded.numel() - (C - 1) * plane - (H - 1) * row - (W - 1)
    windows = padded.as_strided((begins, C, H, W), (1, plane, row, 1))
    first_B = torch.arange(B, device=padded.device) * (C * plane)
    return windows.index_select(0, first_B + (reach - down_B) * row + (reach - right_B))


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """Where pixels go, and where they come from."""
    return slice(max(move, 0), size + min(move, 0)), slice(max(-move, 0), size + min(-move, 0))


def mirror(images_BCHW: Tensor, mirrored_B: Tensor) -> Tensor:
    """Swap left and right where `mirrored_B` (bool [B]) says so."""
    return chosen(images_BCHW, images_BCHW.flip(-1), mirrored_B[:, None, None, None])


def rotate(images_BCHW: Tensor, cos_B: Tensor, sin_B: Tensor) -> Tensor:
    """Rotate each image counter-clockwise about its centre, bilinear, zeros outside; float32.

    Args:
        images_BCHW: the images.
        cos_B: float32 [B], of the angle.
        sin_B: float32 [B], of the angle.
    """
    B, C, H, W = images_BCHW.shape
    device = images_BCHW.device
    # Room for one pixel before and two behind: coordinates clipped to [−1, H] read zeros there.
    padded = torch.zeros((B, C, H + 3, W + 3), device=device)
    padded[:, :, 1 : H + 1, 1 : W + 1] = to_float(images_BCHW)
    cos_B11, sin_B11 = cos_B[:, None, None], sin_B[:, None, None]
    y_H1 = (torch.arange(H, dtype=torch.float32, device=device) - (H - 1) / 2)[:, None]
    x_1W = (torch.arange(W, dtype=torch.float32, device=device) - (W - 1) / 2)[None, :]
    from_y_BHW = (cos_B11 * y_H1 + sin_B11 * x_1W + (H - 1) / 2).clamp_(-1, H)
    from_x_BHW = (cos_B11 * x_1W - sin_B11 * y_H1 + (W - 1) / 2).clamp_(-1, W)
    top_BHW, left_BHW = from_y_BHW.floor(), from_x_BHW.floor()
    down_B1HW = (from_y_BHW - top_BHW)[:, None]
    right_B1HW = (from_x_BHW - left_BHW)[:, None]
    corner_BHW = (top_BHW.long() + 1) * (W + 3) + left_BHW.long() + 1
    flat, corner_BCP = padded.flatten(2), corner_BHW.flatten(1)[:, None].expand(-1, C, -1)

    def at(offset: int) -> Tensor:
        return flat.gather(2, corner_BCP + offset).view(B, C, H, W)

    upper = at(0) * (1 - right_B1HW) + at(1) * right_B1HW
    lower = at(W + 3) * (1 - right_B1HW) + at(W + 4) * right_B1HW
    return upper * (1 - down_B1HW) + lower * down_B1HW


def boxes(first_2B: Tensor, side_2B: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes, cut off at the border.

    Args:
        first_2B: int64 [2, B], topmost row and leftmost column of each; may lie outside.
        side_2B: int64 [2, B], height and width of each in pixels.
        shape: (H, W).

    Returns:
        uint8 [B, 1, H, W], 1 inside, else 0.
    """
    inside = []
    for first_B, side_B, size in zip(first_2B, side_2B, shape, strict=True):
        pixel_1P = torch.arange(size, device=first_B.device)[None, :]
        here = (pixel_1P >= first_B[:, None]) & (pixel_1P < (first_B + side_B)[:, None])
        inside.append(here.byte())
    inside_B1HW: Tensor = inside[0][:, None, :, None] * inside[1][:, None, None, :]
    return inside_B1HW


def blanked(images_BCHW: Tensor, here_B1HW: Tensor) -> Tensor:
    """Zeros where `here_B1HW` is 1 (uint8), else the images."""
    kind = _BITS[images_BCHW.dtype]
    kept = here_B1HW.to(kind).sub(1)  # all bits, or none
    return (images_BCHW.view(kind) & kept).view(images_BCHW.dtype)


def mixup(own: Tensor, partner: Tensor, share_B: Tensor) -> Tensor:
    """Blend: share · own + (1 − share) · partner (Zhang et al. 2018, equation 1), float32.

    Args:
        own: [B, ...].
        partner: [B, ...].
        share_B: float32 [B] in [0, 1].
    """
    share = share_B.view(-1, *(1,) * (own.ndim - 1))
    return to_float(own).mul_(share).add_(to_float(partner).mul_(1 - share))


def noisy(values: Tensor, stream_B: Tensor, std: float) -> Tensor:
    """Add normal numbers, float32.

    Args:
        values: [B, ...].
        stream_B: int64 [B], the bits of where each sample's stream starts.
        std: their standard deviation.
    """
    normal_BK = _normals(stream_B, math.prod(values.shape[1:]))
    return to_float(values).add(normal_BK.mul_(std).view(values.shape))


def _normals(stream_B: Tensor, count: int) -> Tensor:
    """The first `count` standard normal numbers of each stream, float32 [B, K].

    Box and Muller (1958), equation 2: one 64-bit number makes two uniform ones, these two normal.
    """
    counter_K = torch.arange(1, (count + 1) // 2 + 1, device=stream_B.device) * _GOLDEN
    bits_BK = _mixed(stream_B[:, None] + counter_K)
    high_BK, low_BK = _logical_shift(bits_BK, 32).double(), (bits_BK & 0xFFFFFFFF).double()
    radius_BK = high_BK.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle_BK = low_BK.add_(0.5).mul_(2.0 * math.pi * 2.0**-32)
    pairs = radius_BK * angle_BK.cos(), radius_BK * angle_BK.sin()
    return torch.cat([pair.float() for pair in pairs], dim=1)[:, :count].contiguous()


def _mixed(bits: Tensor) -> Tensor:
    """`raykd.data.hashing.mix` of int64, whose products wrap as those of uint64."""
    bits = (bits ^ _logical_shift(bits, 30)) * _FIRST
    bits = (bits ^ _logical_shift(bits, 27)) * _SECOND
    return bits ^ _logical_shift(bits, 31)


def _logical_shift(bits: Tensor, places: int) -> Tensor:
    return (bits >> places) & ((1 << (64 - places)) - 1)
