"""Boxes that a detector found anywhere in an image, each with the probabilities of its classes.

It is the form of answer that any detector can give, whatever its locations. Boxes are raw: before a threshold, suppression and fusion, which are chosen when they are read. A row is as wide as an answer
at the student's locations, so that teachers of both forms lie side by side, and begins as that does, with a negative stride;
then come the number of boxes and, for each of at most `slots` boxes, the surest first, its corners in pixels and the
probability of every class; zeros behind. What is kept of a row in a store are its first `used` numbers.

Shape suffixes: B images, M boxes of an image, K slots for boxes, C classes, A numbers of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.detection.layout import HEADER, Heads, Layout, front_of, layout_of, unpacked

MOST = 100
"""Boxes that are kept of an image, as of COCO's evaluation."""
_STRIDE = 3


@dataclass(frozen=True, eq=False)
class Candidates:
    """Raw boxes as what they mean; a slot without a box has no probability for any class.

    Attributes:
        layout: of the student's locations, at which these boxes are not.
        knows_BC: bool, the classes that the model knows.
        boxes_BN4: corners in pixels.
        scores_BNC: probabilities; 0 of a class that the model does not know.
    """

    layout: Layout
    knows_BC: Tensor
    boxes_BN4: Tensor
    scores_BNC: Tensor


def slots(layout: Layout) -> int:
    """K, how many boxes a row has room for: 100, or as many as fit beside a student's answer."""
    return min(MOST, (layout.width - HEADER - layout.classes - 1) // (layout.classes + 4))


def used(layout: Layout) -> int:
    """How many numbers of a row of boxes say something; those behind are 0."""
    return HEADER + layout.classes + 1 + slots(layout) * (layout.classes + 4)


def packed_boxes(
    boxes_BM4: Tensor, probabilities_BMC: Tensor, layout: Layout, knows_C: Tensor | None = None
) -> Tensor:
    """Raw boxes of images as one row for each, [B, A]; of more than there is room for the surest.

    Args:
        boxes_BM4: corners in pixels of the image.
        probabilities_BMC: of each class; a row of zeros is an absent box. Those of unknown classes are not looked at.
        layout: of the student's locations, see `raykd.detection.layout.layout_for`.
        knows_C: bool, the classes that the model knows; None is all of them.

    Raises:
        ValueError: shapes do not fit each other or the layout; a probability is outside [0, 1], or a number is NaN.
    """
    shape = tuple(boxes_BM4.shape[:2])
    fits = tuple(probabilities_BMC.shape) == (*shape, layout.classes)
    if boxes_BM4.shape != (*shape, 4) or not fits:
        raise ValueError(
            f"boxes {list(boxes_BM4.shape)} need [B, M, 4], and probabilities {list(probabilities_BMC.shape)} "
            f"[B, M, {layout.classes}]"
        )
    sure = bool(((probabilities_BMC >= 0) & (probabilities_BMC <= 1)).all())  # NaN is neither
    if not sure or not bool(boxes_BM4.isfinite().all()):
        raise ValueError(
            "probabilities must be 0 to 1 and corners finite; sigmoids and softmaxes are"
        )
    knows = torch.ones(layout.classes) if knows_C is None else knows_C
    known_BMC = probabilities_BMC * knows.to(probabilities_BMC)
    room = slots(layout)
    first = known_BMC.amax(-1).argsort(dim=1, descending=True, stable=True)[:, :room]
    boxes = boxes_BM4.gather(1, first[..., None].expand(*first.shape, 4))
    scores = known_BMC.gather(1, first[..., None].expand(*first.shape, layout.classes))
    there = scores.amax(-1) > 0
    rows = torch.where(there[..., None], torch.cat([boxes.to(scores), scores], dim=-1), 0.0)
    count = there.sum(1, keepdim=True).to(scores)
    front = front_of(layout, knows, scores, structured=True)
    row = torch.cat([front, count, rows.flatten(1)], dim=1)
    return F.pad(row, (0, layout.width - row.shape[1]))


def packed_lists(
    found: Sequence[Mapping[str, Tensor]],
    layout: Layout,
    *,
    class_of: Mapping[int, int] | None = None,
    knows_C: Tensor | None = None,
) -> Tensor:
    """What detectors of torchvision and of many others return, a mapping for each image, as rows [B, A].

    Args:
        found: of each image `boxes` [M, 4], corners in pixels, `labels` [M] and `scores` [M].
        layout: of the student's locations.
        class_of: the data's class for each of the detector's labels; others are left out. None: they are the same.
        knows_C: bool, as of `packed_boxes`; None: those that `class_of` names, or all.

    Raises:
        ValueError: as of `packed_boxes`, or a label is no class of the data.
    """
    most = max([1, *(len(one["scores"]) for one in found)])
    like = found[0]["boxes"].float() if found else torch.zeros(0)
    boxes = like.new_zeros(len(found), most, 4)
    scores = like.new_zeros(len(found), most, layout.classes)
    for number, one in enumerate(found):
        labels = one["labels"].long()
        if class_of is not None:
            table = [class_of.get(label, -1) for label in labels.tolist()]
            labels = torch.tensor(table, dtype=torch.int64, device=labels.device)
        elif labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < layout.classes:
            raise ValueError(
                f"labels {int(labels.min())} to {int(labels.max())} are not among the {layout.classes} classes of the "
                "data; say by class_of which is which"
            )
        places = (labels >= 0).nonzero()[:, 0]
        boxes[number, : len(places)] = one["boxes"][places].to(boxes)
        scores[number, torch.arange(len(places)), labels[places]] = one["scores"][places].to(scores)
    if knows_C is None and class_of is not None:
        knows_C = torch.zeros(layout.classes, dtype=torch.bool)
        knows_C[sorted(set(class_of.values()))] = True
    return packed_boxes(boxes, scores, layout, knows_C)


def are_structured(answers_BA: Tensor) -> bool:
    """Whether answers are boxes at no fixed locations; looks at numbers on the host."""
    return bool((answers_BA[:, _STRIDE] < 0).any())


def candidates_in(answers_BA: Tensor, layout: Layout | None = None) -> Candidates:
    """Rows of boxes as what they mean.

    Args:
        answers_BA: of `packed_boxes`; a row of zeros has no boxes and knows no class.
        layout: where it is known; None reads it in the answers.

    Raises:
        ValueError: they are no answers of a detector, or of another layout.
    """
    layout = layout or layout_of(answers_BA)
    if answers_BA.shape[1] != layout.width:
        raise ValueError(f"answers have {answers_BA.shape[1]} numbers, {layout} has {layout.width}")
    first = HEADER + layout.classes
    rows = answers_BA[:, first + 1 : used(layout)].unflatten(1, (slots(layout), layout.classes + 4))
    knows_BC = answers_BA[:, HEADER:first] > 0.5
    return Candidates(layout, knows_BC, rows[..., :4], rows[..., 4:] * knows_BC[:, None, :])


def read_answers(answers_BA: Tensor, layout: Layout | None = None) -> Heads | Candidates:
    """Answers of either form as what they mean.

    Raises:
        ValueError: they are no answers of a detector, or of another layout.
    """
    if are_structured(answers_BA):
        return candidates_in(answers_BA, layout)
    return unpacked(answers_BA, layout)
