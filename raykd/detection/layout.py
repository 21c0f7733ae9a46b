"""A detector's answer for an image as one row of numbers, and an image's true boxes as one row.

An answer: four numbers that say how it is laid out (classes, rows and columns of locations, stride in pixels); for each
class 1 where the model knows it, else 0; the logits of every class at every location; the distances to the four edges of
the box of every location, in pixels; with bins, the logits of each edge's distances, of which these are the mean. So whoever
holds an answer knows what it means, and masks are the model's own data. A negative stride says that the rest of the row are
boxes at no fixed locations, see `raykd.detection.structured`.

Labels: the number of boxes, then `class, x1, y1, x2, y2, score` for each of at most M, zeros behind the last. An image
without boxes has the number 0; one without labels is NaN throughout. The score is 1 for a true box, the ensemble's for a
box that it found, and −1 for a crowd: a region in which boxes are neither right nor wrong.

Shape suffixes: B images, N locations, M boxes, C classes, K bins of an edge's distance, A numbers of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raykd.detection.locations import centres, to_boxes

HEADER = 4
BOX = 6
CLASS, CORNERS, SCORE = 0, slice(1, 5), 5
CROWD = -1.0
_FEWEST = 2
"""Bins; one would always have all."""


@dataclass(frozen=True)
class Layout:
    """How an answer is laid out.

    Attributes:
        classes: C.
        rows: of locations.
        columns: of locations.
        stride: pixels between two locations.
        bins: K, distances 0, s, 2s, ... over which each edge is spread; 1 where an edge is one number.
    """

    classes: int
    rows: int
    columns: int
    stride: int
    bins: int = 1

    @property
    def locations(self) -> int:
        """N."""
        return self.rows * self.columns

    @property
    def width(self) -> int:
        """A."""
        return HEADER + self.classes + self.locations * (self.classes + 4 + self._spread)

    @property
    def _spread(self) -> int:
        """Numbers of a location's bins."""
        return 4 * self.bins if self.bins > 1 else 0

    def centres(self, like: Tensor) -> Tensor:
        """The locations in pixels, [N, 2], as `like` is typed and placed."""
        found = centres(self.rows * self.stride, self.columns * self.stride, stride=self.stride)
        return found.to(like)


