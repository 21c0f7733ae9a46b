"""How alike the features of two models are.

Shapes: N samples, D and E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 4


def debiased_cka(one: Tensor, other: Tensor) -> float | None:
    """Linear centred kernel alignment of features, with the unbiased estimator of HSIC.

    HSIC₁(K, L) = [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((N−1)(N−2)) − 2·1ᵀK̃L̃1/(N−2)] / (N(N−3)), K̃ being K = XXᵀ with a diagonal of
    zeros (Song et al. 2012, "Feature selection via dependence maximization"; Nguyen et al. 2021, "Do wide and deep
    networks learn the same things?", Eq. 3); CKA = HSIC₁(K, L) / √(HSIC₁(K, K)·HSIC₁(L, L)). Computed as the inner
    product of U-centred matrices, which is the same (Székely & Rizzo 2014, "Partial distance correlation").

    The biased estimator (Kornblith et al. 2019) finds likeness in noise where there are few samples.

    Args:
        one: [N, ...], features of the samples.
        other: [N, ...], those of the same samples.

    Returns:
        At most 1; 1 for features that differ by a rotation and a factor, about 0 for independent ones, below 0 by
        chance. None for fewer than 4 samples, and for features that are the same on all samples.

    Raises:
        ValueError: another number of samples on either side.
    """
    if len(one) != len(other):
        raise ValueError(
            f"features of the same samples are needed, found {len(one)} and {len(other)}"
        )
    if len(one) < _LEAST:
        return None
    first, second = _centred_gram(one), _centred_gram(other)
    size = float(first.norm() * second.norm())
    return float((first * second).sum()) / size if size > 0 else None


def _centred_gram(features: Tensor) -> Tensor:
    """XXᵀ without its diagonal, U-centred: float64 [N, N], its rows summing to 0; zeros where all rows are equal."""
    flat_ND = features.detach().flatten(1).cpu().double()
    samples = len(flat_ND)
    if bool((flat_ND == flat_ND[0]).all()):
        return torch.zeros(samples, samples, dtype=torch.float64)
    flat_ND = flat_ND - flat_ND.mean(dim=0)
    gram_NN = (flat_ND @ flat_ND.T).fill_diagonal_(0.0)
    row_N = gram_NN.sum(dim=1) / (samples - 2)
    mean = gram_NN.sum() / ((samples - 1) * (samples - 2))
    return (gram_NN - row_N[:, None] - row_N[None, :] + mean).fill_diagonal_(0.0)
