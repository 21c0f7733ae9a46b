"""What is drawn for some views before any pixel is looked at: small arrays, made on the host.

Where pixels go is an affine map [2, 3] of (x, y, 1), x to the right and y down, in pixels of the upper left corner: the
pixel in column i reaches from i to i + 1. So it maps the corners of boxes. Shape suffixes: B samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raykd.data.gathering import moved

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
    """The maps back, float64 [B, 2, 3]."""
    linear_B22: np.ndarray = np.linalg.inv(maps_B23[:, :, :2])
    return np.concatenate([linear_B22, -linear_B22 @ maps_B23[:, :, 2:]], axis=2)
