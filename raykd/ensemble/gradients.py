"""AEKD: weights that make the combined gradient short, computed from logits alone.

Shape suffixes: N units, T teachers, C classes. Keywords and result as in `given`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Unpack

import torch
from torch import Tensor

from raykd.ensemble.common import Common, Evidence, gather_evidence
from raykd.ensemble.simplex import minimum_norm_weights

_GRAMS = ("per_sample", "summed", "batch")


def gradient(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    temperature: float = 1.0,
    tolerance: float = 0.6,
    gram: Literal["per_sample", "summed", "batch"] = "per_sample",
    gather: Callable[[Tensor], Tensor] | None = None,
    **more: Unpack[Common],
) -> Tensor:
    """Weights of the shortest combined gradient: min ‖Σ_k α_k g_k‖², Σα = 1, 0 ≤ α_k ≤ C_tol.

    g_k = softmax(z_s / T) − softmax(z_k / T) is the gradient of teacher k's KL with respect to the
    student's logits (up to a common factor), so no backward pass is needed. Du et al. 2020
    (AE-KD), Sec. 3; C_tol = 1 is the multiple-gradient descent algorithm, 1/K the uniform weights,
    and a smaller value is raised to 1/K. `gram` says what G_jk = ⟨g_j, g_k⟩ is made of:

    - `per_sample`: every unit has its own G and its own weights;
    - `summed`: G is summed over units, and all units share the weights;
    - `batch`: G is that of the gradient averaged over units, as in the authors' code; there,
      disagreement on single samples cancels out. All units share the weights.

    The solution is exact (their one-class SVM solves the same problem to 1e-6). Logit gradients are
    not normalised, as in their logit branch. Where a shared weight belongs to a teacher that did
    not answer a unit, the others are scaled up, possibly beyond C_tol.

    Args:
        logits_TNC: teachers' logits.
        labels_N: not used.
        temperature: T > 0 of the distillation loss.
        tolerance: C_tol, in (0, 1].
        gram: see above.
        gather: rows of all workers for `summed` and `batch` ([n, ...] to [m, ...]).
        **more: see `common.Common`; `student_logits` is needed.

    Returns:
        weights_TN.

    Raises:
        ValueError: no `student_logits`, a knob out of range, or shapes that do not match.
    """
    evidence = gather_evidence("gradient", logits_TNC, labels_N, more)
    if evidence.student_logits is None:
        raise ValueError("the weighting gradient needs student_logits")
    if temperature <= 0 or not 0 < tolerance <= 1:
        raise ValueError(
            f"temperature must be above 0 and tolerance within (0, 1], found {temperature} and "
            f"{tolerance}"
        )
    if gram not in _GRAMS:
        raise ValueError(f"gram must be one of {', '.join(_GRAMS)}, found {gram!r}")
    gradient_NTC = _gradients(evidence, evidence.student_logits, temperature)
    active_NT = evidence.available_TN.T
    if gram == "per_sample":
        gram_NTT = gradient_NTC @ gradient_NTC.transpose(1, 2)
        return evidence.normalised(minimum_norm_weights(gram_NTT, active_NT, tolerance).T)
    count_1T = _over_workers(active_NT.double(), gather)
    if gram == "batch":
        mean_1TC = _over_workers(gradient_NTC, gather) / count_1T.clamp_min(1).unsqueeze(2)
        gram_1TT = mean_1TC @ mean_1TC.transpose(1, 2)
    else:
        gram_1TT = _over_workers(gradient_NTC @ gradient_NTC.transpose(1, 2), gather)
    return evidence.normalised(minimum_norm_weights(gram_1TT, count_1T > 0, tolerance).T)


def _gradients(evidence: Evidence, student_logits: Tensor, temperature: float) -> Tensor:
    """g_k of every unit, float64 [N, T, C]; 0 where a teacher gave no answer."""
    q_NC = (student_logits.to(evidence.logits_TNC.dtype) / temperature).softmax(-1)
    p_TNC = (evidence.heard_logits() / temperature).softmax(-1)
    heard_TNC = torch.where(evidence.available_TN.unsqueeze(2), q_NC - p_TNC, 0.0)
    return heard_TNC.double().transpose(0, 1)


def _over_workers(values_N: Tensor, gather: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Sum over the units of all workers, keeping a first dimension of 1."""
    total_1 = values_N.sum(0, keepdim=True)
    return total_1 if gather is None else gather(total_1).sum(0, keepdim=True)
