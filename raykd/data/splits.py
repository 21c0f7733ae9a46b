"""Stratified splits and label budgets, seeded per sample.

The strata are the classes; in regression deciles of the value, in multilabel the rarest label. Of embeddings,
which need no labels, samples without one are a stratum too.

Each sample has a number of its own, made from (seed, id); within a class the samples are ranked by it.
So a sample's rank depends on nothing but the seed, the ids and the labels, and
- a larger test part contains the smaller one; the same holds for validation, and for label budgets;
- the size of validation does not change which samples are test.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raykd.config.data import Fold, Splits
from raykd.data.dataset import PARTS, Dataset
from raykd.data.grouping import FOLDS_KEY, parts_by, stratified_folds
from raykd.data.hashing import sample_keys
from raykd.errors import InputError, Problem, refuse
from raykd.types import UNLABELLED

TEST_PER_TRAIN = 1 / 6
"""Test samples for each training sample where a source is limited: as MNIST has them."""


def class_ranks(labels: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's rank by key within its class, and the size of its class.

    Args:
        labels: int64 [N], all >= 0.
        keys: uint64 [N], all different.

    Returns:
        Two [N] of int32, or int64 where there are too many: rank in [0, size), size.
    """
    kind = np.int32 if len(labels) < 2**31 else np.int64
    by_class = np.argsort(keys).astype(kind)
    by_class = by_class[np.argsort(_narrow(labels)[by_class], kind="stable")]
    size_C = np.bincount(labels)
    start_C = np.concatenate(([0], np.cumsum(size_C)[:-1])).astype(kind)
    ranks: np.ndarray = np.empty(len(labels), dtype=kind)
    ranks[by_class] = np.arange(len(labels), dtype=kind)
    np.subtract(ranks, start_C[labels], out=ranks)
    return ranks, size_C.astype(kind)[labels]


def _narrow(labels: np.ndarray) -> np.ndarray:
    """The same numbers in 16 bits where they fit, which numpy sorts in linear time."""
    fits = len(labels) and labels.max() < 2**16
    return labels.astype(np.uint16) if fits else labels


