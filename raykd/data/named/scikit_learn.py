"""The small data sets that scikit-learn has in it."""

from __future__ import annotations

import numpy as np

from raykd.config.sources import DiabetesSource, DigitsSource
from raykd.data.dataset import Dataset
from raykd.importing import load_package
from raykd.tasks import find_task

_KEY = "data.source.type"
_CLASSES = tuple("0123456789")
_MARKS = {
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "at least five": (5, 6, 7, 8, 9),
    "closed loop": (0, 6, 8, 9),
    "straight stroke": (1, 4, 7),
}


def load_digits(source: DigitsSource, task: str) -> Dataset:  # noqa: ARG001 - one signature for all
    """1,797 images float32 [N, 1, 8, 8] in [0, 1]; for `multilabel` five properties of each digit."""
    bunch = load_package("sklearn.datasets", install="scikit-learn", key=_KEY).load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    if find_task(task).labels.columns:
        marks = np.array([np.isin(bunch.target, digits) for digits in _MARKS.values()]).T
        return Dataset(inputs=images, labels=marks, classes=tuple(_MARKS), task=task)
    return Dataset(inputs=images, labels=bunch.target.astype(np.int64), classes=_CLASSES)


def load_diabetes(source: DiabetesSource, task: str) -> Dataset:  # noqa: ARG001
    """442 patients, float32 [N, 10]; the label is the progression of the disease after a year."""
    datasets = load_package("sklearn.datasets", install="scikit-learn", key=_KEY)
    bunch = datasets.load_diabetes(scaled=False)
    return Dataset(
        inputs=bunch.data.astype(np.float32),
        labels=bunch.target.astype(np.float32),
        classes=("disease progression",),
        task="regression",
    )
