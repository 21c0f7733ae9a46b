"""The scale of one teacher's tokens, fitted once on training samples: global, or PHI-S.

A student's heads learn y = (x − μ)/φ (global) or y = W (x − μ) (PHI-S, see `raykd.models.phis`), φ² = trace of the
covariance / D. μ, φ and W are of training tokens and stay as they are: nothing of a batch is in a target, so that it is
the same in any batch, epoch and run, and can be made of what is stored. (UNIC standardises with moving statistics of
the batches before, DUNE with those of the batch at hand.)

Shape suffixes: N tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.models.phis import fit_phis

Kind = Literal["global", "phis"]
LEAST_TOKENS_PER_CHANNEL = 10
"""Tokens that are to be had for each channel, where there are so many."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenScale:
    """The scale of one teacher's tokens of one kind.

    Attributes:
        mean_D: μ, float64.
        matrix_DD: W, float64; None = I/φ.
        phi: φ > 0.
        cosine_spread: mean of 1 − cos over pairs of scaled tokens, in (0, 2].
        smooth_l1_spread: mean smooth L1 distance of a scaled token from the mean, above 0.
    """

    mean_D: Tensor
    matrix_DD: Tensor | None
    phi: float
    cosine_spread: float
    smooth_l1_spread: float

    def __call__(self, features: Tensor) -> Tensor:
        """Features [B, D], [B, L, D] or [B, D, H, W] in the scaled space, in their own precision."""
        matrix_DD = None if self.matrix_DD is None else self.matrix_DD.to(features)
        return at_scale(features, self.mean_D.to(features), matrix_DD, self.phi)

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, to be kept and to be told apart."""
        numbers = torch.tensor([self.phi, self.cosine_spread, self.smooth_l1_spread]).double()
        more = {} if self.matrix_DD is None else {"matrix": self.matrix_DD}
        return {"mean": self.mean_D, "numbers": numbers, **more}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> TokenScale:
        """What `tensors` gave."""
        phi, cosine, smooth = tensors["numbers"].tolist()
        return cls(
            mean_D=tensors["mean"],
            matrix_DD=tensors.get("matrix"),
            phi=phi,
            cosine_spread=cosine,
            smooth_l1_spread=smooth,
        )


def at_scale(features: Tensor, mean_D: Tensor, matrix_DD: Tensor | None, phi: float) -> Tensor:
    """Features [B, D], [B, L, D] or [B, D, H, W] in the scaled space of μ, W (None = I/φ) and φ."""
    is_map = features.ndim == 4
    offset = (features.movedim(1, -1) if is_map else features) - mean_D
    scaled = offset / phi if matrix_DD is None else offset @ matrix_DD.T
    return scaled.movedim(-1, 1) if is_map else scaled


def tokens_of(features: Tensor) -> Tensor:
    """All tokens or positions of features [B, D], [B, L, D] or [B, D, H, W], one a row [N, D]."""
    if features.ndim == 4:
        features = features.movedim(1, -1)
    return features.reshape(-1, features.shape[-1])


def fit_scale(tokens_ND: Tensor, kind: Kind) -> TokenScale:
    """The scale of a teacher's tokens.

    Args:
        tokens_ND: of training samples; at least 10·D rows are advisable.
        kind: which one.

    Raises:
        ValueError: not [N, D] with N ≥ 2, values that are not finite, or tokens that do not vary.
    """
    fitted = fit_phis(tokens_ND)
    bare = TokenScale(
        mean_D=fitted.mean_D,
        matrix_DD=fitted.matrix_DD if kind == "phis" else None,
        phi=fitted.phi,
        cosine_spread=1.0,
        smooth_l1_spread=1.0,
    )
    scaled_ND = bare(tokens_ND.double())
    count = len(scaled_ND)
    # The mean cosine over pairs i ≠ j, from the sum of all unit vectors.
    units_ND = F.normalize(scaled_ND, dim=1)
    pairs = float((units_ND.sum(0).square().sum() - units_ND.square().sum()) / (count * (count - 1)))  # fmt: skip
    smooth = F.smooth_l1_loss(scaled_ND, torch.zeros_like(scaled_ND))
    return TokenScale(
        mean_D=bare.mean_D,
        matrix_DD=bare.matrix_DD,
        phi=bare.phi,
        cosine_spread=max(1 - pairs, torch.finfo(torch.float32).eps),
        smooth_l1_spread=float(smooth),
    )


def unfitted(width: int) -> TokenScale:
    """A scale that changes nothing, where there are no tokens yet."""
    return TokenScale(
        mean_D=torch.zeros(width, dtype=torch.float64),
        matrix_DD=None,
        phi=1.0,
        cosine_spread=1.0,
        smooth_l1_spread=1.0,
    )