def stratified_head(
    labels: np.ndarray,
    ranks: np.ndarray,
    sizes: np.ndarray,
    count: int,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """The first samples of an order of which every head has the classes in proportion.

    First one of every class, the largest classes first; then the next of the class that is furthest
    behind (the method of Webster and Sainte-Laguë, so that a longer head contains the shorter one).
    The order itself is not made: the head is all that is needed, and found in linear time.

    Args:
        labels: whole numbers [N], all >= 0.
        ranks: the same, the order within each class, from 0.
        sizes: the same, the size of each sample's class.
        count: how many; no more than there are.
        taken: bool [N], samples that are in no head; None = all may be.

    Returns:
        int64 [count], positions, rising.
    """
    if not count:
        return np.empty(0, np.int64)
    priority = ranks + 0.5
    priority /= sizes
    first = ranks == 0
    priority[first] = -sizes[first]
    if taken is not None:
        priority[taken] = np.inf
    last = np.partition(priority, count - 1)[count - 1]
    before, level = np.flatnonzero(priority < last), np.flatnonzero(priority == last)
    level = level[np.argsort(labels[level], kind="stable")]  # the lower class comes first
    return np.sort(np.concatenate([before, level[: count - len(before)]]))


def stratified_choice(labels: np.ndarray, limit: int) -> np.ndarray:
    """Sorted rows of a stratified choice of `limit` samples; a smaller one is part of a larger one."""
    ranks, sizes = class_ranks(labels, sample_keys(np.arange(len(labels)), 0, "limit"))
    return stratified_head(labels, ranks, sizes, min(limit, len(labels)))


def make_splits(dataset: Dataset, splits: Splits, *, seed: int) -> dict[str, np.ndarray]:
    """The rows for training, validation and test.

    Parts that the source brings, or that `splits.by` decides, are kept. A missing validation or test part is drawn, stratified, from
    the labelled rows of the source's training part (of all rows in no part, when it brings none);
    sizes given as a float are parts of these labelled rows (of a fold: of those outside it). One labelled sample of each class, at
    least, stays in training, and so do all unlabelled ones.

    Args:
        dataset: the samples.
        splits: sizes of validation and test.
        seed: the recipe's seed.

    Returns:
        "train", "validation", "test" -> sorted int64 rows, without overlap.

    Raises:
        InputError: a part would be empty, more is asked than there is, or a class has no labelled
            training sample.
    """
    given = dict(dataset.splits or {})
    if splits.by is not None:
        given = parts_by(dataset, splits.by, splits, seed=seed)
    elif splits.fold is not None:
        given = _with_fold(dataset, given, splits.fold, seed)
    labels = dataset.strata
    refuse(_given_problems(given, labels))
    pool, labelled = _pool(labels, given)
    counts = _counts(given, splits, labels, labelled)
    strata = _narrow(labels[labelled])
    ranks, sizes = class_ranks(strata, sample_keys(dataset.sample_ids[labelled], seed, "splits"))
    taken = ranks == 0  # the one that every class keeps for training
    parts = dict(given)
    # Test takes from the low end of the ranks and validation from the high end, so that neither
    # depends on the size of the other.
    for name, order_rank in (("test", ranks - 1), ("validation", sizes - 1 - ranks)):
        if name in given:
            continue
        chosen = stratified_head(strata, order_rank, sizes, counts[name], taken)
        taken[chosen] = True
        parts[name] = labelled[chosen]
    is_train = np.zeros(len(labels), dtype=bool)
    is_train[pool] = True
    is_train[np.concatenate([parts["validation"], parts["test"]])] = False
    parts["train"] = np.flatnonzero(is_train)
    _check_train(dataset, parts["train"])
    if dataset.form.paired:
        refuse(_pair_problems(dataset.known_labels, parts))
    return {name: parts[name].astype(np.int64, copy=False) for name in PARTS}


def _with_fold(
    dataset: Dataset, given: dict[str, np.ndarray], fold: Fold, seed: int
) -> dict[str, np.ndarray]:
    """The parts that the source brings, and the fold as the test part."""
    if "test" in given:
        raise InputError.at(
            FOLDS_KEY, f"the source brings its own test part ({len(given['test']):,} samples), on which every run is "
            "tested; leave it out"
        )  # fmt: skip
    labels = dataset.strata
    pool, labelled = _pool(labels, given)
    keys = sample_keys(dataset.sample_ids[labelled], seed, "folds")
    fold_M = stratified_folds(labels[labelled], keys, fold.of)
    test = labelled[fold_M == fold.index]
    return {**given, "train": np.setdiff1d(pool, test), "test": test}


def label_budget(
    labels: np.ndarray,
    rows: np.ndarray,
    budget: float,
    *,
    seed: int,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """Hide the labels of the training samples that the budget does not pay for.

    The choice is stratified, each class keeping at least one label when the budget is no smaller than
    the number of classes, and a larger budget contains a smaller one.

    Args:
        labels: int64 [N], classes or other strata, −1 where unlabelled.
        rows: int64, the training rows; labels of other rows are left as they are.
        budget: an integer is a count of labels, a float a part of the labelled training samples; 0 hides all.
        seed: the recipe's seed.
        ids: int64 [N], the sample ids; None takes the rows themselves.

    Returns:
        int64 [N], −1 for unlabelled samples and training samples outside the budget.

    Raises:
        InputError: the budget is a part that is less than one label, or it is above what there is.
    """
    labelled = rows[labels[rows] != UNLABELLED]
    count = _to_count(budget, len(labelled))
    classes = len(np.unique(labels[labelled]))
    if not (1 if budget else 0) <= count <= len(labelled):
        raise InputError.at(
            "data.labels",
            f"found {budget}, which is {count} of {len(labelled)} labelled training samples; allowed "
            f"are 0 to {len(labelled)}, and at least one per class ({classes}) is wise; null keeps all",
        )
    if not count:
        return np.where(np.isin(np.arange(len(labels)), rows), UNLABELLED, labels).astype(np.int64)
    keys = sample_keys(labelled if ids is None else ids[labelled], seed, "labels")
    ranks, sizes = class_ranks(labels[labelled], keys)
    hidden = np.ones(len(labelled), dtype=bool)
    hidden[stratified_head(labels[labelled], ranks, sizes, count)] = False
    kept = labels.astype(np.int64, copy=True)
    kept[labelled[hidden]] = UNLABELLED
    return kept


def _to_count(size: float, available: int) -> int:
    return size if isinstance(size, int) else round(size * available)


def _pool(labels: np.ndarray, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that parts are drawn from, all and those with a label: of the training part, or in no part."""
    free = np.ones(len(labels), dtype=bool)
    for rows in given.values():
        free[rows] = False
    pool = given["train"] if "train" in given else np.flatnonzero(free)
    return pool, pool[labels[pool] != UNLABELLED]


def _given_problems(given: dict[str, np.ndarray], labels: np.ndarray) -> Iterator[Problem]:
    for name in ("validation", "test"):
        missing = int((labels[given[name]] == UNLABELLED).sum()) if name in given else 0
        if missing:
            yield Problem(
                f"data.source.splits.{name}",
                f"{missing} of {len(given[name])} samples have no label; {name} samples need one",
            )


def _counts(
    given: dict[str, np.ndarray], splits: Splits, labels: np.ndarray, labelled: np.ndarray
) -> dict[str, int]:
    """How many samples to draw for each part that the source does not bring."""
    asked = {"validation": splits.validation, "test": splits.test}
    required = {name: size for name, size in asked.items() if name not in given}
    counts = {name: _to_count(size, len(labelled)) for name, size in required.items()}
    available = len(labelled) - len(np.unique(labels[labelled]))
    problems = [
        Problem(
            f"data.splits.{name}",
            f"found {required[name]}, which is {count} of {len(labelled)} labelled samples; needs at least 1",
        )
        for name, count in counts.items()
        if count < 1
    ]
    if not problems and sum(counts.values()) > available:
        together = " and ".join(f"{name} {count}" for name, count in counts.items())
        problems = [
            Problem(
                f"data.splits.{name}",
                f"found {size}: {together} of {len(labelled)} labelled samples leave too few for "
                f"training; together at most {available}, so that each class keeps one",
            )
            for name, size in required.items()
        ]
    refuse(problems)
    return counts


def _pair_problems(labels: np.ndarray, parts: dict[str, np.ndarray]) -> Iterator[Problem]:
    """Where samples to be judged have classes, two at least share one, so that something can be found."""
    for name in ("validation", "test"):
        known = labels[parts[name]]
        known = known[known != UNLABELLED]
        if len(known) and np.bincount(known).max() < 2:
            yield Problem(
                f"data.splits.{name}",
                f"has {len(known)} labelled samples, no two of one class, so that nothing can be found among "
                "them; make it larger, or label none of it",
            )


def _check_train(dataset: Dataset, train: np.ndarray) -> None:
    names, form = dataset.class_names, dataset.form
    missing = form.missing(dataset.known_labels[train], names)
    if missing or (form.needed and not names):
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError.at(
            "data.source",
            f"{len(missing)} of {len(names)} {form.missing_text} ({shown or '-'}); "
            f"{form.missing_help}",
        )
    if form.alike is not None and len(names) == 1:
        raise InputError.at("data.source", form.alike(names[0]))
