"""What labels look like in each task: how they are checked, named, hidden and stratified.

Shapes: N samples, C classes, K labels of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raykd.config.tasks import TaskName
from raykd.types import UNLABELLED, is_labelled

_BINS = 10
_BINARY = (0, 1)


@dataclass(frozen=True)
class LabelForm:
    """The labels of one task.

    Attributes:
        clean: the given array and the number of samples -> the array as everything else expects it, or
            the message of what is wrong.
        names: labels -> names of the outputs, where the source brings none.
        fits: labels and given names -> what is wrong with the names, or None.
        strata: labels -> int64 [N] >= 0, groups that every split has in proportion; −1 where unlabelled.
        counts: labels of labelled samples and number of outputs -> how many samples each output has.
        shown: one sample's label and the names of the outputs -> a short text.
        missing: training labels and names of the outputs -> names that training lacks.
        missing_text: what is said of them.
        missing_help: and what can be done.
        unknown: the value that hides a label.
        holds: labels and the number of an output -> bool [N], which samples have it; all that are labelled
            where there is one output.
        columns: whether a sample's label has a column for each output.
        measured: whether labels are values with a unit, which models see standardised.
        needed: whether there is nothing to learn, or to judge by, without labels.
    """

    clean: Callable[[np.ndarray, int], np.ndarray | str]
    names: Callable[[np.ndarray], tuple[str, ...]]
    fits: Callable[[np.ndarray, tuple[str, ...]], str | None]
    strata: Callable[[np.ndarray], np.ndarray]
    counts: Callable[[np.ndarray, int], np.ndarray]
    shown: Callable[[np.ndarray, tuple[str, ...]], str]
    missing: Callable[[np.ndarray, tuple[str, ...]], list[str]]
    missing_text: str
    unknown: float
    holds: Callable[[np.ndarray, int], np.ndarray] = lambda labels, _: is_labelled(labels)
    columns: bool = False
    measured: bool = False
    needed: bool = True
    missing_help: str = "add samples or leave it out"

    def hidden(self, labels: np.ndarray, hide_N: np.ndarray) -> np.ndarray:
        """A copy of the labels without those of some samples (bool [N])."""
        kept = labels.copy()
        kept[hide_N] = self.unknown
        return kept

    def empty(self, count: int, outputs: int) -> np.ndarray:
        """Labels of `count` samples of which none is labelled."""
        shape = (count, outputs) if self.columns else (count,)
        kind = np.float32 if np.isnan(self.unknown) else np.int64
        return np.full(shape, self.unknown, dtype=kind)


def integral(field: str, array: np.ndarray, low: int) -> np.ndarray | str:
    """The array as int64, or what is wrong when its values are not whole numbers >= low."""
    if array.dtype.kind in "iu":
        whole = True
    else:
        whole = array.dtype.kind == "f" and bool(
            (np.isfinite(array) & (array == np.floor(array))).all()
        )
    if not whole:
        hint = "; name classes in `classes`" if field == "labels" else ""
        return f"found dtype {array.dtype}; needs whole numbers from {low} up{hint}"
    if array.size and (array.min() < low or array.max() > np.iinfo(np.int64).max):
        return f"found values from {array.min()} to {array.max()}; allowed are {low} and above"
    return array.astype(np.int64, copy=False)


def wrong_shape(array: np.ndarray, count: int) -> str:
    """What is said of an array that should have one entry for each sample."""
    return f"found shape {list(array.shape)}; needs [{count}], one for each sample"


def _classes(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.shape != (count,):
        return wrong_shape(array, count)
    return integral("labels", array, UNLABELLED)


def _class_names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def _class_fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
    if int(labels.max()) < len(names):
        return None
    return f"found label {int(labels.max())}; with {len(names)} classes allowed are −1 to {len(names) - 1}"


def _missing_classes(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(names))
    return [names[label] for label in np.flatnonzero(counts == 0)]


def _class_shown(label: np.ndarray, names: tuple[str, ...]) -> str:
    return names[int(label)] if label >= 0 else "?"


def _values(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        return wrong_shape(array, count)
    if array.dtype.kind not in "fiu":
        return f"found dtype {array.dtype}; a regression needs numbers, NaN where unlabelled"
    values = array.astype(np.float32)
    if np.isinf(values).any():
        return "found infinite values; a regression needs finite numbers, NaN where unlabelled"
    return values


def _value_names(labels: np.ndarray) -> tuple[str, ...]:  # noqa: ARG001 - one form for all tasks
    return ("value",)


def _value_fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:  # noqa: ARG001
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


def _value_shown(label: np.ndarray, names: tuple[str, ...]) -> str:  # noqa: ARG001
    return f"{float(label):.4g}" if is_labelled(label[None])[0] else "?"


def _marks(array: np.ndarray, count: int) -> np.ndarray | str:
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


def _mark_names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(labels.shape[1]))


def _mark_fits(labels: np.ndarray, names: tuple[str, ...]) -> str | None:
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


def _marks_shown(label: np.ndarray, names: tuple[str, ...]) -> str:
    held = [name for name, mark in zip(names, label, strict=True) if mark == 1]
    return "?" if (label == UNLABELLED).all() else ", ".join(held) or "none"


def _one_sided(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    known = labels[is_labelled(labels)]
    share = known.mean(axis=0) if len(known) else np.zeros(labels.shape[1])
    return [name for name, part in zip(names, share, strict=True) if part in _BINARY]


FORMS: dict[TaskName, LabelForm] = {
    "classification": LabelForm(
        clean=_classes,
        names=_class_names,
        fits=_class_fits,
        strata=lambda labels: labels,
        counts=lambda labels, outputs: np.bincount(labels, minlength=outputs),
        shown=_class_shown,
        missing=_missing_classes,
        missing_text="classes have no labelled training sample",
        missing_help="add samples, or number the classes from 0 without gaps (or write them as texts)",
        unknown=UNLABELLED,
        holds=lambda labels, output: labels == output,
    ),
    "regression": LabelForm(
        clean=_values,
        names=_value_names,
        fits=_value_fits,
        strata=_bins,
        counts=lambda labels, outputs: np.full(outputs, len(labels)),
        shown=_value_shown,
        missing=_constant,
        missing_text="values have not two different labelled training samples",
        unknown=float("nan"),
        measured=True,
    ),
    "multilabel": LabelForm(
        clean=_marks,
        names=_mark_names,
        fits=_mark_fits,
        strata=_rarest,
        counts=lambda labels, outputs: labels.sum(axis=0).reshape(outputs),
        shown=_marks_shown,
        missing=_one_sided,
        missing_text="labels lack a labelled training sample with or one without them",
        unknown=UNLABELLED,
        holds=lambda labels, output: labels[:, output] == 1,
        columns=True,
    ),
    "embedding": LabelForm(
        clean=_classes,
        names=_class_names,
        fits=_class_fits,
        strata=lambda labels: labels - UNLABELLED,  # those without a label are a group too
        counts=lambda labels, outputs: np.bincount(labels, minlength=outputs),
        shown=_class_shown,
        missing=lambda labels, names: [],  # noqa: ARG005 - nothing is learnt from them
        missing_text="",
        unknown=UNLABELLED,
        needed=False,
    ),
}
