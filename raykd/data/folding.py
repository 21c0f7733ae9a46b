"""Which fold each sample is in: parts of nearly the same size, stratified or in whole groups.

Shapes: M labelled samples, G groups.
"""

from __future__ import annotations

import numpy as np

from raykd.errors import InputError

KEY = "folds"


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
        raise InputError.at(KEY, f"found {of} for {len(strata)} labelled samples; lower it")
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
            KEY, f"found {of} with {filled} groups of data.splits.by that have labelled samples; validation "
            "needs a group beside those of the test part: lower it"
        )  # fmt: skip
    fold_G = np.empty(len(sizes_G), np.int64)
    held = np.zeros(of, np.int64)
    for group in order_G[np.argsort(-sizes_G[order_G], kind="stable")]:
        fold_G[group] = int(held.argmin())
        held[fold_G[group]] += sizes_G[group]
    return fold_G
