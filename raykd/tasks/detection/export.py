"""An exported detector: its boxes, decoded and without doubles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raykd.detection.layout import Heads, layout_for, layout_of, of_width, true_boxes, unpacked
from raykd.detection.locations import found_at
from raykd.export.found_boxes import in_words
from raykd.export.task import WORST, Boxes, OfNetwork, Predicted, TaskExport, quoted
from raykd.tasks.detection.labels import STRIDE
from raykd.tasks.detection.metrics import KEPT, box_metrics, found_rows

_ROUNDS = 12
"""A graph has so many rounds of suppression; chains of boxes that hang on each other are hardly ever longer."""


def _boxes(answers_BA: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    found = found_at(heads.scores_BNC, heads.boxes_BN4, most=KEPT, candidates=100, rounds=_ROUNDS)
    return answers_BA, found.boxes_BN4, found.scores_BN, found.classes_BN.to(torch.float32)


def _of_network(answers_BA: Tensor, _temperature: float) -> tuple[Tensor, ...]:
    return _boxes(answers_BA, unpacked(answers_BA, layout_of(answers_BA)))


def _for_shape(classes: int, shape: tuple[int, ...]) -> OfNetwork:
    layout = layout_for(classes, *shape[-2:], stride=STRIDE)

    def of_network(answers_BA: Tensor, _temperature: float) -> tuple[Tensor, ...]:
        """Bins show in the width, which a graph knows."""
        own = of_width(layout, int(answers_BA.shape[1]))
        return _boxes(answers_BA, unpacked(answers_BA, own))

    return of_network


def _rows_said(rows_BL: Tensor, names: Sequence[str]) -> Predicted:
    boxes = true_boxes(rows_BL)
    found = tuple(
        Boxes(four[there].numpy(), label[there].numpy(), score[there].numpy())
        for four, label, score, there in zip(
            boxes.boxes_BM4, boxes.classes_BM, boxes.scores_BM, boxes.present_BM, strict=True
        )
    )
    words = tuple(in_words(one, names) for one in found)
    return Predicted(tuple(names), words, np.arange(len(words)), None, boxes=found)


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    return _rows_said(found_rows(outputs_NC), names)


def _weak_spots(rows_BL: Tensor, labels_BL: Tensor, names: Sequence[str]) -> str:
    numbers = box_metrics(rows_BL, labels_BL)
    by_class = sorted((numbers[f"ap.{c}"], c) for c in range(len(names)) if f"ap.{c}" in numbers)
    shown = ", ".join(f"{quoted(names[c])} {value:.3f}" for value, c in by_class[:WORST])
    return f"Lowest mAP 50:95 of a class on test: {shown}."


EXPORT = TaskExport(
    outputs={
        "answers": "[batch, A], what every location says, see raykd.detection.layout",
        "boxes": f"[batch, {KEPT}, 4], corners (x1, y1, x2, y2) in pixels of the image, the surest first",
        "scores": f"[batch, {KEPT}], from 0.05 on; 0 = no box",
        "classes": f"[batch, {KEPT}], numbers of the classes from 0, as float32",
    },
    of_network=_of_network,
    of_network_for=_for_shape,
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=lambda kind: "object-detection" if kind == "image" else None,
    sized=lambda count: f"boxes of {count} classes",
    of_columns=lambda rows_BL: _rows_said(rows_BL, ()),
)
