"""Average precision of boxes, number for number that of pycocotools; float64 on the host.

An image's boxes are matched once; what follows from the matches is computed from all images together, also for images
that are drawn again by a bootstrap: average precision is no mean over images.

Shape suffixes: I images, G true boxes of an image, D found boxes, T thresholds of IoU, C classes, R draws, Q recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of IoU: 0.50, 0.55, ..., 0.95."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Found boxes of an image and class that count; the surest ones."""
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's sizes: areas in square pixels, both ends included."""
_ALL = (0.0, 1e10)
_BELOW_ONE = 1 - 1e-10


@dataclass(frozen=True, kw_only=True)
class ImageBoxes:
    """What there is in one image and what was found in it; boxes are corners in pixels.

    Attributes:
        true_G4: true boxes.
        class_G: their classes, from 0.
        found_D4: found boxes.
        score_D: their scores.
        found_class_D: their classes.
        crowd_G: bool; a region with many objects, in which boxes are neither right nor wrong. None is nowhere.
        area_G: of the objects, where they are not the boxes' own.
    """

    true_G4: np.ndarray
    class_G: np.ndarray
    found_D4: np.ndarray
    score_D: np.ndarray
    found_class_D: np.ndarray
    crowd_G: np.ndarray | None = None
    area_G: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Found boxes of one class in all images, the surest first, and whether each is right at each threshold.

    Attributes:
        image_D: which image each is of.
        score_D: scores.
        right_TD: bool, matched to a true box that counts.
        wrong_TD: bool, matched to none; what is neither is ignored.
        true_I: true boxes of each image that count.
    """

    image_D: np.ndarray
    score_D: np.ndarray
    right_TD: np.ndarray
    wrong_TD: np.ndarray
    true_I: np.ndarray


def matched(
    images: Sequence[ImageBoxes],
    label: int,
    *,
    area: tuple[float, float] = _ALL,
    thresholds: np.ndarray = THRESHOLDS,
    most: int = MOST,
) -> Matches:
    """The matches of one class, as pycocotools' `evaluateImg` finds them.

    True boxes outside the range of areas, and crowds, are ignored, and with them what is found there.
    """
    there = [
        number
        for number, one in enumerate(images)
        if (one.class_G == label).any() or (one.found_class_D == label).any()
    ]
    parts = [_of_image(images[number], label, area, thresholds, most) for number in there]
    image_D = np.repeat(np.array(there, np.int64), [len(part.score_D) for part in parts])
    true_I = np.zeros(len(images), np.int64)
    true_I[there] = [int(part.true_I.sum()) for part in parts]
    score_D = _joined([part.score_D for part in parts])
    order = np.argsort(-score_D, kind="mergesort")
    empty = np.zeros((len(thresholds), 0), dtype=bool)
    right = np.concatenate([empty, *(part.right_TD for part in parts)], axis=1)
    wrong = np.concatenate([empty, *(part.wrong_TD for part in parts)], axis=1)
    return Matches(
        image_D=image_D[order],
        score_D=score_D[order],
        right_TD=right[:, order],
        wrong_TD=wrong[:, order],
        true_I=true_I,
    )


def precision_curve(
    matches: Matches, *, times_I: np.ndarray | None = None, recalls: np.ndarray = RECALLS
) -> np.ndarray:
    """Precision at each recall, [T, Q]: the best that is reached at this recall or a higher one; NaN without true boxes.

    Args:
        matches: of one class.
        times_I: how often each image counts; None is once. An image that counts k times is k images.
        recalls: rising, in [0, 1].
    """
    thresholds = len(matches.right_TD)
    times = np.ones(len(matches.true_I)) if times_I is None else times_I.astype(np.float64)
    truths = float((times * matches.true_I).sum())
    if not truths:
        return np.full((thresholds, len(recalls)), np.nan)
    weight_D = times[matches.image_D]
    counted = weight_D > 0
    weight_D = weight_D[counted]
    right = np.cumsum(matches.right_TD[:, counted] * weight_D, axis=1)
    wrong = np.cumsum(matches.wrong_TD[:, counted] * weight_D, axis=1)
    precision = right / (right + wrong + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall, curve = right / truths, np.zeros((thresholds, len(recalls)))
    for t in range(thresholds):
        places = np.searchsorted(recall[t], recalls, side="left")
        there = places < recall.shape[1]
        curve[t, there] = best[t, places[there]]
    return curve


@dataclass(frozen=True)
class Average:
    """Average precisions of one model.

    Attributes:
        mean: over thresholds 0.50 to 0.95 and classes ("AP", mAP 50:95).
        at_50: at the threshold 0.50 ("AP50").
        at_75: at the threshold 0.75.
        by_class: "AP" of each class; NaN of one without true boxes.
        by_size: "AP" of each size; NaN of one without true boxes.
    """

    mean: float
    at_50: float
    at_75: float
    by_class: np.ndarray
    by_size: dict[str, float] = field(default_factory=dict)


def average_precision(
    images: Sequence[ImageBoxes],
    *,
    classes: int,
    sizes: dict[str, tuple[float, float]] | None = None,
) -> Average:
    """Mean AP 50:95, AP50, AP75, by class and by size; NaN where no class has a true box.

    Args:
        images: all images of a split, also those without boxes.
        classes: C.
        sizes: ranges of areas in square pixels; None are COCO's.
    """
    curves_CTQ = np.stack([precision_curve(matched(images, c)) for c in range(classes)])
    by_size = {
        name: _of_size(images, classes, area)
        for name, area in (SIZES if sizes is None else sizes).items()
    }
    return Average(
        mean=_mean(curves_CTQ),
        at_50=_mean(curves_CTQ[:, _place(0.5)]),
        at_75=_mean(curves_CTQ[:, _place(0.75)]),
        by_class=np.array([_mean(one) for one in curves_CTQ]),
        by_size=by_size,
    )


def _of_size(images: Sequence[ImageBoxes], classes: int, area: tuple[float, float]) -> float:
    """AP of one range of areas; NaN, at once, where no true box is in it."""
    sizes = [_sizes(one) for one in images]
    if not any(((size >= area[0]) & (size <= area[1])).any() for size in sizes):
        return float("nan")
    found = [precision_curve(matched(images, c, area=area)) for c in range(classes)]
    return _mean(np.stack(found))


def redrawn(
    matches_C: Sequence[Matches], times_RI: np.ndarray, *, threshold: float | None = None
) -> np.ndarray:
    """Average precision of images that are drawn again, [R]: accumulated anew for each draw.

    Args:
        matches_C: of each class, see `matched`.
        times_RI: how often each image was drawn.
        threshold: of IoU; None is the mean over all.
    """
    found = []
    for times_I in times_RI:
        curves = np.stack([precision_curve(one, times_I=times_I) for one in matches_C])
        found.append(_mean(curves if threshold is None else curves[:, _place(threshold)]))
    return np.array(found)


def drawn_again(images: int, *, draws: int, seed: int) -> np.ndarray:
    """How often each image is in each bootstrap sample, int64 [R, I]; the rows add up to I."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=draws)


