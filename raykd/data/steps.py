"""The mathematics of the view steps: array functions of a batch, each sample on its own.

Images are [B, C, H, W] of uint8 or float32. The steps that only move or blank pixels keep uint8, which
is four times less to move; the others return float32. All work is elementwise or a gather, so
that a sample comes out bit-identical in any batch.

Shape suffixes: B samples, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raykd.types import TEXT

_UINT8_MAX = np.float32(255)


def to_float(array: np.ndarray) -> np.ndarray:
    """What models see: float32, uint8 scaled from 0..255 to [0, 1]; integers become int64."""
    if array.dtype == np.uint8:
        scaled: np.ndarray = np.divide(array, _UINT8_MAX, dtype=np.float32)
        return scaled
    dtype = np.float32 if array.dtype.kind == "f" else np.int64
    return array.astype(dtype, copy=False)


def as_shown(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What models see of samples, by name: texts as they are, all else by `to_float`."""
    return {n: array if n == TEXT else to_float(array) for n, array in inputs.items()}


def translate(
    images_BCHW: np.ndarray, down_B: np.ndarray, right_B: np.ndarray, reach: int
) -> np.ndarray:
    """Move each image by whole pixels; what comes in from outside is zero.

    Args:
        images_BCHW: the images.
        down_B: int64 [B] in [−reach, reach], pixels.
        right_B: int64 [B] in [−reach, reach], pixels.
        reach: the largest move, pixels.
    """
    B, C, H, W = images_BCHW.shape
    padded = np.zeros((B, C, H + 2 * reach, W + 2 * reach), dtype=images_BCHW.dtype)
    padded[:, :, reach : reach + H, reach : reach + W] = images_BCHW
    windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(2, 3))
    moved: np.ndarray = windows[np.arange(B), :, reach - down_B, reach - right_B]
    return moved


def mirror(images_BCHW: np.ndarray, mirrored_B: np.ndarray) -> np.ndarray:
    """Swap left and right where `mirrored_B` (bool [B]) says so."""
    return np.where(mirrored_B[:, None, None, None], images_BCHW[..., ::-1], images_BCHW)


def rotate(images_BCHW: np.ndarray, radians_B: np.ndarray) -> np.ndarray:
    """Rotate each image counter-clockwise about its centre, bilinear, zeros outside; float32.

    Args:
        images_BCHW: the images.
        radians_B: float64 [B].
    """
    B, C, H, W = images_BCHW.shape
    # Room for one pixel before and two behind: coordinates clipped to [−1, H] read zeros there.
    padded = np.zeros((B, C, H + 3, W + 3), dtype=np.float32)
    padded[:, :, 1 : H + 1, 1 : W + 1] = to_float(images_BCHW)
    cos_B11 = np.cos(radians_B).astype(np.float32)[:, None, None]
    sin_B11 = np.sin(radians_B).astype(np.float32)[:, None, None]
    y_H1 = (np.arange(H, dtype=np.float32) - np.float32((H - 1) / 2))[:, None]
    x_1W = (np.arange(W, dtype=np.float32) - np.float32((W - 1) / 2))[None, :]
    from_y_BHW = cos_B11 * y_H1 + sin_B11 * x_1W + np.float32((H - 1) / 2)
    from_x_BHW = cos_B11 * x_1W - sin_B11 * y_H1 + np.float32((W - 1) / 2)
    np.clip(from_y_BHW, -1, H, out=from_y_BHW)
    np.clip(from_x_BHW, -1, W, out=from_x_BHW)
    top_BHW, left_BHW = np.floor(from_y_BHW), np.floor(from_x_BHW)
    down_B1HW = (from_y_BHW - top_BHW)[:, None]
    right_B1HW = (from_x_BHW - left_BHW)[:, None]
    corner_BHW = (top_BHW.astype(np.int64) + 1) * (W + 3) + left_BHW.astype(np.int64) + 1
    plane_BC11 = (np.arange(B * C) * ((H + 3) * (W + 3))).reshape(B, C, 1, 1)
    corner_BCHW = plane_BC11 + corner_BHW[:, None]
    flat = padded.reshape(-1)
    upper = flat[corner_BCHW] * (1 - right_B1HW) + flat[corner_BCHW + 1] * right_B1HW
    corner_BCHW += W + 3
    lower = flat[corner_BCHW] * (1 - right_B1HW) + flat[corner_BCHW + 1] * right_B1HW
    rotated: np.ndarray = upper * (1 - down_B1HW) + lower * down_B1HW
    return rotated


