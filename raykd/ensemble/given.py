"""Weightings by numbers known beforehand: equal, given, by accuracy, by inverse error.

Shape suffixes: N units, T teachers, C classes. Every weighting takes the keywords of
`common.Common` and returns non-negative, detached weights [T, N] that sum to 1 over the teachers
that answered (all 0 where nobody did).
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from raykd.ensemble.common import Common, gather_evidence, per_teacher
from raykd.types import host_sees


def uniform(logits_TNC: Tensor, labels_N: Tensor | None = None, **more: Unpack[Common]) -> Tensor:
    """Equal weights, w_k = 1/K over the K teachers that answered. You et al. 2017.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: shapes that do not belong together.
    """
    return gather_evidence("uniform", logits_TNC, labels_N, more).uniform()


def fixed(
    logits_TNC: Tensor, labels_N: Tensor | None = None, *, weights: Tensor, **more: Unpack[Common]
) -> Tensor:
    """Given weights, normalised over the teachers that answered.

    Where only teachers of weight 0 answered, they count equally.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        weights: [T], at least 0, not all 0.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: negative or missing weights, all weights 0, or shapes that do not match.
    """
    evidence = gather_evidence("fixed", logits_TNC, labels_N, more)
    weights_T1 = per_teacher("weights", weights, evidence)
    if host_sees(weights) and not bool(weights.any()):
        raise ValueError("weights must not all be 0")
    return evidence.normalised(weights_T1)


def accuracy(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    accuracies: Tensor,
    power: float = 1.0,
    **more: Unpack[Common],
) -> Tensor:
    """Weights in proportion to a power of each teacher's validation accuracy, w_k ∝ a_k^power.

    The accuracies must come from data that the teachers were not trained on.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        accuracies: [T], at least 0.
        power: 0 gives equal weights, larger values favour the best teacher.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: negative accuracies or power, or shapes that do not match.
    """
    evidence = gather_evidence("accuracy", logits_TNC, labels_N, more)
    accuracies_T1 = per_teacher("accuracies", accuracies, evidence)
    if power < 0:
        raise ValueError(f"power must be at least 0, found {power}")
    return evidence.normalised(accuracies_T1**power)


def inverse_error(
    logits_TNC: Tensor, labels_N: Tensor | None = None, *, errors: Tensor, **more: Unpack[Common]
) -> Tensor:
    """Weights in inverse proportion to each teacher's validation error, w_k ∝ 1/e_k.

    For regressors, with e the mean squared error: the best weights where errors are independent.

    Args:
        logits_TNC: teachers' values [T, N, D] (only their shape counts).
        labels_N: not used.
        errors: [T], above 0, from data that the teachers were not trained on.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: an error that is not above 0, or shapes that do not match.
    """
    evidence = gather_evidence("inverse_error", logits_TNC, labels_N, more)
    errors_T1 = per_teacher("errors", errors, evidence)
    if host_sees(errors) and not bool((errors > 0).all()):
        raise ValueError(f"errors must be above 0, found {errors.tolist()}")
    return evidence.normalised(errors_T1.min() / errors_T1)