def overlaps(found_D4: np.ndarray, true_G4: np.ndarray, crowd_G: np.ndarray) -> np.ndarray:
    """IoU [D, G] in float64, of a crowd the share of the found box that lies in it."""
    found, true = found_D4[:, None].astype(np.float64), true_G4[None].astype(np.float64)
    sides = np.minimum(found[..., 2:], true[..., 2:]) - np.maximum(found[..., :2], true[..., :2])
    shared = np.where((sides > 0).all(-1), sides.prod(-1), 0.0)
    own, other = _areas(found), _areas(true)
    union = np.where(crowd_G, own, own + other - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _of_image(
    image: ImageBoxes,
    label: int,
    area: tuple[float, float],
    thresholds: np.ndarray,
    most: int,
) -> Matches:
    mine, own = image.class_G == label, image.found_class_D == label
    true, found, score = image.true_G4[mine], image.found_D4[own], image.score_D[own]
    crowd = np.zeros(len(true), bool) if image.crowd_G is None else image.crowd_G[mine].astype(bool)
    size = _sizes(image)[mine]
    order = np.argsort(-score, kind="mergesort")[:most]
    found, score = found[order], score[order]
    skipped = crowd | (size < area[0]) | (size > area[1])
    if not len(true):
        box_TD = np.full((len(thresholds), len(found)), -1)
    else:
        box_TD = _assigned(overlaps(found, true, crowd), skipped, crowd, thresholds)
    none_TD = box_TD < 0
    ignored_TD = ~none_TD & np.append(skipped, False)[box_TD]
    outside_D = _areas(found.astype(np.float64))
    outside_D = (outside_D < area[0]) | (outside_D > area[1])
    return Matches(
        image_D=np.zeros(len(found), np.int64),
        score_D=score.astype(np.float64),
        right_TD=~none_TD & ~ignored_TD,
        wrong_TD=none_TD & ~outside_D,
        true_I=np.array([int((~skipped).sum())]),
    )


def _assigned(
    iou_DG: np.ndarray, skipped_G: np.ndarray, crowd_G: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """The true box of each found one [T, D], −1 for none: the best that is free, one that counts before one that is skipped.

    Among equals the last, as pycocotools does; a crowd is always free.
    """
    order = np.argsort(skipped_G, kind="mergesort")
    iou_DG, skipped, crowd = iou_DG[:, order], skipped_G[order], crowd_G[order]
    least_T = np.minimum(thresholds, _BELOW_ONE)
    taken_TG = np.zeros((len(thresholds), len(order)), dtype=bool)
    found = np.full((len(thresholds), len(iou_DG)), -1)
    every_T, last = np.arange(len(thresholds)), len(order) - 1
    for d, iou_G in enumerate(iou_DG):
        fits_TG = (iou_G >= least_T[:, None]) & (~taken_TG | crowd)
        counting_TG = fits_TG & ~skipped
        use_TG = np.where(counting_TG.any(1, keepdims=True), counting_TG, fits_TG)
        value_TG = np.where(use_TG, iou_G, -1.0)
        best_T = last - value_TG[:, ::-1].argmax(1)
        hit_T = use_TG.any(1)
        taken_TG[every_T, best_T] |= hit_T
        found[hit_T, d] = order[best_T[hit_T]]
    return found


def _sizes(image: ImageBoxes) -> np.ndarray:
    """Areas of the true boxes."""
    if image.area_G is not None:
        return image.area_G
    return _areas(image.true_G4.astype(np.float64))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])


def _place(threshold: float) -> int:
    return int(np.abs(THRESHOLDS - threshold).argmin())


def _mean(curves: np.ndarray) -> float:
    there = curves[~np.isnan(curves)]
    return float(there.mean()) if there.size else float("nan")
