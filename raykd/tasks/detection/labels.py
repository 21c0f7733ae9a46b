"""Labels of images with boxes: rows as of `raykd.detection.layout`, float32 [N, 1 + 6M], NaN where not labelled."""

from __future__ import annotations

import numpy as np

from raykd.data.geometry import Places, boxes_cut, boxes_moved, visible_share
from raykd.data.labels import LabelFormat
from raykd.detection.layout import BOX, CLASS, CORNERS, CROWD, HEADER, SCORE, layout_for
from raykd.types import is_labelled

STRIDE = 4
"""Pixels between two locations of a detector, see `raykd.models.zoo.detector`."""
_SHOWN = 4


class _BoxFormat(LabelFormat):
    """Rows of boxes, as long as the image with most boxes needs."""

    def empty(self, count: int, outputs: int) -> np.ndarray:  # noqa: ARG002 - one signature for all tasks
        """Labels of `count` images of which none is labelled."""
        return np.full((count, 1 + BOX), np.nan, np.float32)


def moved_rows(labels_BL: np.ndarray, places: Places, visible: float) -> np.ndarray:
    """Rows of boxes, or of boxes that were found, of moved images: cut at what is seen, and in the order that they had.

    What is outside is left out. A box of which less than `visible` of its area is left is nothing to be found, and what is
    left of it is a crowd: a region in which boxes are neither right nor wrong. A row without labels stays without.

    Args:
        labels_BL: rows as of `raykd.detection.layout`.
        places: where the images are in their views.
        visible: in [0, 1].

    Returns:
        float32 [B, L].
    """
    safe_BL = np.nan_to_num(labels_BL, nan=0.0)
    boxes = safe_BL[:, 1:].reshape(len(safe_BL), safe_BL.shape[1] // BOX, BOX)
    there_BM = np.arange(boxes.shape[1]) < safe_BL[:, :1]
    moved_BM4 = boxes_moved(boxes[..., CORNERS], places.maps_B23)
    cut_BM4 = boxes_cut(moved_BM4, places.seen_B4)
    share_BM = visible_share(moved_BM4, cut_BM4) * there_BM
    score_BM = np.where(share_BM >= visible, boxes[..., SCORE], CROWD)
    rows = np.concatenate([boxes[..., :1], cut_BM4, score_BM[..., None]], axis=-1)
    kept_BM = share_BM > 0
    first = np.argsort(~kept_BM, axis=1, kind="stable")[..., None]
    rows = np.take_along_axis(np.where(kept_BM[..., None], rows, 0.0), first, axis=1)
    count_B1 = kept_BM.sum(axis=1, keepdims=True)
    found_BL = np.concatenate([count_B1, rows.reshape(len(rows), -1)], axis=1).astype(np.float32)
    found_BL[~is_labelled(labels_BL)] = np.nan
    return found_BL


def moved_answers(answers_BU: np.ndarray, places: Places, visible: float) -> np.ndarray:
    """Boxes that were found in whole images as those of moved ones, [B, U]; see `raykd.detection.structured`.

    Cut as true boxes are; one of which less than `visible` of its area is left is left out.

    Args:
        answers_BU: rows of raw boxes, their first numbers that say something.
        places: where the images are in their views.
        visible: in [0, 1].
    """
    first = HEADER + int(answers_BU[:, 0].max())
    front_BF, count_B1 = answers_BU[:, :first], answers_BU[:, first : first + 1]
    slots = answers_BU[:, first + 1 :]
    boxes = slots.reshape(len(slots), -1, first)  # four corners, and a probability of each class
    moved_BM4 = boxes_moved(boxes[..., :4], places.maps_B23)
    cut_BM4 = boxes_cut(moved_BM4, places.seen_B4)
    share_BM = visible_share(moved_BM4, cut_BM4) * (np.arange(boxes.shape[1]) < count_B1)
    kept_BM = (share_BM >= visible) & (share_BM > 0)
    order = np.argsort(~kept_BM, axis=1, kind="stable")[..., None]
    found = np.where(kept_BM[..., None], np.concatenate([cut_BM4, boxes[..., 4:]], axis=-1), 0.0)
    found = np.take_along_axis(found, order, axis=1).reshape(slots.shape)
    parts = [front_BF, kept_BM.sum(axis=1, keepdims=True), found]
    return np.concatenate(parts, axis=1).astype(np.float32)


def boxes_of(labels: np.ndarray) -> np.ndarray:
    """All boxes of the labelled rows, float32 [K, 6]."""
    known = labels[is_labelled(labels)]
    boxes = known[:, 1:].reshape(len(known), known.shape[1] // BOX, BOX)
    there = np.arange(boxes.shape[1]) < known[:, :1]
    found: np.ndarray = boxes[there]
    return found


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in "fiu":
        return (
            f"found {array.dtype} {list(array.shape)}; needs [{count}, 1 + {BOX}M], a row of boxes for each image: make "
            "them by raykd.detection.layout.label_rows"
        )
    if array.shape[1] < 1 + BOX or array.shape[1] % BOX != 1:
        return f"found rows of {array.shape[1]} numbers; needs 1 + {BOX}M: see raykd.detection.layout.label_rows"
    rows = array.astype(np.float32)
    known = is_labelled(rows)
    if np.isinf(rows).any() or (np.isnan(rows).any(1) & ~np.isnan(rows).all(1)).any():
        return "found NaN or infinity in a row of boxes; a row is finite, or NaN throughout where not labelled"
    numbers = rows[known, 0]
    most = rows.shape[1] // BOX
    if ((numbers != np.round(numbers)) | (numbers < 0) | (numbers > most)).any():
        return f"found numbers of boxes from {numbers.min():g} to {numbers.max():g}; allowed are whole ones, 0 to {most}"
    return _wrong_boxes(rows) or rows


def _wrong_boxes(rows: np.ndarray) -> str:
    """What is wrong with a box, and in which row; empty where nothing is."""
    for row in np.flatnonzero(is_labelled(rows)).tolist():
        for number, box in enumerate(boxes_of(rows[row : row + 1])):
            x1, y1, x2, y2 = box[CORNERS].tolist()
            where = f"box {number} of row {row} (both from 0) is ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
            if not (x2 > x1 and y2 > y1):
                return f"{where}; corners are (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
            if box[CLASS] < 0 or box[CLASS] != round(float(box[CLASS])):
                return f"{where} of class {box[CLASS]:g}; classes are numbered from 0"
            if not -1 <= box[SCORE] <= 1:
                return f"{where} with score {box[SCORE]:g}; allowed are 0 to 1, and −1 for a crowd"
    return ""


def _names(labels: np.ndarray) -> tuple[str, ...]:
    boxes = boxes_of(labels)
    most = int(boxes[:, CLASS].max()) if len(boxes) else 0
    return tuple(map(str, range(most + 1)))


def _fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
    boxes = boxes_of(labels)
    if len(boxes) and boxes[:, CLASS].max() >= len(names):
        return f"found class {boxes[:, CLASS].max():g}, and {len(names)} names; classes are 0 to {len(names) - 1}"
    return None


def _counts(labels: np.ndarray, outputs: int) -> np.ndarray:  # noqa: ARG001 - outputs are no classes here
    boxes = boxes_of(labels)[:, CLASS].astype(np.int64)
    return np.bincount(boxes, minlength=1)


def _missing(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    there = set(boxes_of(labels)[:, CLASS].astype(int).tolist())
    return [name for number, name in enumerate(names) if number not in there]


def _shown(label: np.ndarray, names: tuple[str, ...]) -> str:
    if not is_labelled(label[None])[0]:
        return "?"
    classes = boxes_of(label[None])[:, CLASS].astype(int).tolist()
    words = [names[one] if one < len(names) else str(one) for one in classes]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more if words else "no boxes"


def _holds(labels: np.ndarray, number: int) -> np.ndarray:
    boxes = np.nan_to_num(labels[:, 1:], nan=-1.0).reshape(len(labels), labels.shape[1] // BOX, BOX)
    there = np.arange(boxes.shape[1]) < np.nan_to_num(labels[:, :1], nan=0.0)
    found: np.ndarray = ((boxes[..., CLASS] == number) & there).any(1)
    return found


def _width(names: tuple[str, ...], shape: tuple[int, ...], bins: int) -> int:
    height, width = shape[-2:]
    return layout_for(len(names), height, width, stride=STRIDE, bins=bins).width


LABELS = _BoxFormat(
    clean=_clean,
    names=_names,
    fits=_fits,
    strata=lambda labels: np.where(is_labelled(labels), 0, -1).astype(np.int64),
    counts=_counts,
    shown=_shown,
    missing=_missing,
    missing_text="classes have no box in the labelled training images",
    unknown=float("nan"),
    holds=_holds,
    counted=lambda names: f"boxes of {len(names)} classes",
    outputs=lambda names, shape: _width(names, shape, 1),
    binned=_width,
    follow=moved_rows,
    answers_follow=moved_answers,
    outlines=lambda label: boxes_of(label[None])[:, CORNERS],
)
