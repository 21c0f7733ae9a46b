"""Which test samples are in which slice of `evaluate.slices`.

Shapes: N samples of the data, M of test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from raykd.config.explanations import nearest
from raykd.config.root import Slice
from raykd.data import Samples
from raykd.errors import InputError, Problem

_MOST = 20
Parts = dict[str, np.ndarray]


def slices_of_test(slices: tuple[Slice, ...], samples: Samples) -> dict[str, torch.Tensor]:
    """Name of each slice, such as `sex=f`, `age 18 to 65` or `class cat` -> its test samples, bool [M].

    Raises:
        InputError: a class or value that the data does not have, ranges of what are no numbers, more than 20 values, or
            two slices of one name; every one of them.
    """
    problems: list[Problem] = []
    found: Parts = {}
    for index, entry in enumerate(slices):
        key = f"evaluate.slices.{index}"
        try:
            made = (
                _of_class(entry, samples, key)
                if entry.column is None
                else _of_column(entry, samples, key)
            )
        except InputError as error:
            problems += error.problems
            continue
        problems += [
            Problem(f"{key}.name", f"makes a second slice {name!r}; give another name")
            for name in made.keys() & found.keys()
        ]
        found |= made
    if problems:
        raise InputError(problems)
    rows = samples.splits["test"]
    return {name: torch.from_numpy(inside_N[rows]) for name, inside_N in found.items()}


def _of_class(entry: Slice, samples: Samples, key: str) -> Parts:
    classes = samples.classes
    assert entry.of_class is not None, "cross_check demands a column or a class"
    if entry.of_class not in classes:
        near = nearest(entry.of_class, classes)
        raise InputError(
            Problem(
                f"{key}.class",
                f"found {entry.of_class!r}, no class of the data{near}; there are {', '.join(classes[:_MOST])}",
            )
        )
    place, labels = classes.index(entry.of_class), samples.all_labels
    inside_N = labels[:, place] == 1 if labels.ndim > 1 else labels == place
    return {entry.name or f"class {entry.of_class}": inside_N}


def _of_column(entry: Slice, samples: Samples, key: str) -> Parts:
    assert entry.column is not None, "the caller has looked"
    column, name = samples.columns[entry.column], entry.name or entry.column
    if entry.bins is not None:
        return dict(_ranges(entry.bins, column, name, f"{key}.bins"))
    there = np.unique(column)
    if entry.values is None:
        if len(there) > _MOST:
            raise InputError(
                Problem(key, f"column {entry.column!r} has {len(there)} values; name those that are wanted as `values` "
                        f"(at most {_MOST} are taken unasked), or give `bins`")
            )  # fmt: skip
        return {f"{name}={_text(value)}": column == value for value in there.tolist()}
    texts = {_text(value): value for value in there.tolist()}
    lacking = [_text(value) for value in entry.values if _text(value) not in texts]
    if lacking:
        raise InputError(
            Problem(f"{key}.values", f"found {lacking[0]!r}, which column {entry.column!r} does not have"
                    f"{nearest(lacking[0], texts)}; it has {', '.join(list(texts)[:_MOST])}")
        )  # fmt: skip
    return {f"{name}={_text(v)}": column == texts[_text(v)] for v in entry.values}


def _text(value: Any) -> str:
    """A value as it is named: 1.0 and 1 are the same one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _ranges(
    bins: int | tuple[float, ...], column: np.ndarray, name: str, key: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Lower bounds are inside, upper ones outside."""
    if column.dtype.kind not in "iuf":
        raise InputError(Problem(key, f"column {name!r} holds {column.dtype}; ranges need numbers"))
    bounds = list(bins) if isinstance(bins, tuple) else _equal(bins, column)
    for low, high in zip([None, *bounds], [*bounds, None], strict=True):
        inside_N = np.ones(len(column), bool)
        if low is not None:
            inside_N &= column >= low
        if high is not None:
            inside_N &= column < high
        match low, high:
            case None, None:
                yield name, inside_N
            case None, _:
                yield f"{name} below {high:g}", inside_N
            case _, None:
                yield f"{name} from {low:g}", inside_N
            case _:
                yield f"{name} {low:g} to {high:g}", inside_N


def _equal(count: int, column: np.ndarray) -> list[float]:
    """Bounds between ranges with equally many samples; fewer where many values are the same."""
    inner = np.linspace(0, 1, count + 1)[1:-1]
    cuts = np.unique(np.quantile(column, inner, method="higher"))
    return [float(cut) for cut in cuts if cut > column.min()]
