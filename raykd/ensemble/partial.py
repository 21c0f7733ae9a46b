"""Teachers that know only some of the classes.

Shape suffixes: N units, T teachers, C classes. A class that a teacher does not know has a logit so far
below the others that its probability is 0 at any temperature in use; `unknown` finds it.

A teacher k that knows the classes S_k is compared with the student renormalised over S_k:

    q^S(c) = exp(s_c / T) / Σ_{j ∈ S} exp(s_j / T),        loss = T² Σ_k w_k KL(p_k ‖ q^{S_k})

(Vongkulbhaisal et al. 2019, "Unifying Heterogeneous Classifiers with Distillation", Eq. 3, for several
teachers with weights). It is the least at any student whose probabilities within S_k stand to each other as
the teacher's do, whatever it gives to the other classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble.combine import mean_probabilities

UNKNOWN = -6e4
"""Logits this far below the largest of their row are of unknown classes; the codec writes −65504."""


def unknown(logits_NC: Tensor) -> Tensor:
    """Classes [C] of which a teacher says nothing in any row, bool."""
    below_NC = logits_NC < logits_NC.amax(dim=-1, keepdim=True) + UNKNOWN
    return below_NC.all(dim=0)


def labels_of_known(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Labels [N] with −1 for classes that a teacher does not know, by its logits."""
    unknown_C = unknown(logits_NC)
    return torch.where(unknown_C[labels_N.clamp(min=0)], -1, labels_N)


def mean_of_known(logits_TNC: Tensor, weights_TN: Tensor, known_TC: Tensor | None = None) -> Tensor:
    """Log of the teachers' mean probabilities, each class over those that know it.

    p(c) ∝ Σ_{k: c ∈ S_k} w_k p_k(c) / Σ_{k: c ∈ S_k} w_k. Where all know every class it is
    `mean_probabilities`. A class that nobody knows gets the smallest probability of its dtype.

    Args:
        logits_TNC: teachers' logits.
        weights_TN: weights, summing to 1 over teachers.
        known_TC: bool, the classes that each teacher knows; None = found by their logits.

    Returns:
        log_probs_NC, normalised and finite.
    """
    if known_TC is None:
        known_TC = ~torch.stack([unknown(logits_NC) for logits_NC in logits_TNC])
    if bool(known_TC.all()):
        return mean_probabilities(logits_TNC, weights_TN)
    probs_TNC = F.softmax(logits_TNC.detach(), dim=-1)
    weights_TN = weights_TN.detach().to(probs_TNC.dtype)
    tiny = torch.finfo(probs_TNC.dtype).tiny
    said_NC = torch.einsum("tnc,tn->nc", torch.where(known_TC[:, None], probs_TNC, 0.0), weights_TN)
    heard_NC = torch.einsum("tc,tn->nc", known_TC.to(probs_TNC.dtype), weights_TN)
    mean_NC = said_NC / heard_NC.clamp_min(tiny)
    return mean_NC.clamp_min(tiny).log().log_softmax(dim=-1)
