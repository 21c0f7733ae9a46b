"""Labels of a classification: int64 [N] in [−1, C), −1 where unlabelled."""

from __future__ import annotations

import numpy as np

from raykd.data.labels import LabelFormat, gaps_of, integral, wrong_shape
from raykd.types import UNLABELLED


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.shape != (count,):
        return wrong_shape(array, count)
    labels = integral("labels", array, UNLABELLED)
    if not isinstance(labels, str) and (wrong := gaps_of(labels)):
        return f"found {wrong}"
    return labels


def _names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def _fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
    if int(labels.max()) < len(names):
        return None
    return f"found label {int(labels.max())}; with {len(names)} classes allowed are −1 to {len(names) - 1}"


def _missing(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(names))
    return [names[label] for label in np.flatnonzero(counts == 0)]


def _shown(label: np.ndarray, names: tuple[str, ...]) -> str:
    return names[int(label)] if label >= 0 else "?"


LABELS = LabelFormat(
    clean=_clean,
    names=_names,
    fits=_fits,
    strata=lambda labels: labels,
    counts=lambda labels, outputs: np.bincount(labels, minlength=outputs),
    shown=_shown,
    missing=_missing,
    missing_text="classes have no labelled training sample",
    missing_help="add samples, or number the classes from 0 without gaps (or write them as texts)",
    unknown=UNLABELLED,
    holds=lambda labels, output: labels == output,
    alike=lambda name: (
        f"every label is {name!r}; a classification needs two classes: is it the right column of "
        "labels?"
    ),
    counted=lambda names: f"{len(names)} classes",
)
