"""Labels of states: the continuous action that was taken there, float32 [N, A], rows of NaN where it is not known."""

from __future__ import annotations

import numpy as np

from raykd.data.labels import LabelFormat
from raykd.types import is_labelled


class _ActionFormat(LabelFormat):
    """Actions of several numbers, of which models put out twice as many."""

    def empty(self, count: int, outputs: int) -> np.ndarray:
        """Labels of `count` states of which no action is known."""
        return np.full((count, max(1, outputs // 2)), np.nan, np.float32)


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in "fiu":
        return f"found {array.dtype} {list(array.shape)}; needs floats [{count}, A], an action for each state"
    values = array.astype(np.float32)
    if np.isinf(values).any():
        return "found infinite actions; finite numbers are needed, NaN where an action is not known"
    return values


def _names(labels: np.ndarray) -> tuple[str, ...]:
    actions = range(labels.shape[1])
    return (*(f"mean_{index}" for index in actions), *(f"log_std_{index}" for index in actions))


def _fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
    if len(names) == 2 * labels.shape[1]:
        return None
    return f"found {len(names)} names; actions of {labels.shape[1]} numbers have as many means and log_stds"


LABELS = _ActionFormat(
    clean=_clean,
    names=_names,
    fits=_fits,
    strata=lambda labels: np.zeros(len(labels), np.int64),
    counts=lambda labels, outputs: np.full(outputs, len(labels)),
    shown=lambda label, _: (
        ", ".join(f"{value:.4g}" for value in np.asarray(label).tolist())
        if is_labelled(label[None])[0]
        else "?"
    ),
    missing=lambda labels, names: [],  # noqa: ARG005
    missing_text="",
    unknown=float("nan"),
    needed=False,
    counted=lambda names: f"{len(names) // 2} numbers of an action",
)
