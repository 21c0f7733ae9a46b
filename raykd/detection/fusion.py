"""Boxes of several teachers made into one set of boxes.

Shape suffixes: B images, N boxes of an image, T teachers, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.detection.boxes import iou


@dataclass(frozen=True, kw_only=True)
class Found:
    """Boxes that were found in images; fewer than N of one are filled up with boxes of score 0.

    Attributes:
        boxes_BN4: corners in pixels.
        scores_BN: in [0, 1]; 0 is an absent box.
        classes_BN: int64.
    """

    boxes_BN4: Tensor
    scores_BN: Tensor
    classes_BN: Tensor

    def __post_init__(self) -> None:
        shape = self.scores_BN.shape
        if self.boxes_BN4.shape != (*shape, 4) or self.classes_BN.shape != shape or len(shape) != 2:
            raise ValueError(
                f"found boxes {list(self.boxes_BN4.shape)}, scores {list(shape)} and classes "
                f"{list(self.classes_BN.shape)}; they have to be [B, N, 4], [B, N] and [B, N]"
            )

    def sorted(self) -> Found:
        """The best first; at equal scores in the order that they are in."""
        return self.at(self.scores_BN.argsort(dim=1, descending=True, stable=True))

    def at(self, places_BM: Tensor) -> Found:
        """The boxes at these places of each image."""
        return Found(
            boxes_BN4=self.boxes_BN4.gather(1, places_BM[..., None].expand(*places_BM.shape, 4)),
            scores_BN=self.scores_BN.gather(1, places_BM),
            classes_BN=self.classes_BN.gather(1, places_BM),
        )

    def above(self, threshold: float) -> Found:
        """Those of at least this score; the others are absent."""
        kept = torch.where(self.scores_BN >= threshold, self.scores_BN, 0.0)
        return Found(boxes_BN4=self.boxes_BN4, scores_BN=kept, classes_BN=self.classes_BN)


def fused(
    teachers: list[Found],
    *,
    weights: Tensor | None = None,
    knows_TC: Tensor | None = None,
    classes: int,
    threshold: float = 0.55,
) -> Found:
    """Weighted boxes fusion. Solovyev et al. 2021 (WBF), sec. 3, with two of its public code's faults mended.

    Boxes are taken from the surest on (by weight times score). One that overlaps the fused box of its class best, and by
    more than the threshold, joins it; else it begins a new one. The fused box is the mean of its members weighted by
    weight and score.

    * A teacher counts once in a fused box: a further box of the same teacher disappears in it. In the public code
      it counts like another teacher.
    * The score is Σ of weight times score over the members, divided by the weights of the teachers that **know the
      class**, whether or not they found the object. The public code divides by all, which halves what only half of the
      teachers can know.

    So K copies of one teacher whose own boxes overlap by no more than the threshold are fused to that teacher's boxes with
    its scores.

    Args:
        teachers: what each found in the same images.
        weights: at least 0, of each teacher [T], or in each image [T, B], where a teacher without answer has 0; None is
            equal weights.
        knows_TC: bool, which classes a teacher knows; None is all of them.
        classes: C.
        threshold: of IoU, in (0, 1).

    Returns:
        The fused boxes, the surest first; N is the number of all teachers' boxes together.

    Raises:
        ValueError: no teachers; weights that are negative or all 0; a teacher found a class that it does not know.
    """
    weights_TB, knows = _checked(teachers, weights, knows_TC, classes)
    boxes = torch.cat([one.boxes_BN4 for one in teachers], dim=1)
    sure = torch.cat(
        [one.scores_BN * w[:, None] for one, w in zip(teachers, weights_TB, strict=True)], dim=1
    )
    labels = torch.cat([one.classes_BN for one in teachers], dim=1)
    counts = [one.scores_BN.shape[1] for one in teachers]
    owner = torch.arange(len(teachers), device=boxes.device).repeat_interleave(
        torch.tensor(counts, device=boxes.device)
    )
    order = sure.argsort(dim=1, descending=True, stable=True)
    labels, owner = labels.gather(1, order), owner[order]
    taken = _Clusters.empty(boxes, len(teachers))
    boxes, sure = boxes.gather(1, order[..., None].expand_as(boxes)), sure.gather(1, order)
    for place in range(int((sure > 0).sum(1).max()) if sure.numel() else 0):
        taken.add(
            boxes[:, place], sure[:, place], labels[:, place], owner[:, place], threshold=threshold
        )
    known_BC = (weights_TB.mT @ knows).clamp(min=torch.finfo(sure.dtype).tiny)
    scores = taken.sure_BN / known_BC.gather(1, taken.classes_BN)
    return Found(boxes_BN4=taken.means, scores_BN=scores, classes_BN=taken.classes_BN).sorted()


@dataclass
class _Clusters:
    """Fused boxes of all images while boxes join them, one of each image at a time."""

    sums_BN4: Tensor
    sure_BN: Tensor
    classes_BN: Tensor
    has_BNT: Tensor
    count_B: Tensor

    @classmethod
    def empty(cls, boxes: Tensor, teachers: int) -> _Clusters:
        shape = boxes.shape[:2]
        return cls(
            sums_BN4=torch.zeros_like(boxes),
            sure_BN=boxes.new_zeros(shape),
            classes_BN=torch.zeros(shape, dtype=torch.int64, device=boxes.device),
            has_BNT=torch.zeros((*shape, teachers), dtype=torch.bool, device=boxes.device),
            count_B=torch.zeros(shape[0], dtype=torch.int64, device=boxes.device),
        )

    @property
    def means(self) -> Tensor:
        there = self.sure_BN > 0
        return self.sums_BN4 / torch.where(there, self.sure_BN, 1.0)[..., None]

    def add(
        self, box_B4: Tensor, sure_B: Tensor, class_B: Tensor, owner_B: Tensor, *, threshold: float
    ) -> None:
        """One box of each image joins the fused box that it fits, or begins one; those of score 0 do nothing."""
        overlap = iou(box_B4[:, None, :], self.means)[:, 0]
        fits = (self.sure_BN > 0) & (self.classes_BN == class_B[:, None]) & (overlap > threshold)
        best_B = torch.where(fits, overlap, -1.0).argmax(1)
        joins_B = fits.any(1)
        place_B = torch.where(joins_B, best_B, self.count_B)
        images = torch.arange(len(box_B4), device=box_B4.device)
        counts_B = (sure_B > 0) & ~self.has_BNT[images, place_B, owner_B]
        share_B = torch.where(counts_B, sure_B, 0.0)
        self.sums_BN4[images, place_B] += share_B[:, None] * box_B4
        self.sure_BN[images, place_B] += share_B
        self.has_BNT[images, place_B, owner_B] |= counts_B
        self.classes_BN[images, place_B] = torch.where(
            counts_B, class_B, self.classes_BN[images, place_B]
        )
        self.count_B += counts_B & ~joins_B


def _checked(
    teachers: list[Found], given: Tensor | None, knows_TC: Tensor | None, classes: int
) -> tuple[Tensor, Tensor]:
    if not teachers:
        raise ValueError("fusion needs at least one teacher")
    like = teachers[0].scores_BN
    weights = like.new_ones(len(teachers)) if given is None else given.to(like)
    if len(weights) != len(teachers) or bool((weights < 0).any()) or not bool(weights.any()):
        raise ValueError(
            f"{len(teachers)} teachers need as many weights of at least 0, one above 0; found {weights.tolist()}"
        )
    weights_TB = weights if weights.ndim == 2 else weights[:, None].expand(-1, len(like))
    shape = (len(teachers), classes)
    knows = like.new_ones(shape) if knows_TC is None else knows_TC.to(like)
    if knows.shape != shape:
        raise ValueError(f"knows_TC must be {list(shape)}, found {list(knows.shape)}")
    for number, one in enumerate(teachers):
        there = one.classes_BN[one.scores_BN > 0]
        if there.numel() and (int(there.min()) < 0 or int(there.max()) >= classes):
            raise ValueError(f"teacher {number} found class {there.tolist()} of {classes} classes")
        if bool((knows[number][there] == 0).any()):
            raise ValueError(f"teacher {number} found a class that it does not know")
    return weights_TB, knows
