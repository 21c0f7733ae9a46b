"""Labels of a regression: float32 [N] in original units, NaN where unlabelled."""

from __future__ import annotations

import numpy as np

from raykd.data.labels import LabelFormat, wrong_shape
from raykd.data.mapped import is_coarse
from raykd.types import UNLABELLED, is_labelled

_BINS = 10


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        return wrong_shape(array, count)
    if array.dtype.kind not in "fiu":
        return f"found dtype {array.dtype}; a regression needs numbers, NaN where unlabelled"
    values = array.astype(np.float32)
    if np.isinf(values).any():
        return "found infinite values; a regression needs finite numbers, NaN where unlabelled"
    if np.isnan(values).all() or not is_coarse(array.astype(np.float64)[:, None])[0]:
        return values
    low, high = np.nanmin(array), np.nanmax(array)
    found, kept = (len(np.unique(one[~np.isnan(values)])) for one in (array, values))
    return (
        f"found {found:,} different values from {low:.12g} to {high:.12g}, of which models, which compute in float32, tell "
        f"{kept:,} apart; subtract an offset, such as {low:.12g}"
    )


def _names(labels: np.ndarray) -> tuple[str, ...]:  # noqa: ARG001 - one form for all tasks
    return ("value",)


def _fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:  # noqa: ARG001
    return None if len(names) == 1 else f"found {len(names)} names; a regression has one value"


def _bins(labels: np.ndarray) -> np.ndarray:
    """Deciles of the known values, by rank, so that equal values may fall into neighbouring bins."""
    known = np.flatnonzero(is_labelled(labels))
    bins = np.full(len(labels), UNLABELLED, dtype=np.int64)
    order = known[np.argsort(labels[known], kind="stable")]
    bins[order] = np.arange(len(order)) * min(_BINS, len(order)) // max(1, len(order))
    return bins


def _constant(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    known = labels[is_labelled(labels)]
    return [] if len(known) and float(np.ptp(known)) > 0 else list(names)


def _shown(label: np.ndarray, names: tuple[str, ...]) -> str:  # noqa: ARG001
    return f"{float(label):.4g}" if is_labelled(label[None])[0] else "?"


LABELS = LabelFormat(
    clean=_clean,
    names=_names,
    fits=_fits,
    strata=_bins,
    counts=lambda labels, outputs: np.full(outputs, len(labels)),
    shown=_shown,
    missing=_constant,
    missing_text="values have not two different labelled training samples",
    unknown=float("nan"),
    measured=True,
    counted=lambda names: f"one value, {names[0]}",
)
