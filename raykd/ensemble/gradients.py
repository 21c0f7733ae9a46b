"""AEKD: weights that make the combined gradient short, computed from logits alone.

Shape suffixes: N units, T teachers, C classes; M problems of K variables. Keywords and result as in `given`.

The small quadratic programme is solved for many units at once by a primal-dual interior-point method: every
iteration is one batched Cholesky factorisation of [M, K, K], about 15 are needed whatever the conditioning,
and where several solutions exist (equal teachers) it gives the symmetric one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Unpack

import torch
from torch import Tensor

from raykd.ensemble.common import Common, Evidence, gather_evidence
from raykd.types import host_sees

_GRAMS = ("per_sample", "summed", "batch")
_ITERATIONS = 60
_GAP = 1e-14  # mean complementarity at which a problem, scaled to unit diagonal, counts as solved
_RIDGE = 1e-10  # makes the smallest of several solutions the only one, above rounding noise
_BOUNDARY = 0.99  # share of the way to the boundary that one step may go


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
    p_TNC = (evidence.answered_logits() / temperature).softmax(-1)
    answered_TNC = torch.where(evidence.available_TN.unsqueeze(2), q_NC - p_TNC, 0.0)
    return answered_TNC.double().transpose(0, 1)


def _over_workers(values_N: Tensor, gather: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Sum over the units of all workers, keeping a first dimension of 1."""
    total_1 = values_N.sum(0, keepdim=True)
    return total_1 if gather is None else gather(total_1).sum(0, keepdim=True)


def minimum_norm_weights(gram_MKK: Tensor, active_MK: Tensor, ceiling: float) -> Tensor:
    """Minimise αᵀGα over Σα = 1, 0 ≤ α ≤ c, with α = 0 where inactive.

    c is `ceiling`, raised to 1/(number of active variables) where that is larger (then α is
    uniform).

    Args:
        gram_MKK: symmetric positive semi-definite G.
        active_MK: bool, the variables that may be above 0.
        ceiling: c > 0.

    Returns:
        alpha_MK, float64, within 1e-6 of the solution where that is unique; 0 for a problem without
        active variables.
    """
    active_MK = active_MK.bool()
    mask_MK = active_MK.double()
    count_M1 = mask_MK.sum(1, keepdim=True)
    uniform_MK = mask_MK / count_M1.clamp_min(1)
    free_M1 = ceiling * count_M1 > 1 + 1e-9  # else uniform is the only feasible point
    if host_sees(free_M1) and not bool(free_M1.any()):
        return uniform_MK
    gram_MKK = gram_MKK.double() * mask_MK.unsqueeze(1) * mask_MK.unsqueeze(2)
    size_M1 = gram_MKK.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    gram_MKK = gram_MKK / torch.where(size_M1 > 0, size_M1, 1.0).unsqueeze(2)
    gram_MKK = gram_MKK + _RIDGE * torch.eye(gram_MKK.shape[1]).to(gram_MKK)
    bound = ceiling if ceiling < 1 else 2.0  # from 1 on it says nothing: keep away from it
    problem = _InteriorPoint(gram_MKK, mask_MK, bound)
    alpha_MK = problem.solve(torch.where(free_M1, uniform_MK, 0.5 * bound * mask_MK), free_M1)
    alpha_MK = torch.where(free_M1, alpha_MK, uniform_MK)
    return alpha_MK / alpha_MK.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


