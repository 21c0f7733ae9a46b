"""Non-maximum suppression of many images at a time, without loops over boxes where the rule allows it.

Shape suffixes: B images, N boxes of each; an absent box has the score 0 and stays absent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from raykd.detection.boxes import iou


def kept_by_nms(
    boxes_BN4: Tensor,
    scores_BN: Tensor,
    classes_BN: Tensor,
    *,
    threshold: float = 0.6,
    rounds: int | None = None,
) -> Tensor:
    """Which boxes greedy suppression keeps, bool [B, N].

    A box is kept unless a kept one of its class with a higher score (at equal scores: an earlier place) overlaps it by
    more than the threshold. The rule is applied to all boxes at once until nothing changes: after k rounds everything
    is right that hangs on a chain of fewer than k others, so it ends with what the greedy loop finds.

    Args:
        boxes_BN4: corners.
        scores_BN: at least 0; 0 is an absent box.
        classes_BN: integers.
        threshold: of IoU, in [0, 1].
        rounds: so many, for a graph that cannot look whether something changes; right for chains up to that length, and of
            boxes that come with the surest first. None goes on to the end.
    """
    boxes, scores, classes = _many(boxes_BN4, scores_BN, classes_BN)
    if rounds is not None:
        return _suppressed(boxes, scores > 0, classes, threshold, rounds).reshape(scores_BN.shape)
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes, classes = boxes.gather(1, order[..., None].expand_as(boxes)), classes.gather(1, order)
    kept = _suppressed(boxes, scores.gather(1, order) > 0, classes, threshold, None)
    return torch.zeros_like(kept).scatter(1, order, kept).reshape(scores_BN.shape)


def _suppressed(
    boxes: Tensor, there: Tensor, classes: Tensor, threshold: float, rounds: int | None
) -> Tensor:
    """Which boxes are kept, bool [B, N], of those that come with the surest first."""
    overlaps = (iou(boxes, boxes) > threshold) & (classes[:, :, None] == classes[:, None, :])
    better = overlaps.tril(-1)  # row n, column m: m comes before n
    kept = there
    for _ in range(there.shape[1] if rounds is None else rounds):
        left = there & ~(better & kept[:, None, :]).any(-1)
        if rounds is None and torch.equal(left, kept):
            break
        kept = left
    return kept


def soft_nms(
    boxes_BN4: Tensor,
    scores_BN: Tensor,
    classes_BN: Tensor,
    *,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    threshold: float = 0.3,
) -> Tensor:
    """Scores after soft suppression, [B, N]: boxes that overlap a better one are doubted, not dropped.

    Each round takes the best box that has not been taken and multiplies the scores of those of its class that are left:
    by exp(−IoU²/σ), or by 1 − IoU where IoU is above the threshold. Bodla et al. 2017 (Soft-NMS), eq. 2 and 3.

    Raises:
        ValueError: σ is not above 0.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0, found {sigma}")
    boxes, scores, classes = _many(boxes_BN4, scores_BN, classes_BN)
    overlap = iou(boxes, boxes) * (classes[:, :, None] == classes[:, None, :])
    if method == "gaussian":
        factor = (-overlap.square() / sigma).exp()
    else:
        factor = torch.where(overlap > threshold, 1 - overlap, 1.0)
    images, left = torch.arange(len(boxes), device=boxes.device), scores > 0
    for _ in range(int(left.sum(1).max()) if left.numel() else 0):
        best = torch.where(left, scores, -1.0).argmax(1)
        left = left & (torch.arange(scores.shape[1], device=boxes.device) != best[:, None])
        scores = torch.where(left, scores * factor[images, best], scores)
    return scores.reshape(scores_BN.shape)


def _many(boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With a dimension of images, also where there is one image."""
    if boxes.shape[:-1] != scores.shape or scores.shape != classes.shape:
        raise ValueError(
            f"boxes {list(boxes.shape)} need scores and classes {list(boxes.shape[:-1])}, found {list(scores.shape)} "
            f"and {list(classes.shape)}"
        )
    if boxes.ndim == 2:
        return boxes[None], scores[None], classes[None]
    return boxes, scores, classes
