"""Splits by what is known of the samples: by a column that says it, by group, by time; and folds.

Shapes: N samples, M labelled samples, G groups.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import xxhash

from raykd.config.data import SplitBy, Splits
from raykd.data.dataset import PARTS, Dataset
from raykd.data.hashing import sample_keys
from raykd.errors import InputError
from raykd.types import UNLABELLED

KEY = "data.splits.by"
FOLDS_KEY = "folds"


def parts_by(dataset: Dataset, by: SplitBy, splits: Splits, *, seed: int) -> dict[str, np.ndarray]:
    """The parts that a column decides; by group and by time all three.

    Whole groups (samples of one time are one) go to test until it has as many labelled samples as asked
    for, then to validation. Unlabelled samples of these groups are in no part. Of a fold the test groups are
    those of the fold, whatever the size asked for.

    Args:
        dataset: the samples, with the column.
        by: which column, and how.
        splits: sizes of validation and test.
        seed: orders groups.

    Raises:
        InputError: there is no such column, the source brings parts itself, the column says something
            else, or nothing is left to train with.
    """
    if dataset.splits:
        found = ", ".join(dataset.splits)
        raise InputError.at(KEY, f"the source brings its own parts ({found}); set it to null")
    column = dataset.columns.get(by.column)
    if column is None:
        there = ", ".join(dataset.columns) or "none"
        raise InputError.at(
            f"{KEY}.column", f"found {by.column!r}; the source has {there}: sources of files bring columns, and a "
            "factory gives Dataset(columns={...})"
        )  # fmt: skip
    if by.type == "column":
        return _said(column)
    if by.type == "time":
        _refuse_unordered(column, by.column)
    groups, of_N = np.unique(column, return_inverse=True)
    order = np.argsort(_group_keys(groups, seed)) if by.type == "group" else np.arange(len(groups))
    return _whole_groups(dataset, of_N, order if by.type == "group" else order[::-1], splits)


def _refuse_unordered(column: np.ndarray, name: str) -> None:
    """Texts are sorted letter by letter, which is the order of time for ISO 8601 in one length alone."""
    if column.dtype.kind not in "OUST":
        return
    texts = [str(value) for value in np.unique(column)]
    for text in texts:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            wrong = text
            break
    else:
        if len({len(text) for text in texts}) == 1:
            return
        wrong = min(texts, key=len)
    raise InputError.at(
        f"{KEY}.column", f"found the text {wrong!r} in {name!r}; times are numbers, or texts in ISO 8601 of one "
        "length (2026-11-22, or 2026-11-22T09:30:00): others are not sorted by time"
    )  # fmt: skip


def _said(column: np.ndarray) -> dict[str, np.ndarray]:
    unknown = sorted({str(value) for value in np.unique(column)} - set(PARTS))
    if unknown:
        raise InputError.at(
            f"{KEY}.column", f"says {', '.join(unknown[:5])}; allowed are {', '.join(PARTS)}"
        )
    return {part: np.flatnonzero(column == part) for part in PARTS if (column == part).any()}


def _group_keys(groups: np.ndarray, seed: int) -> np.ndarray:
    """A number for each group, from its value alone."""
    texts = (str(value).encode(errors="surrogatepass") for value in groups.tolist())
    hashes = np.array([xxhash.xxh3_64_intdigest(text) >> 1 for text in texts], dtype=np.int64)
    return sample_keys(hashes, seed, "groups")


def _whole_groups(
    dataset: Dataset, of_N: np.ndarray, order_G: np.ndarray, splits: Splits
) -> dict[str, np.ndarray]:
    labelled_N = dataset.strata != UNLABELLED
    sizes_G = np.bincount(of_N[labelled_N], minlength=len(order_G))
    parts: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ("test", "validation")
    if splits.fold is not None:
        fold_G = grouped_folds(sizes_G, order_G, splits.fold.of)
        parts["test"] = np.flatnonzero((fold_G[of_N] == splits.fold.index) & labelled_N)
        order_G, names = order_G[fold_G[order_G] != splits.fold.index], ("validation",)
    ends_G, begin = np.cumsum(sizes_G[order_G]), 0
    for name in names:
        size = getattr(splits, name)
        count = size if isinstance(size, int) else round(size * int(labelled_N.sum()))
        before = int(ends_G[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends_G, before + count)) + 1
        if count < 1 or end >= len(order_G):
            raise InputError.at(
                f"data.splits.{name}", f"found {size}, which is {count} labelled samples; in whole groups of "
                f"{KEY} ({len(order_G)} of them) it needs at least 1, and has to leave some for training"
            )  # fmt: skip
        parts[name] = np.flatnonzero(np.isin(of_N, order_G[begin:end]) & labelled_N)
        begin = end
    parts["train"] = np.flatnonzero(np.isin(of_N, order_G[begin:]))
    return parts


def stratified_folds(strata: np.ndarray, keys: np.ndarray, of: int) -> np.ndarray:
    """The fold of each sample; sizes differ by one at most, over all samples and in each stratum.

    Args:
        strata: int64 [M], all >= 0.
        keys: uint64 [M], all different; they order the samples of a stratum.
        of: how many folds there are.

    Returns:
        int64 [M] in [0, of).

    Raises:
        InputError: there are fewer samples than folds.
    """
    if len(strata) < of:
        raise InputError.at(FOLDS_KEY, f"found {of} for {len(strata)} labelled samples; lower it")
    fold_M = np.empty(len(strata), np.int64)
    fold_M[np.lexsort((keys, strata))] = np.arange(len(strata)) % of
    return fold_M


def grouped_folds(sizes_G: np.ndarray, order_G: np.ndarray, of: int) -> np.ndarray:
    """The fold of each group: the largest first, each to the fold that has least so far.

    Args:
        sizes_G: int64 [G], labelled samples of each group.
        order_G: int64 [G], an order of the groups, which decides between equally large ones.
        of: how many folds there are.

    Returns:
        int64 [G] in [0, of).

    Raises:
        InputError: there are too few groups with labelled samples.
    """
    if (filled := int((sizes_G > 0).sum())) <= of:
        raise InputError.at(
            FOLDS_KEY, f"found {of} with {filled} groups of data.splits.by that have labelled samples; validation "
            "needs a group beside those of the test part: lower it"
        )  # fmt: skip
    fold_G = np.empty(len(sizes_G), np.int64)
    held = np.zeros(of, np.int64)
    for group in order_G[np.argsort(-sizes_G[order_G], kind="stable")]:
        fold_G[group] = int(held.argmin())
        held[fold_G[group]] += sizes_G[group]
    return fold_G
