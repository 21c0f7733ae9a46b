"""How well boxes are found: mean average precision, as COCO has it. An image is a sample.

Shapes: B images, A numbers of an answer, L of a label row, K found boxes that are kept; see `raykd.detection.layout`. What
evaluation keeps of an answer are its boxes, as a row of labels with scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.detection.boxes import iou
from raykd.detection.layout import BOX, TrueBoxes, layout_of, rows_of, true_boxes
from raykd.detection.precision import (
    ImageBoxes,
    Matches,
    average_precision,
    drawn_again,
    matched,
    redrawn,
)
from raykd.detection.structured import are_structured, read_answers, used
from raykd.ensemble.detectors import found_in, fused_answers, mean_answers
from raykd.evaluate.task import TaskMetrics, unchanged
from raykd.types import is_labelled

KEPT = 50
"""Boxes that are kept of an answer."""
SURE = 0.4
"""Score from which a box is shown, and counts as what a model says is there."""
_LEAST = 0.05
"""Score from which a fused box is kept, as of one model's."""
_BINS = 10
_GAP = 1e-3
_MOST_IMAGES = 256
__all__ = ["KEPT", "METRICS", "SURE", "box_metrics", "drawn_again", "found_rows", "images_of"]


def found_rows(answers_BA: Tensor) -> Tensor:
    """The boxes that a detector finds, the surest first, as rows [B, 1 + 6K]; none where answers are zeros: nobody gave them.

    Raises:
        ValueError: they are no answers of a detector.
    """
    if not bool(answers_BA.any()):
        return answers_BA.new_zeros(len(answers_BA), 1 + BOX * KEPT)
    layout, parts = layout_of(answers_BA), []
    for some in answers_BA.float().split(_MOST_IMAGES):
        found = found_in(read_answers(some, layout), most=KEPT)
        rows = rows_of(found.boxes_BN4, found.scores_BN, found.classes_BN, KEPT, soft=True)
        parts.append(rows)
    return torch.cat(parts)


def images_of(found_BL: Tensor, labels_BL: Tensor) -> list[ImageBoxes]:
    """Found and true boxes of the labelled images, on the host.

    Raises:
        ValueError: the numbers of images differ, or none is labelled.
    """
    if len(found_BL) != len(labels_BL):
        raise ValueError(f"{len(found_BL)} answers need as many labels, found {len(labels_BL)}")
    known_B = is_labelled(labels_BL)
    if not bool(known_B.any()):
        raise ValueError("none of the images is labelled, so there is nothing to measure against")
    sides = (true_boxes(one[known_B].double().cpu()) for one in (found_BL, labels_BL))
    return [_image(*pair) for pair in zip(*map(_by_image, sides), strict=True)]


def box_metrics(found_BL: Tensor, labels_BL: Tensor) -> dict[str, float]:
    """Every number of one model on one split.

    Args:
        found_BL: see `found_rows`.
        labels_BL: label rows, NaN where not labelled.

    Returns:
        `ap`, the mean over IoU 0.50 to 0.95 and classes; `ap50`, `ap75`; `ap_small`, `ap_medium`, `ap_large` by COCO's sizes
        and `ap.<number>` of each class, of what has true boxes. `score_error`: the mean distance between
        the score of boxes (from 0.05 on) and the share of them that is right at IoU 0.5, in ten bins of scores.

    Raises:
        ValueError: the numbers of images differ, or none is labelled.
    """
    images = images_of(found_BL, labels_BL)
    classes = 1 + max(
        int(_most_class(one)) for one in (found_BL, labels_BL[is_labelled(labels_BL)])
    )
    average = average_precision(images, classes=classes)
    by_class = enumerate(average.by_class.tolist())
    return {
        "ap": average.mean,
        "ap50": average.at_50,
        "ap75": average.at_75,
        **{f"ap_{name}": value for name, value in average.by_size.items() if value == value},
        "score_error": _score_error([matched(images, c) for c in range(classes)]),
        **{f"ap.{number}": value for number, value in by_class if value == value},
    }


def _score_error(matches: Sequence[Matches]) -> float:
    """Expected calibration error of the boxes' scores at IoU 0.5 (Guo et al. 2017, eq. 3); 0 without boxes."""
    scores = np.concatenate([one.score_D for one in matches])
    right = np.concatenate([one.right_TD[0] for one in matches])
    counted = right | np.concatenate([one.wrong_TD[0] for one in matches])
    scores, right = scores[counted], right[counted]
    if not len(scores):
        return 0.0
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    away = np.bincount(bins, scores - right, minlength=_BINS)
    return float(np.abs(away).sum() / len(scores))


