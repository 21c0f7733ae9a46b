"""Exported embeddings: vectors whose cosines say what is alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raykd.export.task import WORST, Predicted, TaskExport, quoted
from raykd.tasks.embedding.metrics import average_precisions


def _weak_spots(vectors_ND: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    missed_M = 1 - average_precisions(vectors_ND, labels_N)
    asked = labels_N[labels_N.bincount()[labels_N] > 1]
    sum_C = torch.zeros(len(names), dtype=missed_M.dtype).index_add(0, asked, missed_M)
    mean_C = (sum_C / asked.bincount(minlength=len(names)).clamp(min=1)).numpy()
    weakest = np.argsort(-mean_C, kind="stable")[:WORST]
    shown = ", ".join(f"{quoted(names[c])} {100 * (1 - mean_C[c]):.1f} %" for c in weakest)
    return f"Lowest mAP@10 of a class on test: {shown}."


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    index_N = np.arange(len(outputs_NC))
    words = tuple(f"[{len(names)} numbers]" for _ in index_N)
    return Predicted(names, words, index_N, None, outputs_NC.numpy())


_TAGS = {"text": "sentence-similarity", "image": "image-feature-extraction"}
EXPORT = TaskExport(
    outputs={"embeddings": "[batch, dimension], of any length; their cosines say what is alike"},
    of_network=lambda vectors_BD, _: (vectors_BD,),
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=lambda kind: _TAGS.get(kind or ""),
    sized=lambda count: f"a vector of {count}",
)
