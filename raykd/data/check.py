"""What is in the samples and what is wrong with them: counts, duplicates, leaks, imbalance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raykd.data.dataset import PARTS
from raykd.data.input_checks import (
    TextLengths,
    ValueRange,
    columns_in_words,
    length_warnings,
    lengths_of,
    range_of,
    range_warnings,
)
from raykd.data.near_duplicates import (
    ALIKE,
    EXAMPLES,
    MOST_IMAGES,
    Conflicts,
    Duplicates,
    find_conflicts,
    find_duplicates,
    find_near,
)
from raykd.data.samples import Samples
from raykd.tasks import find_task
from raykd.types import TEXT, is_labelled

_IMBALANCED = 10.0
_SMALL_SPLIT = 100
_SHOWN_CLASSES = 40


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
class DataReport:
    """What `check_data` found.

    Attributes:
        counts: split -> number of samples.
        labelled: split -> samples whose label is within the budget.
        unlabelled: split -> samples whose label nobody knows.
        classes: split -> counts of each class or label in order; of the one value of a regression.
        ranges: of each input but texts.
        duplicates: groups of equal samples, within and across splits.
        near: groups of images that are not equal and look it; None where there are too many.
        conflicts: equal samples with different labels.
        imbalance: labelled training samples of the largest class over those of the smallest;
            infinite when a class has none.
        effective_classes: exp of the entropy of the classes among labelled training samples: as many equally
            frequent classes are as even.
        texts: how long texts are; None where there are none.
        columns: what is used of a table, and what is left out, in words.
        warnings: what to look at, in plain words.
    """

    counts: Mapping[str, int]
    labelled: Mapping[str, int]
    unlabelled: Mapping[str, int]
    classes: Mapping[str, tuple[ClassCount, ...]]
    ranges: tuple[ValueRange, ...]
    duplicates: tuple[Duplicates, ...]
    near: tuple[Duplicates, ...] | None
    conflicts: Conflicts
    imbalance: float
    effective_classes: float
    texts: TextLengths | None
    columns: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def leaks(self) -> tuple[Duplicates, ...]:
        """The duplicates that two different splits share."""
        return tuple(found for found in self.duplicates if found.splits[0] != found.splits[1])

    @property
    def near_leaks(self) -> tuple[Duplicates, ...]:
        """The images that look like one of another split."""
        return tuple(found for found in self.near or () if found.splits[0] != found.splits[1])

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite imbalance is None."""
        finite = self.imbalance if math.isfinite(self.imbalance) else None
        return {**asdict(self), "imbalance": finite}

    def lines(self) -> list[str]:
        """The report as plain text."""
        text = [f"{'split':<12}{'samples':>9}{'labelled':>10}{'hidden':>9}{'unlabelled':>12}"]
        for split, count in self.counts.items():
            labelled = self.labelled[split]
            hidden = count - labelled - self.unlabelled[split]
            text.append(
                f"{split:<12}{count:>9}{labelled:>10}{hidden:>9}{self.unlabelled[split]:>12}"
            )
        text += ["", *self._class_lines(), ""]
        text += [values.line() for values in self.ranges]
        text += self.columns
        text += [] if self.texts is None else [self.texts.line()]
        if any(item.labelled for item in self.classes["train"]):
            text.append(
                f"largest class / smallest class (labelled training): {self.imbalance:.2f}; as even as "
                f"{self.effective_classes:.1f} of {len(self.classes['train'])} equally frequent ones"
            )
        text += [_duplicates_line(found, "duplicates", "=") for found in self.duplicates]
        text += [_duplicates_line(found, "near-duplicates", "~") for found in self.near or ()]
        if self.near is None:
            text.append(f"near-duplicates: not looked for among more than {MOST_IMAGES:,} images")
        text += [_conflict_line(self.conflicts)] if self.conflicts.count else []
        text += [f"warning: {warning}" for warning in self.warnings] or ["no warnings"]
        return text

    def _class_lines(self) -> list[str]:
        width = max([5, *(len(item.name) for item in self.classes["train"])]) + 2
        lines = [f"{'class':<{width}}" + "".join(f"{split:>16}" for split in self.counts)]
        rows = list(zip(*self.classes.values(), strict=True))
        shown, left_out = rows, 0
        if len(rows) > _SHOWN_CLASSES:
            by_size = sorted(rows, key=lambda row: -sum(c.labelled + c.hidden for c in row))
            half, left_out = _SHOWN_CLASSES // 2, len(rows) - _SHOWN_CLASSES
            shown = [*by_size[:half], *by_size[-half:]]
        for row in shown:
            cells = (f"{c.labelled} (+{c.hidden})" if c.hidden else f"{c.labelled}" for c in row)
            lines.append(f"{row[0].name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        more = f"; {left_out} classes of middling size are not shown" if left_out else ""
        return [*lines, f"(+n): labels outside the budget{more}"]


def check_data(samples: Samples) -> DataReport:
    """Look for what spoils an experiment: leaks between splits, duplicates, missing classes, odd values."""
    rows_of = {split: samples.splits[split] for split in PARTS}
    known = {split: samples.all_labels[rows] for split, rows in rows_of.items()}
    hashes = {split: samples.content_hash(rows) for split, rows in rows_of.items()}
    classes = {split: _class_counts(samples, rows) for split, rows in rows_of.items()}
    labelled = [item.labelled for item in classes["train"]] or [1]  # embeddings may have no class
    report = DataReport(
        counts={split: len(rows) for split, rows in rows_of.items()},
        labelled={
            split: int(is_labelled(samples.labels[rows]).sum()) for split, rows in rows_of.items()
        },
        unlabelled={split: int((~is_labelled(labels)).sum()) for split, labels in known.items()},
        classes=classes,
        ranges=tuple(range_of(samples, name) for name in samples.inputs if name != TEXT),
        duplicates=find_duplicates(samples, hashes),
        near=find_near(samples, hashes),
        conflicts=find_conflicts(samples, hashes),
        imbalance=max(labelled) / min(labelled) if min(labelled) else float("inf"),
        effective_classes=_effective(labelled),
        texts=lengths_of(samples),
        columns=tuple(columns_in_words(samples)),
    )
    warnings = (*_source_warnings(samples), *_warnings(report))
    return DataReport(**{**vars(report), "warnings": warnings})


def _class_counts(samples: Samples, rows: np.ndarray) -> tuple[ClassCount, ...]:
    def count(labels: np.ndarray) -> np.ndarray:
        return find_task(samples.task).labels.counts(
            labels[is_labelled(labels)], len(samples.classes)
        )

    labelled_C = count(samples.labels[rows])
    hidden_C = count(samples.all_labels[rows]) - labelled_C
    counts = zip(samples.classes, labelled_C.tolist(), hidden_C.tolist(), strict=True)
    return tuple(ClassCount(name, labelled, hidden) for name, labelled, hidden in counts)


def _effective(counts: list[int]) -> float:
    """Classes as even as these: the exponential of their entropy (Hill 1973, order 1)."""
    share_C = np.array([count for count in counts if count], np.float64)
    share_C /= max(1.0, share_C.sum())
    return float(np.exp(-(share_C * np.log(share_C)).sum()))


def _duplicates_line(found: Duplicates, what: str, sign: str) -> str:
    one, other = found.splits
    where = f"within {one}" if one == other else f"in {other} that {one} has too"
    pairs = ", ".join(f"{first} {sign} {second}" for first, second in found.examples)
    return f"{found.count} {what} {where} (ids {pairs})"


def _conflict_line(found: Conflicts) -> str:
    pairs = (f"{a} is {x}, {b} is {y}" for (a, x), (b, y) in found.examples)
    return f"{found.count} samples in conflict (ids {'; '.join(pairs)})"


def _source_warnings(samples: Samples) -> list[str]:
    warnings = list(samples.notes)
    if samples.left_out:
        warnings.append(f"{len(samples.left_out)} samples cannot be decoded and are left out")
    damaged = samples.damaged()
    if len(damaged):
        shown = ", ".join(samples.named(damaged[:EXAMPLES]))
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
    warnings += [
        f"near leak: {found.count} {found.splits[1]} images look like one of {found.splits[0]} "
        f"(correlation of their pixels at least {ALIKE}); keep such ones in one part by data.splits.by"
        for found in report.near_leaks
    ]
    if report.conflicts.count:
        warnings.append(f"{report.conflicts.count} samples equal one that has another label")
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
        warnings += range_warnings(values)
    if report.texts is not None:
        warnings += length_warnings(report.texts, sum(report.counts.values()))
    return warnings
