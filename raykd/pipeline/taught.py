"""Which training samples a student learns from: the recipe's own, those of transfer sets, or some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raykd.config import Config
from raykd.config.transfer import OWN, taught_sets
from raykd.data import Samples
from raykd.types import is_labelled


def student_rows(config: Config, samples: Samples, replica: int | None = None) -> np.ndarray:
    """The training rows that the student of a recipe learns from, sorted int64.

    Args:
        config: the recipe.
        samples: its data.
        replica: one replica of the student, without the states that others visited; None = all of them.
    """
    names = taught_sets(config.data.transfer, config.student.learns_from)
    if names is None:
        train = samples.splits["train"]
        others = [rows for one, rows in samples.visited.items() if replica not in (None, one)]
        return np.setdiff1d(train, np.concatenate(others)) if others else train
    parts = {OWN: samples.own_training_rows, **samples.transfer}
    rows: np.ndarray = np.sort(np.concatenate([parts[name] for name in dict.fromkeys(names)]))
    return rows


def labelled_student_rows(config: Config, samples: Samples) -> np.ndarray:
    """Those of them whose label is within the budget."""
    rows = student_rows(config, samples)
    labelled: np.ndarray = rows[is_labelled(samples.labels[rows])]
    return labelled


def rows_to_score(configs: Sequence[Config], samples: Samples) -> np.ndarray:
    """The training rows of which teachers are asked, for the students of several recipes."""
    if not samples.transfer:
        return samples.splits["train"]
    found = [student_rows(config, samples) for config in configs]
    rows: np.ndarray = np.unique(np.concatenate(found))
    return rows