def layout_for(classes: int, height: int, width: int, *, stride: int, bins: int = 1) -> Layout:
    """The layout for images of a size."""
    return Layout(classes, -(-height // stride), -(-width // stride), stride, bins)


def of_width(layout: Layout, width: int) -> Layout:
    """The layout with as many bins as answers of this width have; that without any where no number of them fits."""
    plain = replace(layout, bins=1)
    bins, rest = divmod(width - plain.width, 4 * plain.locations)
    return plain if rest or bins < _FEWEST else replace(plain, bins=bins)


def layout_of(answers_BA: Tensor) -> Layout:
    """The layout that answers say they have, of either form; looks at numbers on the host.

    Raises:
        ValueError: they are no answers of a detector.
    """
    if answers_BA.ndim == 2 and len(answers_BA) and answers_BA.shape[1] > HEADER:
        numbers = answers_BA[0, :HEADER].detach().double().cpu()
        if bool(torch.isfinite(numbers).all()) and bool((numbers == numbers.round()).all()):
            classes, rows, columns, stride = (int(one) for one in numbers.tolist())
            if min(classes, rows, columns, abs(stride)) > 0:
                layout = of_width(Layout(classes, rows, columns, abs(stride)), answers_BA.shape[1])
                if layout.width == answers_BA.shape[1]:
                    return layout
    raise ValueError(
        f"{list(answers_BA.shape)} numbers are no answers of a detector; make them by raykd.detection.layout.packed"
    )


@dataclass(frozen=True, eq=False)
class Heads:
    """Answers as what they mean.

    Attributes:
        layout: of all of them.
        knows_BC: bool, the classes that the model knows.
        logits_BNC: of each class at each location.
        edges_BN4: distances in pixels to the left, upper, right and lower edge.
        bins_BN4K: logits of each edge's distances; None of an answer without bins.
    """

    layout: Layout
    knows_BC: Tensor
    logits_BNC: Tensor
    edges_BN4: Tensor
    bins_BN4K: Tensor | None = None

    @property
    def boxes_BN4(self) -> Tensor:  # noqa: N802
        """The box of each location."""
        return to_boxes(self.layout.centres(self.edges_BN4), self.edges_BN4)

    @property
    def scores_BNC(self) -> Tensor:  # noqa: N802
        """Probabilities; 0 of a class that the model does not know."""
        return self.logits_BNC.sigmoid() * self.knows_BC[:, None, :]


def packed(
    logits_BNC: Tensor,
    edges_BN4: Tensor,
    layout: Layout,
    knows_C: Tensor | None = None,
    bins_BN4K: Tensor | None = None,
) -> Tensor:
    """What heads say as one row for each image, [B, A].

    Args:
        logits_BNC: of each class at each location, before the sigmoid.
        edges_BN4: distances in pixels.
        layout: of the locations.
        knows_C: bool, the classes that the model knows; None is all of them.
        bins_BN4K: logits of each edge's distances, where the layout has bins.

    Raises:
        ValueError: shapes do not fit the layout.
    """
    fits, four = (layout.locations, layout.classes), (layout.locations, 4)
    spread = (layout.locations, 4, layout.bins) if layout.bins > 1 else None
    given = None if bins_BN4K is None else tuple(bins_BN4K.shape[1:])
    if logits_BNC.shape[1:] != fits or edges_BN4.shape[1:] != four or given != spread:
        raise ValueError(
            f"logits {list(logits_BNC.shape)}, edges {list(edges_BN4.shape)} and bins {given} do not fit {layout}"
        )
    front_BF = front_of(layout, knows_C, logits_BNC)
    parts = [front_BF, logits_BNC.flatten(1), edges_BN4.flatten(1)]
    return torch.cat(parts if bins_BN4K is None else [*parts, bins_BN4K.flatten(1)], dim=1)


def front_of(
    layout: Layout, knows_C: Tensor | None, like: Tensor, *, structured: bool = False
) -> Tensor:
    """How an answer is laid out and which classes the model knows, as it stands in front of each answer, [B, HEADER + C]."""
    stride = -layout.stride if structured else layout.stride
    about = (layout.classes, layout.rows, layout.columns, stride)
    knows = torch.ones(layout.classes) if knows_C is None else knows_C
    front = torch.cat([torch.tensor(about, dtype=torch.float32), knows.float().cpu()])
    return front.to(like).expand(like.shape[0], -1)


def unpacked(answers_BA: Tensor, layout: Layout | None = None) -> Heads:
    """Answers as what they mean.

    Args:
        answers_BA: of `packed`.
        layout: where it is known; None reads it in the answers.

    Raises:
        ValueError: they are no answers of a detector, or of another layout.
    """
    layout = layout or layout_of(answers_BA)
    if answers_BA.shape[1] != layout.width:
        raise ValueError(
            f"answers have {answers_BA.shape[1]} numbers, {layout} has {layout.width}: teachers and student need the "
            "same classes, image size, stride and bins"
        )
    first = HEADER + layout.classes
    second = first + layout.locations * layout.classes
    third, spread = second + 4 * layout.locations, (layout.locations, 4, layout.bins)
    return Heads(
        layout,
        answers_BA[:, HEADER:first] > 0.5,
        answers_BA[:, first:second].unflatten(1, (layout.locations, layout.classes)),
        answers_BA[:, second:third].unflatten(1, (layout.locations, 4)),
        answers_BA[:, third:].unflatten(1, spread) if layout.bins > 1 else None,
    )


def label_rows(
    images: Sequence[tuple[Sequence[int], Sequence[Sequence[float]]] | None],
    crowds: Sequence[Sequence[bool]] | None = None,
) -> np.ndarray:
    """True boxes of images as label rows, float32 [B, 1 + 6M], M the most boxes of an image, at least 1.

    Args:
        images: of each the classes and corners of its boxes; None where it is not labelled, which is not the same as
            none at all.
        crowds: which of an image's boxes are crowds; None where there are none.
    """
    most = max([1, *(len(one[0]) for one in images if one is not None)])
    rows = np.full((len(images), 1 + BOX * most), np.nan, np.float32)
    for number, one in enumerate(images):
        if one is None:
            continue
        rows[number] = 0.0
        rows[number, 0] = len(one[0])
        boxes = rows[number, 1:].reshape(most, BOX)[: len(one[0])]
        if len(one[0]):
            boxes[:, CLASS], boxes[:, CORNERS], boxes[:, SCORE] = one[0], one[1], 1.0
            if crowds is not None:
                boxes[np.asarray(crowds[number], bool), SCORE] = CROWD
    return rows


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """Label rows as what they mean; of images without labels there are no boxes.

    Attributes:
        boxes_BM4: corners.
        classes_BM: int64.
        scores_BM: 1, the ensemble's score, or −1 of a crowd; 0 where there is no box.
        present_BM: bool; crowds count as present.
    """

    boxes_BM4: Tensor
    classes_BM: Tensor
    scores_BM: Tensor
    present_BM: Tensor


def true_boxes(labels_BL: Tensor) -> TrueBoxes:
    """The boxes of label rows.

    Raises:
        ValueError: they are no label rows.
    """
    if labels_BL.ndim != 2 or labels_BL.shape[1] % BOX != 1:
        raise ValueError(f"labels of boxes are [B, 1 + {BOX}M], found {list(labels_BL.shape)}")
    safe = torch.nan_to_num(labels_BL, nan=0.0)
    boxes = safe[:, 1:].unflatten(1, (safe.shape[1] // BOX, BOX))
    places = torch.arange(boxes.shape[1], device=boxes.device)
    present = places < safe[:, :1]
    return TrueBoxes(
        boxes[..., CORNERS], boxes[..., CLASS].long(), boxes[..., SCORE] * present, present
    )


def rows_of(
    boxes_BN4: Tensor, scores_BN: Tensor, classes_BN: Tensor, most: int, *, soft: bool
) -> Tensor:
    """Boxes that were found, the surest first, as label rows [B, 1 + 6M].

    Args:
        boxes_BN4: corners.
        scores_BN: 0 where there is no box.
        classes_BN: int64.
        most: M.
        soft: whether scores are kept; else each box counts as sure.
    """
    boxes, scores, classes = boxes_BN4[:, :most], scores_BN[:, :most], classes_BN[:, :most]
    there = scores > 0
    kept = scores if soft else there.to(scores)
    rows = torch.cat([classes[..., None].to(boxes), boxes, kept[..., None]], dim=-1)
    rows = torch.where(there[..., None], rows, 0.0)
    count = there.sum(1, keepdim=True).to(boxes)
    missing = most - boxes.shape[1]
    return torch.nn.functional.pad(torch.cat([count, rows.flatten(1)], dim=1), (0, BOX * missing))