def _redrawn(found_BL: Tensor, labels_BL: Tensor, times_SM: np.ndarray) -> np.ndarray:
    images = images_of(found_BL, labels_BL)
    classes = 1 + int(_most_class(labels_BL[is_labelled(labels_BL)]))
    return redrawn([matched(images, c) for c in range(classes)], times_SM)


def _scores(found_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """Of each labelled image the share of its boxes that are found, less what is found and is not there, [M] in [0, 1].

    2 · right / (true + found), of boxes that the model is sure of, at IoU 0.5 (F1); 1 where there is nothing and nothing is
    found. The metric is no mean of it.
    """
    known_B = is_labelled(labels_BL)
    found, truth = true_boxes(found_BL[known_B]), true_boxes(labels_BL[known_B])
    return _agreement(found, truth)


def _agreement(one: TrueBoxes, other: TrueBoxes) -> Tensor:
    """F1 of the boxes of two sides that are sure, image by image [B]."""
    sure_BN, there_BM = one.scores_BM >= SURE, other.scores_BM >= SURE
    fits = iou(one.boxes_BM4, other.boxes_BM4) >= 0.5
    fits &= one.classes_BM[:, :, None] == other.classes_BM[:, None, :]
    fits &= sure_BN[:, :, None] & there_BM[:, None, :]
    right_B = torch.minimum(fits.any(2).sum(1), fits.any(1).sum(1))
    total_B = sure_BN.sum(1) + there_BM.sum(1)
    return torch.where(total_B > 0, 2 * right_B / total_B.clamp(min=1), 1.0)


def _ensemble(outputs: Sequence[Tensor]) -> Tensor:
    stacked_TBA = torch.stack(tuple(outputs))
    if not bool(stacked_TBA.any()):
        return found_rows(stacked_TBA[0])
    if any(map(are_structured, stacked_TBA)):
        answered_TB = stacked_TBA.any(-1).to(stacked_TBA)
        found, _ = fused_answers(stacked_TBA, answered_TB, threshold=_LEAST)
        return rows_of(found.boxes_BN4, found.scores_BN, found.classes_BN, KEPT, soft=True)
    return found_rows(mean_answers(stacked_TBA, torch.ones(stacked_TBA.shape[:2])))


def _fidelity(student: Tensor, ensemble: Tensor, teachers: Mapping[str, Tensor]) -> dict[str, Any]:
    own = true_boxes(student)

    def like(other_BL: Tensor) -> float:
        return float(_agreement(own, true_boxes(other_BL)).mean())

    return {
        "agreement_ensemble": like(ensemble),
        "agreement": {name: like(one) for name, one in teachers.items()},
    }


def _difference(one_BL: Tensor, other_BL: Tensor) -> Tensor:
    apart_B = 1 - _agreement(true_boxes(one_BL), true_boxes(other_BL))
    return torch.where(apart_B > 0, apart_B, -torch.inf)


def _by_image(boxes: TrueBoxes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Corners, classes and scores of the boxes of each image."""
    arrays = (boxes.boxes_BM4, boxes.classes_BM, boxes.scores_BM, boxes.present_BM)
    rows = zip(*(one.numpy() for one in arrays), strict=True)
    return [(four[there], label[there], score[there]) for four, label, score, there in rows]


def _image(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> ImageBoxes:
    return ImageBoxes(
        true_G4=truth[0],
        class_G=truth[1],
        found_D4=found[0],
        score_D=found[2],
        found_class_D=found[1],
        crowd_G=truth[2] < 0,
    )


def _used(answers_BA: Tensor) -> int | None:
    return used(layout_of(answers_BA)) if are_structured(answers_BA) else None


def _most_class(rows_BL: Tensor) -> int:
    boxes = true_boxes(rows_BL)
    return int((boxes.classes_BM * boxes.present_BM).max()) if len(rows_BL) else 0


METRICS = TaskMetrics(
    kind="value",
    metric="ap",
    ties="ap50",
    lower_is_better=frozenset({"score_error"}),
    answer=found_rows,
    ensemble=_ensemble,
    numbers=box_metrics,
    tally=None,
    tallied=0,
    total=None,
    scores=_scores,
    from_scores=None,
    comparable=unchanged,
    fidelity=_fidelity,
    difference=_difference,
    error=lambda numbers: 1 - numbers["ap"],
    smallest_gap=lambda _: _GAP,
    calibrate=None,
    right_or_wrong=False,
    own_labels=True,
    redrawn=_redrawn,
    used=_used,
)
