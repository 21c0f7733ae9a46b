"""Weightings of tokens as recipes name them; the formulas are those of `raykd.ensemble.sequences`.

Shape suffixes: N units, T teachers, C classes (the vocabulary), B sequences.
"""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble import sequences
from raykd.ensemble.common import Common, gather_evidence


def bayesian(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    offsets: Tensor | None = None,
    own_TN: Tensor | None = None,
    forgetting: float = 1.0,
    prior: Tensor | None = None,
    **more: Unpack[Common],
) -> Tensor:
    """How probable each teacher is given the tokens of the sequence before the unit, see `raykd.ensemble.sequences.bayesian_mixture`.

    A token whose label is unknown (−1) tells nothing of the teachers.

    Args:
        logits_TNC: teachers' logits.
        labels_N: int64 [N], the tokens; None means that nothing is known: the prior then.
        offsets: int64 [B + 1], where each sequence's units begin and end; None: each unit stands alone, and has the prior.
        own_TN: log-probability that each teacher gave the unit's own token, natural logarithm; None: that of its
            logits, which are not looked at otherwise.
        forgetting: γ in [0, 1].
        prior: [T], above 0; None = equal.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: shapes that do not match, or arguments out of range.
    """
    evidence = gather_evidence("bayesian", logits_TNC, labels_N, more)
    if offsets is None:
        offsets = torch.arange(logits_TNC.shape[1] + 1, device=logits_TNC.device)
    class_N = evidence.class_labels()
    if own_TN is not None:
        logs_TN = torch.where(class_N >= 0, own_TN.detach(), 0.0)
        return sequences.bayesian_mixture(
            logs_TN, offsets, forgetting=forgetting, prior=prior, available_TN=evidence.available_TN
        )
    logs_TNC = F.log_softmax(evidence.answered_logits(), dim=-1)
    index_TN1 = class_N.clamp_min(0).expand(len(logs_TNC), -1).unsqueeze(2)
    logs_TN = torch.where(class_N >= 0, logs_TNC.gather(2, index_TN1).squeeze(2), 0.0)
    return sequences.bayesian_mixture(
        logs_TN, offsets, forgetting=forgetting, prior=prior, available_TN=evidence.available_TN
    )


def routed(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    route_N: Tensor | None = None,
    **more: Unpack[Common],
) -> Tensor:
    """One teacher for each unit, see `raykd.ensemble.sequences.routed`.

    Args:
        logits_TNC: teachers' logits; only their shape is looked at.
        labels_N: not used.
        route_N: int64 [N], index of the unit's teacher; −1 = none; None = none of all.
        **more: see `common.Common`.

    Returns:
        weights_TN.

    Raises:
        ValueError: shapes that do not match, or a route to a teacher that there is not.
    """
    evidence = gather_evidence("routed", logits_TNC, labels_N, more)
    if route_N is None:
        route_N = torch.full(logits_TNC.shape[1:2], -1, device=logits_TNC.device)
    weights_TN = sequences.routed(route_N, len(logits_TNC), available_TN=evidence.available_TN)
    return weights_TN.to(evidence.logits_TNC.dtype)
