"""Feature terms that count more or less from sample to sample: by the teachers' heads, or by the teachers' weights.

Shape suffixes: B samples, F feature terms, K classes, N units, T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raykd.ensemble import WEIGHTINGS
from raykd.objective.terms import Term


def shared_by_heads(
    terms: Mapping[str, Term], said: Sequence[Tensor], labels_B: Tensor
) -> dict[str, Term]:
    """The terms times their shares for each sample, as `confidence` has them, of each teacher's head.

    Zhang et al. 2022 (CA-MKD), the weights of the features. A sample without a label has equal shares.

    Args:
        terms: of the features, in order.
        said: what each term's head reads from the student, [B, K].
        labels_B: int64, −1 where unknown.
    """
    counted_FB = torch.stack([term.valid_N > 0 for term in terms.values()])
    shares_FB = WEIGHTINGS["confidence"](torch.stack(list(said)), labels_B, available_TN=counted_FB)
    return _times(terms, list(shares_FB))


def shared_by_teachers(
    terms: Mapping[str, Term], places: Sequence[int], weights_TN: Tensor
) -> dict[str, Term]:
    """The terms, each as its teacher counts for the sample.

    Args:
        terms: of the features, in order.
        places: of the teacher of each term among the rows of the weights.
        weights_TN: the teachers' weights.
    """
    return _times(terms, [weights_TN[place] for place in places])


def whole_costs(
    own_TN: Tensor, terms: Mapping[str, Term], places: Sequence[int], soft_weight: float
) -> Tensor:
    """What all of a teacher's terms cost, [T, N], without a gradient: who is dropped is decided by that.

    Args:
        own_TN: the student's loss against the outputs of each teacher.
        terms: of the features, in order.
        places: of the teacher of each term among the rows.
        soft_weight: of the soft targets.
    """
    costs = list(soft_weight * own_TN.detach())
    for place, term in zip(places, terms.values(), strict=True):
        costs[place] = costs[place] + term.weight * term.loss_N.detach()
    return torch.stack(costs)


def _times(terms: Mapping[str, Term], shares: Sequence[Tensor]) -> dict[str, Term]:
    return {
        name: Term(term.loss_N * share_N.to(term.loss_N.dtype), term.valid_N, term.weight)
        for (name, term), share_N in zip(terms.items(), shares, strict=True)
    }
