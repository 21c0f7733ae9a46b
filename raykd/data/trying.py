"""What is found out of samples once they are there: the unit of their values, and whether their views can be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raykd.errors import InputError, Problem
from raykd.types import ORIGINAL_VIEW, Scale, is_labelled

if TYPE_CHECKING:
    from raykd.data.samples import Samples

_BLENDS = ("noise", "mixup")


def scale_of(values: np.ndarray) -> Scale:
    """Mean and deviation of the values that are known."""
    known = values[is_labelled(values)].astype(np.float64)
    deviation = float(known.std())
    if deviation == 0:
        raise InputError(
            Problem("data.labels", f"the {len(known)} labelled training values are all the same; a "
                    "regression needs at least two different ones")
        )  # fmt: skip
    return Scale(mean=float(known.mean()), std=deviation)


def _check_blending(samples: Samples) -> None:
    """Codes of words are no amounts: half of one and half of another is a third word."""
    for index, step in enumerate(samples.policy):
        if samples.words and step.type in _BLENDS:
            raise InputError.at(
                f"data.views.policy.{index}",
                f"{step.type} needs numbers; the table has columns of words ({', '.join(samples.words)}): remove it, "
                "or name the columns of numbers in data.source.inputs",
            )


def try_views(samples: Samples) -> None:
    """Make one view twice: a step that does not fit, or is not a pure function, is found before all else."""
    _check_blending(samples)
    row = samples.splits["train"][:1]
    first, again = (
        {name: shown.numpy() for name, shown in samples.batch(row, 0).inputs.items()}
        for _ in range(2)
    )
    if any(first[name].tobytes() != again[name].tobytes() for name in first):
        raise InputError.at(
            "data.views.policy",
            "the same view of a sample came out differently the second time; a factory step must draw "
            "all that is random from the generator it is given",
        )


def check_request(
    count: int, rows: np.ndarray, view_B: np.ndarray, present: np.ndarray | None
) -> None:
    """Rows and views that are asked for are those of samples.

    Args:
        count: how many samples there are.
        rows: asked for.
        view_B: of each.
        present: as of `Samples.batch`.

    Raises:
        IndexError: a row is not there.
        ValueError: a view is below −1, or lengths differ.
    """
    if rows.ndim != 1 or (present is not None and present.shape != rows.shape):
        raise ValueError(f"rows {rows.shape} and present must be of one length [B]")
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise IndexError(f"rows {rows.min()} to {rows.max()} asked; there are 0 to {count - 1}")
    if len(rows) and view_B.min() < ORIGINAL_VIEW:
        raise ValueError(f"view {view_B.min()} asked; views are {ORIGINAL_VIEW} and above")
