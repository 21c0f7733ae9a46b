"""Teachers of independent yes-or-no labels, mixed.

Shape suffixes: N units, T teachers, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raykd.ensemble.combine import mean_probabilities


def mean_label_probabilities(
    logits_TNK: Tensor, weights_TN: Tensor, *, temperatures_T: Tensor | float = 1.0
) -> Tensor:
    """Log-odds of the weighted mean of the teachers' label probabilities.

    log(p̄ / (1 − p̄)), p̄ = Σ_t w_t σ(z_t / T_t); exact at any logits.

    Args:
        logits_TNK: teachers' label logits.
        weights_TN: weights, summing to 1 over teachers.
        temperatures_T: T > 0, a number or [T].

    Returns:
        log_odds_NK, finite; 0 for a unit without any weight.

    Raises:
        ValueError: shapes that do not match.
    """
    labels = logits_TNK.shape[-1]
    pairs = torch.stack([logits_TNK, torch.zeros_like(logits_TNK)], dim=-1).flatten(1, 2)
    mixed = mean_probabilities(
        pairs, weights_TN.repeat_interleave(labels, dim=1), temperatures_T=temperatures_T
    )
    return (mixed[:, 0] - mixed[:, 1]).reshape(-1, labels)