class _InteriorPoint:
    """Newton steps on α, the multipliers of both bounds and that of Σα = 1.

    Inactive variables keep α = 0: their rows of the linear system are those of the identity.
    """

    def __init__(self, gram_MKK: Tensor, mask_MK: Tensor, ceiling: float) -> None:
        self.gram_MKK = gram_MKK
        self.mask_MK = mask_MK
        self.ceiling = ceiling
        self.pairs_M1 = 2 * mask_MK.sum(1, keepdim=True).clamp_min(1)

    def solve(self, start_MK: Tensor, open_M1: Tensor) -> Tensor:
        alpha_MK, lower_MK, upper_MK = start_MK, self.mask_MK, self.mask_MK
        offset_M1 = torch.zeros_like(open_M1, dtype=torch.float64)
        for _ in range(_ITERATIONS):
            gap_M1 = self._gap(alpha_MK, lower_MK, upper_MK)
            residual_MK = self._residual(alpha_MK, lower_MK, upper_MK, offset_M1)
            unsolved_M1 = (gap_M1 > _GAP) | (residual_MK.abs().amax(1, keepdim=True) > 1e-10)
            going_M1 = open_M1 & unsolved_M1
            if host_sees(going_M1) and not bool(going_M1.any()):
                break
            step = self._direction(alpha_MK, lower_MK, upper_MK, residual_MK, 0.1 * gap_M1)
            d_alpha_MK, d_lower_MK, d_upper_MK, d_offset_M1 = step
            length_M1 = self._length(alpha_MK, d_alpha_MK)
            length_M1 = torch.minimum(length_M1, self._length(self.ceiling - alpha_MK, -d_alpha_MK))
            length_M1 = torch.minimum(length_M1, self._length(lower_MK, d_lower_MK))
            length_M1 = torch.minimum(length_M1, self._length(upper_MK, d_upper_MK))
            length_M1 = torch.where(going_M1, length_M1, 0.0)
            alpha_MK = alpha_MK + length_M1 * d_alpha_MK
            lower_MK = lower_MK + length_M1 * d_lower_MK
            upper_MK = upper_MK + length_M1 * d_upper_MK
            offset_M1 = offset_M1 + length_M1 * d_offset_M1
        return alpha_MK

    def _gap(self, alpha_MK: Tensor, lower_MK: Tensor, upper_MK: Tensor) -> Tensor:
        products_MK = alpha_MK * lower_MK + (self.ceiling - alpha_MK) * upper_MK
        return (products_MK * self.mask_MK).sum(1, keepdim=True) / self.pairs_M1

    def _residual(
        self, alpha_MK: Tensor, lower_MK: Tensor, upper_MK: Tensor, offset_M1: Tensor
    ) -> Tensor:
        """Gradient of the Lagrangian."""
        slope_MK = (self.gram_MKK @ alpha_MK.unsqueeze(2)).squeeze(2)
        return (slope_MK - lower_MK + upper_MK - offset_M1) * self.mask_MK

    def _direction(
        self,
        alpha_MK: Tensor,
        lower_MK: Tensor,
        upper_MK: Tensor,
        residual_MK: Tensor,
        target_M1: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        below_MK = torch.where(self.mask_MK > 0, alpha_MK, 1.0)
        above_MK = torch.where(self.mask_MK > 0, self.ceiling - alpha_MK, 1.0)
        curvature_MK = lower_MK / below_MK + upper_MK / above_MK + (1 - self.mask_MK)
        factor_MKK, _ = torch.linalg.cholesky_ex(self.gram_MKK + torch.diag_embed(curvature_MK))
        push_MK = target_M1 / below_MK - lower_MK - target_M1 / above_MK + upper_MK
        right_MK2 = torch.stack(((push_MK - residual_MK) * self.mask_MK, self.mask_MK), dim=2)
        solved_MK2 = torch.cholesky_solve(right_MK2, factor_MKK)
        plain_MK, ones_MK = solved_MK2.unbind(2)
        shortfall_M1 = 1 - (alpha_MK * self.mask_MK).sum(1, keepdim=True)
        reach_M1 = (ones_MK * self.mask_MK).sum(1, keepdim=True)
        miss_M1 = shortfall_M1 - (plain_MK * self.mask_MK).sum(1, keepdim=True)
        d_offset_M1 = miss_M1 / torch.where(reach_M1 > 0, reach_M1, 1.0)
        d_alpha_MK = (plain_MK + d_offset_M1 * ones_MK) * self.mask_MK
        d_lower_MK = ((target_M1 - lower_MK * d_alpha_MK) / below_MK - lower_MK) * self.mask_MK
        d_upper_MK = ((target_M1 + upper_MK * d_alpha_MK) / above_MK - upper_MK) * self.mask_MK
        return d_alpha_MK, d_lower_MK, d_upper_MK, d_offset_M1

    @staticmethod
    def _length(value_MK: Tensor, step_MK: Tensor) -> Tensor:
        """How far along the step, up to 1, every value stays above 0."""
        shrinking_MK = step_MK < 0
        limit_MK = torch.where(
            shrinking_MK, -value_MK / torch.where(shrinking_MK, step_MK, -1.0), torch.inf
        )
        return (_BOUNDARY * limit_MK.amin(1, keepdim=True)).clamp_max(1.0)
