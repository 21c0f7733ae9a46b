"""Parts of samples with transfer sets: those without them, and the few that are looked at more closely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raykd.data.samples import Samples

AT_HOME = 500
"""Samples of a transfer set on which the teachers' answers are held against those on validation."""


def without_transfer(samples: Samples) -> Samples:
    """The same samples as if there were no transfer set."""
    if not samples.transfer:
        return samples
    count = min(int(rows[0]) for rows in samples.transfer.values())
    return replace(
        samples,
        inputs={name: array[:count] for name, array in samples.inputs.items()},
        labels=samples.labels[:count],
        all_labels=samples.all_labels[:count],
        ids=samples.ids[:count],
        user_ids=samples.user_ids[:count],
        splits={**samples.splits, "train": samples.own_training_rows},
        weights=None if samples.weights is None else samples.weights[:count],
        hashes=None if samples.hashes is None else samples.hashes[:count],
        transfer={},
    )


def at_home_rows(samples: Samples) -> dict[str, np.ndarray]:
    """Name of each transfer set -> some of its rows, at most 500, evenly spaced."""
    return {
        name: rows[np.linspace(0, len(rows) - 1, min(AT_HOME, len(rows))).astype(np.int64)]
        for name, rows in samples.transfer.items()
    }
