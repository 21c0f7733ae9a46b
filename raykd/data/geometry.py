"""What is drawn for some views before any pixel is looked at: small arrays, made on the host.

Shape suffixes: B samples.
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
