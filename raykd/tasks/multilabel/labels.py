"""Labels of a multilabel task: int64 [N, K] of 0 and 1, rows of −1 where unlabelled."""

from __future__ import annotations

import numpy as np

from raykd.data.labels import LabelFormat
from raykd.types import UNLABELLED, is_labelled

_BINARY = (0, 1)


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.ndim != len(("N", "K")) or len(array) != count or not array.shape[1]:
        return f"found shape {list(array.shape)}; multilabel needs [{count}, K], a column for each label"
    if array.dtype.kind not in "biuf":
        return f"found dtype {array.dtype}; multilabel needs 0 and 1, rows of −1 where unlabelled"
    marks = np.where(np.isnan(array), UNLABELLED, array) if array.dtype.kind == "f" else array
    known = (marks != UNLABELLED).all(axis=1)
    half = (marks == UNLABELLED).any(axis=1) & (marks != UNLABELLED).any(axis=1)
    if half.any():
        return f"{int(half.sum())} samples are labelled in part; a row is of 0 and 1, or all −1"
    if not np.isin(marks[known], _BINARY).all():
        return "found other values than 0 and 1; a row is of 0 and 1, or all −1 where unlabelled"
    return marks.astype(np.int64)


def _names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(labels.shape[1]))


def _fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
    if len(names) == labels.shape[1]:
        return None
    return f"found {labels.shape[1]} columns of labels and {len(names)} names; each needs one"


def _rarest(labels: np.ndarray) -> np.ndarray:
    """The rarest label that a sample has; K where it has none.

    So that rare labels are split in proportion, the idea of iterative stratification (Sechidis,
    Tsoumakas & Vlahavas 2011) in one step.
    """
    known = is_labelled(labels)
    outputs = labels.shape[1]
    order = np.argsort(np.where(known[:, None], labels, 0).sum(axis=0), kind="stable")
    strata = np.full(len(labels), outputs, dtype=np.int64)
    for label in order[::-1]:  # the rarest is written last
        strata[labels[:, label] == 1] = label
    strata[~known] = UNLABELLED
    return strata


def _shown(label: np.ndarray, names: tuple[str, ...]) -> str:
    held = [name for name, mark in zip(names, label, strict=True) if mark == 1]
    return "?" if (label == UNLABELLED).all() else ", ".join(held) or "none"


def _one_sided(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    known = labels[is_labelled(labels)]
    share = known.mean(axis=0) if len(known) else np.zeros(labels.shape[1])
    return [name for name, part in zip(names, share, strict=True) if part in _BINARY]


LABELS = LabelFormat(
    clean=_clean,
    names=_names,
    fits=_fits,
    strata=_rarest,
    counts=lambda labels, outputs: labels.sum(axis=0).reshape(outputs),
    shown=_shown,
    missing=_one_sided,
    missing_text="labels lack a labelled training sample with or one without them",
    unknown=UNLABELLED,
    holds=lambda labels, output: labels[:, output] == 1,
    columns=True,
    counted=lambda names: f"{len(names)} labels",
)
