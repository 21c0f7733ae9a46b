"""Detection at fixed locations: where they are, which boxes they answer for, and what their answers mean.

Each location says for every class whether it lies in the middle of such an object, and how far the object's edges are.
Shape suffixes: B images, N locations, M boxes, K boxes that are kept, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.detection.fusion import Found
from raykd.detection.suppression import kept_by_nms, soft_nms


def centres(height: int, width: int, *, stride: int) -> Tensor:
    """The locations of an image, float32 [N, 2] as (x, y) in pixels, row by row; N = ⌈H/s⌉ · ⌈W/s⌉.

    Raises:
        ValueError: a size or the stride is below 1.
    """
    if min(height, width, stride) < 1:
        raise ValueError(f"sizes and stride must be at least 1, found {height}×{width}, {stride}")
    rows, columns = -(-height // stride), -(-width // stride)
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) * stride
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)


def to_boxes(centres_N2: Tensor, edges_BN4: Tensor) -> Tensor:
    """Distances to the left, upper, right and lower edge, in pixels, as corners [B, N, 4]."""
    return torch.cat([centres_N2 - edges_BN4[..., :2], centres_N2 + edges_BN4[..., 2:]], dim=-1)


def to_edges(centres_N2: Tensor, boxes_BN4: Tensor) -> Tensor:
    """Corners as distances from the centres, [B, N, 4]; negative where a centre lies outside."""
    return torch.cat([centres_N2 - boxes_BN4[..., :2], boxes_BN4[..., 2:] - centres_N2], dim=-1)


def expected_edges(bins_BN4K: Tensor, *, stride: float) -> Tensor:
    """Distributions of each edge over the distances 0, s, 2s, ... as distances [B, N, 4]: their mean.

    Li et al. 2020 (generalised focal loss), eq. 3.
    """
    steps = torch.arange(bins_BN4K.shape[-1], device=bins_BN4K.device, dtype=bins_BN4K.dtype)
    return (bins_BN4K.softmax(-1) * steps).sum(-1) * stride


@dataclass(frozen=True)
class Assigned:
    """What each location has to say.

    Attributes:
        box_BN: int64, the place of the box that it answers for; −1 is background.
        edges_BN4: distances to that box's edges in pixels; 0 at background.
    """

    box_BN: Tensor
    edges_BN4: Tensor


def assigned(
    centres_N2: Tensor,
    boxes_BM4: Tensor,
    present_BM: Tensor,
    *,
    share: float = 0.2,
    least: float = 2.1,
) -> Assigned:
    """The location → box table by centre sampling.

    A location answers for a box whose middle is no further away than max(share · side, least) in x and in y, if it lies in
    the box; for the smallest box where these are several. Tian et al. 2019 (FCOS), sec. 3.2, with a radius by size.

    Args:
        centres_N2: locations.
        boxes_BM4: corners.
        present_BM: bool; an absent box is not assigned.
        share: of the box's side.
        least: pixels; above half of the stride, so that each box within the image has a location.
    """
    middle = (boxes_BM4[..., :2] + boxes_BM4[..., 2:]) / 2
    side = boxes_BM4[..., 2:] - boxes_BM4[..., :2]
    reach = (share * side).clamp(min=least)
    away = (centres_N2[:, None, :] - middle[:, None, :, :]).abs()
    edges = to_edges(centres_N2[:, None, :], boxes_BM4[:, None, :, :])
    fits = (away <= reach[:, None]).all(-1) & (edges > 0).all(-1) & present_BM[:, None, :]
    if not boxes_BM4.shape[1]:
        shape = (len(boxes_BM4), len(centres_N2))
        none = torch.full(shape, -1, dtype=torch.int64, device=boxes_BM4.device)
        return Assigned(none, boxes_BM4.new_zeros(*shape, 4))
    size = torch.where(fits, side.prod(-1)[:, None, :], torch.inf)
    box = size.argmin(-1)
    own = edges.gather(2, box[..., None, None].expand(*box.shape, 1, 4))[:, :, 0]
    positive = fits.any(-1)
    return Assigned(torch.where(positive, box, -1), torch.where(positive[..., None], own, 0.0))


def painted(centres_N2: Tensor, boxes_BM4: Tensor, scores_BM: Tensor) -> Tensor:
    """The largest score of the boxes that a location lies in, [B, N]; 0 outside of all.

    Args:
        centres_N2: locations.
        boxes_BM4: corners.
        scores_BM: at least 0; 0 is an absent box.
    """
    if not boxes_BM4.shape[1]:
        return scores_BM.new_zeros(len(boxes_BM4), len(centres_N2))
    inside = (to_edges(centres_N2[:, None, :], boxes_BM4[:, None, :, :]) > 0).all(-1)
    return torch.where(inside, scores_BM[:, None, :], 0.0).amax(-1)


def found_at(
    scores_BNC: Tensor,
    boxes_BN4: Tensor,
    *,
    least_score: float = 0.05,
    most: int = 100,
    candidates: int = 300,
    nms: float | None = 0.6,
    soft: bool = False,
    rounds: int | None = None,
) -> Found:
    """The boxes that scores at fixed locations say, the surest first; without loops over boxes.

    Args:
        scores_BNC: probabilities of each class.
        boxes_BN4: the box of each location.
        least_score: pairs of location and class below it are left out.
        most: boxes that an image may have afterwards.
        candidates: pairs of location and class that are looked at.
        nms: IoU from which a surer box of the same class takes the place; None leaves all.
        soft: boxes that overlap a surer one are doubted, not dropped (`raykd.detection.suppression.soft_nms`, Gaussian), and left
            out where their score falls below `least_score`; `nms` is not looked at.
        rounds: as of `kept_by_nms`.
    """
    images, locations, classes = scores_BNC.shape
    scores, pair = scores_BNC.flatten(1).topk(min(candidates, locations * classes), dim=1)
    scores = torch.where(scores >= least_score, scores, 0.0)
    place = (pair // classes)[..., None].expand(images, -1, 4)
    boxes, labels = boxes_BN4.gather(1, place), pair % classes
    if soft:
        doubted = soft_nms(boxes, scores, labels)
        scores = torch.where(doubted >= least_score, doubted, 0.0)
    elif nms is not None:
        kept = kept_by_nms(boxes, scores, labels, threshold=nms, rounds=rounds)
        scores = torch.where(kept, scores, 0.0)
    count = min(most, scores.shape[1])
    if rounds is None:
        first = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    else:
        first = scores.topk(count, dim=1).indices  # graphs have no stable sort
    scores = scores.gather(1, first)
    boxes = boxes.gather(1, first[..., None].expand(images, -1, 4))
    return Found(
        boxes_BN4=torch.where(scores[..., None] > 0, boxes, 0.0),
        scores_BN=scores,
        classes_BN=torch.where(scores > 0, labels.gather(1, first), 0),
    )