def boxes(
    centre_y_B: np.ndarray, centre_x_B: np.ndarray, side_2B: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Boxes about the given centres, cut off at the border.

    Args:
        centre_y_B: float64 [B] in (0, 1), part of the height.
        centre_x_B: float64 [B] in (0, 1), part of the width.
        side_2B: int64 [2, B], height and width of each box in pixels.
        shape: (H, W).

    Returns:
        bool [B, H, W], True inside.
    """
    inside = []
    for centre_B, side_B, size in zip((centre_y_B, centre_x_B), side_2B, shape, strict=True):
        first_B = (centre_B * size).astype(np.int64) - side_B // 2
        pixel_1P = np.arange(size)[None, :]
        inside.append((pixel_1P >= first_B[:, None]) & (pixel_1P < (first_B + side_B)[:, None]))
    inside_BHW: np.ndarray = inside[0][:, :, None] & inside[1][:, None, :]
    return inside_BHW


def cutout(
    images_BCHW: np.ndarray, centre_y_B: np.ndarray, centre_x_B: np.ndarray, side: int
) -> np.ndarray:
    """Blank a square about each centre (parts of the height and width); it may reach over the border."""
    B, _, H, W = images_BCHW.shape
    box_BHW = boxes(centre_y_B, centre_x_B, np.full((2, B), side), (H, W))
    return np.where(box_BHW[:, None], images_BCHW.dtype.type(0), images_BCHW)


def beta_share(alpha: float, uniform_B: np.ndarray) -> np.ndarray:
    """Beta(alpha, alpha) by inversion: float64 [B] in [0, 1] from uniform numbers."""
    from scipy.special import betaincinv  # it takes a while to import

    share_B: np.ndarray = betaincinv(alpha, alpha, uniform_B)
    return share_B


def mixup(own: np.ndarray, partner: np.ndarray, share_B: np.ndarray) -> np.ndarray:
    """Blend: share · own + (1 − share) · partner (Zhang et al. 2018, equation 1), float32.

    Args:
        own: [B, ...].
        partner: [B, ...].
        share_B: float32 [B] in [0, 1].
    """
    share = share_B.reshape(-1, *(1,) * (own.ndim - 1))
    blended: np.ndarray = share * to_float(own) + (1 - share) * to_float(partner)
    return blended


def cutmix(
    own_BCHW: np.ndarray,
    partner_BCHW: np.ndarray,
    share_B: np.ndarray,
    centre_y_B: np.ndarray,
    centre_x_B: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a box of the partner's image (Yun et al. 2019, equations 1 and 2).

    Args:
        own_BCHW: the images.
        partner_BCHW: their partners.
        share_B: float64 [B], the wanted share of the own image; the box has √(1 − share) of each side.
        centre_y_B: float64 [B] in (0, 1), part of the height.
        centre_x_B: float64 [B] in (0, 1), part of the width.

    Returns:
        The images, and the share that the cut-off box leaves, float32 [B].
    """
    H, W = own_BCHW.shape[2:]
    side_B = np.sqrt(1.0 - share_B)
    side_2B = np.stack([(side_B * H).astype(np.int64), (side_B * W).astype(np.int64)])
    box_BHW = boxes(centre_y_B, centre_x_B, side_2B, (H, W))
    left_B = 1.0 - box_BHW.sum(axis=(1, 2)) / (H * W)
    return np.where(box_BHW[:, None], partner_BCHW, own_BCHW), left_B.astype(np.float32)
