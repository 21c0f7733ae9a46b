"""The labels facet of a task: how labels are checked, named, hidden and stratified.

Shapes: N samples, C classes, K labels of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raykd.data.geometry import Places
from raykd.types import is_labelled

BOOLEANS: tuple[str, ...] = ("False", "True")
"""Names of two classes whose labels are booleans."""
_FEW_CLASSES = 1_000_000
"""Names of so many classes are made at once; whether each occurs is looked at later."""
_MOST_GAPS = 10
"""Numbers of classes for each one that occurs; with more of them, labels are ids, codes or times."""


@dataclass(frozen=True)
class LabelFormat:
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
        paired: whether a sample is judged by others of its class.
        same_as: the task whose labels of a source do for this one too, or None.
        alike: what is wrong where all labels are the same, given their name; None where nothing is.
        counted: names of the outputs -> how many of what there are, in words.
        outputs: names and the shape of a sample -> how many numbers a model puts out.
        follow: of labels that say where things are: labels [B, ...], where their images are in some views, and the part of
            a thing that has to be seen -> the labels of these views. None where labels say nothing of places.
        answers_follow: of answers about whole images that say where things are, as they are recorded [B, U]: the same of
            views, as `follow`. None as of it.
        outlines: one sample's label -> the corners [M, 4] of what it says is there, in pixels; None as of `follow`.
        binned: the same of models whose numbers are spread over bins, given how many; None where there are no such.
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
    paired: bool = False
    missing_help: str = "add samples or leave it out"
    same_as: str | None = None
    alike: Callable[[str], str] | None = None
    counted: Callable[[tuple[str, ...]], str] = lambda names: f"{len(names)} outputs"
    outputs: Callable[[tuple[str, ...], tuple[int, ...]], int] = lambda names, _: len(names)
    follow: Callable[[np.ndarray, Places, float], np.ndarray] | None = None
    answers_follow: Callable[[np.ndarray, Places, float], np.ndarray] | None = None
    outlines: Callable[[np.ndarray], np.ndarray] | None = None
    binned: Callable[[tuple[str, ...], tuple[int, ...], int], int] | None = None

    def width(self, names: tuple[str, ...], shape: tuple[int, ...], bins: int) -> int:
        """How many numbers a model puts out, with so many bins (1: none)."""
        if bins == 1 or self.binned is None:
            return self.outputs(names, shape)
        return self.binned(names, shape, bins)

    def are_booleans(self, labels: np.ndarray) -> bool:
        """Whether labels of two classes are written as False and True."""
        return not (self.columns or self.measured) and np.asarray(labels).dtype == np.bool_

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


def gaps_of(labels: np.ndarray) -> str:
    """What is wrong with labels that cannot be the numbers of classes; empty where they can.

    Args:
        labels: int64 [N], −1 where unlabelled.
    """
    highest = int(labels.max(initial=-1))
    if highest < _FEW_CLASSES:
        return ""
    found = np.unique(labels[labels >= 0])
    if highest < _MOST_GAPS * len(found):
        return ""
    shown = ", ".join(map(str, found[:3].tolist()))
    return (
        f"labels up to {highest}, of which {len(found):,} are different ({shown}, ...); classes are numbered from 0 without "
        "gaps: take another column, write them as texts, or name them in data.classes"
    )


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
