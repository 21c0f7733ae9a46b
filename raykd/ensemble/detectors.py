"""Detectors as one: the mean of their answers at every location, or their boxes fused.

Shape suffixes: T teachers, B images, N locations, C classes, A numbers of an answer, see `raykd.detection.layout`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from raykd.detection.fusion import Found, fused
from raykd.detection.layout import Heads, Layout, layout_of, packed, unpacked
from raykd.detection.locations import found_at
from raykd.detection.structured import Candidates, are_structured, read_answers

_SURE = 1e-7
"""Probabilities are kept so far from 0 and 1 that their logits are finite."""
_MOST = 50
Suppression = Literal["hard", "soft", "none"]
"""Of a detector's own boxes: those that a surer one overlaps are dropped, doubted, or left as they are."""
_CANDIDATES = 200


def mean_answers(answers_TBA: Tensor, weights_TB: Tensor, layout: Layout | None = None) -> Tensor:
    """The weighted mean of detectors at fixed locations, as an answer [B, A].

    The probability of a class is the mean over the teachers that know it: who has never seen a class does not call
    it background. A box's edges are the mean by weight times the teacher's largest probability there. A class that
    nobody knows, and all classes of an image that nobody answered, are unknown to the mean. With bins the mean of the teachers'
    distributions has the same weights, so that the edges are its mean.

    Args:
        answers_TBA: of each teacher.
        weights_TB: at least 0; 0 where a teacher gave no answer, whose numbers are not looked at.
        layout: of the answers, where it is known.

    Raises:
        ValueError: they are no answers of detectors, or boxes at no fixed locations, which have no mean: they are fused.
    """
    layout = layout or layout_of(answers_TBA[0])
    if any(are_structured(one_BA) for one_BA in answers_TBA):
        raise ValueError("boxes at no fixed locations have no mean at locations; fuse them")
    heads = [unpacked(one_BA, layout) for one_BA in answers_TBA]
    says_TBC = torch.stack([one.knows_BC for one in heads]) * weights_TB[..., None]
    scores = torch.stack([one.scores_BNC for one in heads])
    total_BC = says_TBC.sum(0)
    mean = (says_TBC[:, :, None] * scores).sum(0) / total_BC.clamp(min=1e-12)[:, None]
    sure_TBN = weights_TB[..., None] * scores.amax(-1) + _SURE * (weights_TB[..., None] > 0)
    edges = torch.stack([one.edges_BN4 for one in heads])
    edges = torch.where(weights_TB[..., None, None] > 0, edges, 0.0)
    share_TBN1 = (sure_TBN / sure_TBN.sum(0).clamp(min=1e-12))[..., None]
    edges = (share_TBN1 * edges).sum(0)
    logits = mean.clamp(_SURE, 1 - _SURE).logit()
    row_BA = packed(logits, edges, layout, bins_BN4K=_mean_bins(heads, share_TBN1))
    known_BA = torch.cat([row_BA[:, :4], (total_BC > 0).to(row_BA)], dim=1)
    return torch.cat([known_BA, row_BA[:, known_BA.shape[1] :]], dim=1)


def _mean_bins(heads: list[Heads], share_TBN1: Tensor) -> Tensor | None:
    """The mean of the distributions of edges, as their logarithm; a teacher whose share is 0 is not looked at."""
    total: Tensor | None = None
    for one, share_BN1 in zip(heads, share_TBN1, strict=True):
        if one.bins_BN4K is not None:
            part = torch.where(
                share_BN1[..., None] > 0, one.bins_BN4K.softmax(-1) * share_BN1[..., None], 0.0
            )
            total = part if total is None else total + part
    return None if total is None else total.clamp(min=_SURE).log()


def found_in(
    said: Heads | Candidates,
    *,
    least_score: float = 0.05,
    most: int = _MOST,
    suppression: Suppression = "hard",
) -> Found:
    """The boxes that a detector finds, the surest first; raw boxes are cut and suppressed as those of locations are."""
    return found_at(
        said.scores_BNC,
        said.boxes_BN4,
        least_score=least_score,
        most=most,
        candidates=_CANDIDATES,
        nms=0.6 if suppression == "hard" else None,
        soft=suppression == "soft",
    )


def fused_answers(
    answers_TBA: Tensor,
    weights_TB: Tensor,
    *,
    layout: Layout | None = None,
    threshold: float = 0.3,
    iou: float = 0.55,
    suppression: Suppression = "hard",
) -> tuple[Found, Tensor]:
    """The boxes of several detectors, fused, and the classes that somebody knows, bool [B, C].

    Args:
        answers_TBA: of each teacher, of either form.
        weights_TB: at least 0; 0 where a teacher gave no answer.
        layout: of the answers, where it is known.
        threshold: fused boxes with a lower score are left out.
        iou: from which boxes are fused.
        suppression: of each teacher's own boxes before that.

    Raises:
        ValueError: they are no answers of detectors.
    """
    layout = layout or layout_of(answers_TBA[0])
    said = [read_answers(one_BA, layout) for one_BA in answers_TBA]
    knows_TBC = torch.stack([one.knows_BC for one in said]) & (weights_TB > 0)[..., None]
    some_TC = knows_TBC.any(1)
    found = [
        _silenced(found_in(one, suppression=suppression), w)
        for one, w in zip(said, weights_TB, strict=True)
    ]
    if not bool((weights_TB > 0).any()):
        return found[0], knows_TBC.any(0)
    together = fused(
        found, weights=weights_TB, knows_TC=some_TC, classes=layout.classes, threshold=iou
    )
    return together.above(threshold).sorted(), knows_TBC.any(0)


def _silenced(found: Found, weights_B: Tensor) -> Found:
    """Without what is said of images that the teacher gave no answer for."""
    scores_BN = torch.where(weights_B[:, None] > 0, found.scores_BN, 0.0)
    return Found(
        boxes_BN4=torch.where(scores_BN[..., None] > 0, found.boxes_BN4, 0.0),
        scores_BN=scores_BN,
        classes_BN=found.classes_BN,
    )
