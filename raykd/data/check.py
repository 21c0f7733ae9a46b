"""What is in the samples and what is wrong with them: counts, duplicates, leaks, imbalance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from raykd.data.dataset import PARTS
from raykd.data.draw import draw_views
from raykd.data.labels import FORMS
from raykd.data.mapped import pieces
from raykd.data.samples import Samples
from raykd.types import UNLABELLED, is_labelled

__all__ = ["ClassCount", "DataReport", "Duplicates", "ValueRange", "check_data", "draw_views"]

_EXAMPLES = 3
_IMBALANCED = 10.0
_SMALL_SPLIT = 100
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in a split.

    Attributes:
        name: the class.
        labelled: samples whose label is within the budget.
        hidden: samples whose label is known but outside the budget.
    """

    name: str
    labelled: int
    hidden: int


@dataclass(frozen=True)
class Duplicates:
    """Samples with the same content.

    Attributes:
        splits: the two splits that share them; the same twice when they are within one.
        count: samples of the second split that the first has too (within one: beyond the first copy).
        examples: pairs of sample ids.
    """

    splits: tuple[str, str]
    count: int
    examples: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ValueRange:
    """Values of one input as the source gave them.

    Attributes:
        name: the input.
        dtype: its dtype.
        shape: shape of one sample.
        low: smallest value.
        high: largest value.
        constant: samples whose values are all the same.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    constant: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        counts: split -> number of samples.
        labelled: split -> samples whose label is within the budget.
        unlabelled: split -> samples whose label nobody knows.
        classes: split -> counts of each class or label in order; of the one value of a regression.
        ranges: of each input.
        duplicates: groups of equal samples, within and across splits.
        conflicting: samples equal in content to one with another label.
        imbalance: labelled training samples of the largest class over those of the smallest;
            infinite when a class has none.
        warnings: what to look at, in plain words.
    """

    counts: Mapping[str, int]
    labelled: Mapping[str, int]
    unlabelled: Mapping[str, int]
    classes: Mapping[str, tuple[ClassCount, ...]]
    ranges: tuple[ValueRange, ...]
    duplicates: tuple[Duplicates, ...]
    conflicting: int
    imbalance: float
    warnings: tuple[str, ...]

    @property
    def leaks(self) -> tuple[Duplicates, ...]:
        """The duplicates that two different splits share."""
        return tuple(found for found in self.duplicates if found.splits[0] != found.splits[1])

    def lines(self) -> list[str]:
        """The report as plain text."""
        text = [f"{'split':<12}{'samples':>9}{'labelled':>10}{'hidden':>9}{'unlabelled':>12}"]
        for split, count in self.counts.items():
            labelled = self.labelled[split]
            hidden = count - labelled - self.unlabelled[split]
            text.append(
                f"{split:<12}{count:>9}{labelled:>10}{hidden:>9}{self.unlabelled[split]:>12}"
            )
        width = max([5, *(len(item.name) for item in self.classes["train"])]) + 2
        text += ["", f"{'class':<{width}}" + "".join(f"{split:>16}" for split in self.counts)]
        for row in zip(*self.classes.values(), strict=True):
            cells = (f"{c.labelled} (+{c.hidden})" if c.hidden else f"{c.labelled}" for c in row)
            text.append(f"{row[0].name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        text.append("(+n): labels outside the budget")
        text.append("")
        for values in self.ranges:
            text.append(
                f"{values.name}: {values.dtype} {list(values.shape)}, "
                f"values from {values.low:g} to {values.high:g}, {values.constant} constant samples"
            )
        text.append(f"largest class / smallest class (labelled training): {self.imbalance:.2f}")
        text += [_duplicates_line(found) for found in self.duplicates]
        text += [f"warning: {warning}" for warning in self.warnings] or ["no warnings"]
        return text


def check_data(samples: Samples) -> DataReport:
    """Look for what spoils an experiment: leaks between splits, duplicates, missing classes, odd values."""
    rows_of = {split: samples.splits[split] for split in PARTS}
    known = {split: samples.all_labels[rows] for split, rows in rows_of.items()}
    hashes = {split: samples.content_hash(rows) for split, rows in rows_of.items()}
    classes = {split: _class_counts(samples, rows) for split, rows in rows_of.items()}
    labelled = [item.labelled for item in classes["train"]] or [1]  # embeddings may have no class
    ranges = tuple(_range(name, array) for name, array in samples.inputs.items())
    duplicates = _duplicates(samples, hashes)
    conflicting = _conflicting(samples, hashes)
    report = DataReport(
        counts={split: len(rows) for split, rows in rows_of.items()},
        labelled={
            split: int(is_labelled(samples.labels[rows]).sum()) for split, rows in rows_of.items()
        },
        unlabelled={split: int((~is_labelled(labels)).sum()) for split, labels in known.items()},
        classes=classes,
        ranges=ranges,
        duplicates=duplicates,
        conflicting=conflicting,
        imbalance=max(labelled) / min(labelled) if min(labelled) else float("inf"),
        warnings=(),
    )
    warnings = (*_source_warnings(samples), *_warnings(report))
    return DataReport(**{**vars(report), "warnings": warnings})


def _class_counts(samples: Samples, rows: np.ndarray) -> tuple[ClassCount, ...]:
    def count(labels: np.ndarray) -> np.ndarray:
        return FORMS[samples.task].counts(labels[is_labelled(labels)], samples.class_count)

    labelled_C = count(samples.labels[rows])
    hidden_C = count(samples.all_labels[rows]) - labelled_C
    counts = zip(samples.classes, labelled_C.tolist(), hidden_C.tolist(), strict=True)
    return tuple(ClassCount(name, labelled, hidden) for name, labelled, hidden in counts)


def _range(name: str, array: np.ndarray) -> ValueRange:
    found = []
    for rows in pieces(np.arange(len(array)), array.nbytes // len(array)):
        flat = array[rows].reshape(len(rows), -1)
        low_N, high_N = flat.min(axis=1), flat.max(axis=1)
        found.append((float(low_N.min()), float(high_N.max()), int((low_N == high_N).sum())))
    lows, highs, constant = zip(*found, strict=True)
    return ValueRange(
        name=name,
        dtype=str(array.dtype),
        shape=tuple(array.shape[1:]),
        low=min(lows),
        high=max(highs),
        constant=sum(constant),
    )


def _duplicates(samples: Samples, hashes: Mapping[str, np.ndarray]) -> tuple[Duplicates, ...]:
    ids = {split: samples.ids[samples.splits[split]] for split in hashes}
    found = []
    for split, own in hashes.items():
        _, first, back = np.unique(own, return_index=True, return_inverse=True)
        copies = np.flatnonzero(first[back] != np.arange(len(own)))
        pairs = zip(ids[split][first[back[copies]]], ids[split][copies], strict=True)
        found.append(_group((split, split), list(pairs)))
    for one, other in combinations(hashes, 2):
        place = {int(value): at for at, value in reversed(list(enumerate(hashes[one])))}
        pairs_across = [
            (ids[one][place[int(value)]], ids[other][at])
            for at, value in enumerate(hashes[other])
            if int(value) in place
        ]
        found.append(_group((one, other), pairs_across))
    return tuple(group for group in found if group.count)


def _group(splits: tuple[str, str], pairs: list[tuple[np.int64, np.int64]]) -> Duplicates:
    examples = tuple((int(one), int(other)) for one, other in pairs[:_EXAMPLES])
    return Duplicates(splits, len(pairs), examples)


def _conflicting(samples: Samples, hashes: Mapping[str, np.ndarray]) -> int:
    rows = np.concatenate([samples.splits[split] for split in hashes])
    values = np.concatenate(list(hashes.values()))
    labels = samples.all_labels[rows]
    values, labels = values[is_labelled(labels)], labels[is_labelled(labels)]
    labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(len(labels))
    groups, back = np.unique(values, return_inverse=True)
    low, high = np.full(len(groups), labels.max(initial=0)), np.full(len(groups), UNLABELLED)
    np.minimum.at(low, back, labels)
    np.maximum.at(high, back, labels)
    return int((low != high)[back].sum())


def _duplicates_line(found: Duplicates) -> str:
    one, other = found.splits
    where = f"within {one}" if one == other else f"in {other} that {one} has too"
    pairs = ", ".join(f"{first} = {second}" for first, second in found.examples)
    return f"{found.count} duplicates {where} (ids {pairs})"


def _source_warnings(samples: Samples) -> list[str]:
    warnings = []
    if samples.left_out:
        warnings.append(f"{len(samples.left_out)} samples cannot be decoded and are left out")
    damaged = samples.damaged()
    if len(damaged):
        shown = ", ".join(str(key) for key in samples.ids[damaged[:_EXAMPLES]])
        warnings.append(
            f"{len(damaged)} decoded samples were changed on disk (ids {shown}); delete their folder in data.cache"
        )
    return warnings


def _warnings(report: DataReport) -> list[str]:
    warnings = [
        f"leak: {found.count} {found.splits[1]} samples are also in {found.splits[0]}; "
        "scores on them say nothing about new data"
        for found in report.leaks
    ]
    if report.conflicting:
        warnings.append(f"{report.conflicting} samples equal one that has another label")
    for split, counts in report.classes.items():
        missing = [item.name for item in counts if not item.labelled]
        if missing:
            shown = ", ".join(missing[:5])
            warnings.append(f"{len(missing)} classes have no label in {split}: {shown}")
        labelled = report.labelled[split]
        if split != "train" and labelled < _SMALL_SPLIT:
            warnings.append(
                f"{split} has {labelled} labelled samples: one is {1 / max(1, labelled):.1%} of the score"
            )
    if _IMBALANCED < report.imbalance < float("inf"):
        warnings.append(
            f"the largest class has {report.imbalance:.0f} times the labels of the smallest"
        )
    for values in report.ranges:
        warnings += _range_warnings(values)
    return warnings


def _range_warnings(values: ValueRange) -> list[str]:
    warnings = []
    is_image = len(values.shape) == len(("C", "H", "W"))
    if is_image and values.shape[0] not in _CHANNELS and values.shape[-1] in _CHANNELS:
        warnings.append(
            f"{values.name} has shape {list(values.shape)}: channels come first ([C, H, W]); "
            "this looks like [H, W, C]"
        )
    if is_image and values.dtype.startswith("float") and (values.high > 1 or values.low < 0):
        warnings.append(
            f"{values.name} has values from {values.low:g} to {values.high:g}; view steps take float "
            "images to be in [0, 1], where 0 is the background"
        )
    if values.constant:
        warnings.append(f"{values.constant} samples of {values.name} have one value everywhere")
    return warnings
