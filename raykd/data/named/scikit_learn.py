"""The small data sets that scikit-learn has in it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from raykd.config.sources import DiabetesSource, DigitsSource
from raykd.data.dataset import Dataset
from raykd.errors import InputError
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
    table = digits_table()
    images = (table[:, :-1].reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    labels = table[:, -1].astype(np.int64)
    if find_task(task).labels.columns:
        marks = np.array([np.isin(labels, digits) for digits in _MARKS.values()]).T
        return Dataset(inputs=images, labels=marks, classes=tuple(_MARKS), task=task)
    return Dataset(inputs=images, labels=labels, classes=_CLASSES)


def digits_table() -> np.ndarray:
    """64 pixels of 0 to 16 and the label, float64 [1797, 65], from the file that scikit-learn's `load_digits` reads.

    Without the seconds that the import takes.
    """
    found = find_spec("sklearn")
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    files = [folder / "datasets" / "data" / "digits.csv.gz" for folder in folders]
    there = [file for file in files if file.is_file()]
    if not there:
        load_package("sklearn.datasets", install="scikit-learn", key=_KEY)  # says what to install
        raise InputError.at(
            _KEY, "this version of scikit-learn has no digits.csv.gz in its package"
        )
    table: np.ndarray = np.loadtxt(there[0], delimiter=",")
    return table


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
