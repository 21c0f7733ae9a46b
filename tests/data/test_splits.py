from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.config.data import Splits
from raykd.data.dataset import Dataset
from raykd.data.splits import class_ranks, label_budget, make_splits, stratified_head
from raykd.errors import InputError


def dataset_of(labels, **kwargs):
    return Dataset(
        inputs=np.zeros((len(labels), 2), np.float32), labels=np.asarray(labels), **kwargs
    )


class_sizes = st.lists(st.integers(8, 60), min_size=2, max_size=6)
sized = settings(derandomize=True, max_examples=40, deadline=None)


def shuffled_labels(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


@given(sizes=class_sizes, seed=st.integers(0, 2**31))
@sized
def test_splits_are_a_stratified_partition(sizes, seed):
    labels = shuffled_labels(sizes, seed)
    splits = make_splits(dataset_of(labels), Splits(validation=0.25, test=0.25), seed=seed)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(labels)))
    for name, rows in splits.items():
        assert (np.diff(rows) > 0).all()
        assert rows.dtype == np.int64
        counts = np.bincount(labels[rows], minlength=len(sizes))
        share = 0.5 if name == "train" else 0.25
        assert np.abs(counts - share * np.array(sizes)).max() <= 2
    assert len(splits["test"]) == round(0.25 * len(labels))


def test_splits_depend_on_seed_and_ids_alone():
    labels = shuffled_labels([50, 50, 20], 0)
    ids = np.random.default_rng(1).permutation(1000)[:120]
    dataset = dataset_of(labels, ids=ids)
    splits = make_splits(dataset, Splits(), seed=3)
    again = make_splits(dataset, Splits(), seed=3)
    other = make_splits(dataset, Splits(), seed=4)
    order = np.random.default_rng(2).permutation(120)
    reordered = make_splits(dataset_of(labels[order], ids=ids[order]), Splits(), seed=3)
    for name in splits:
        assert splits[name].tolist() == again[name].tolist()
        assert splits[name].tolist() != other[name].tolist()
        assert set(ids[splits[name]]) == set(ids[order][reordered[name]])


def test_a_larger_part_contains_the_smaller_and_leaves_the_other_alone():
    dataset = dataset_of(shuffled_labels([50, 50, 20], 0))
    small = make_splits(dataset, Splits(validation=10, test=12), seed=0)
    large = make_splits(dataset, Splits(validation=30, test=12), seed=0)
    larger = make_splits(dataset, Splits(validation=10, test=40), seed=0)
    assert set(small["validation"]) < set(large["validation"])
    assert small["test"].tolist() == large["test"].tolist()
    assert set(small["test"]) < set(larger["test"])
    assert small["validation"].tolist() == larger["validation"].tolist()
    assert [len(large[name]) for name in ("train", "validation", "test")] == [78, 30, 12]


def test_unlabelled_samples_train():
    labels = np.where(np.arange(100) % 5 == 0, np.arange(100) % 2, -1)
    splits = make_splits(dataset_of(labels), Splits(validation=0.25, test=0.25), seed=0)
    assert (labels[splits["validation"]] >= 0).all()
    assert len(splits["validation"]) == len(splits["test"]) == 5
    assert set(np.flatnonzero(labels < 0)) <= set(splits["train"])


def test_parts_of_the_source_are_kept():
    labels = np.arange(100) % 2
    test = np.arange(80, 100)
    splits = make_splits(dataset_of(labels, splits={"test": test}), Splits(validation=0.1), seed=0)
    assert splits["test"].tolist() == test.tolist()
    assert len(splits["validation"]) == 8
    assert len(splits["train"]) == 72
    both = {"train": np.arange(40), "test": np.arange(90, 100)}
    splits = make_splits(dataset_of(labels, splits=both), Splits(validation=0.1), seed=0)
    assert len(splits["validation"]) == 4
    assert sorted([*splits["train"], *splits["validation"]]) == list(range(40))
    every = {"train": np.arange(40), "validation": np.arange(40, 60), "test": np.arange(60, 70)}
    splits = make_splits(dataset_of(labels, splits=every), Splits(validation=0, test=0), seed=0)
    assert {name: rows.tolist() for name, rows in splits.items()} == {
        name: rows.tolist() for name, rows in every.items()
    }


def test_the_only_sample_of_a_class_trains():
    labels = np.array([0] * 30 + [1] * 30 + [2])
    for seed in range(5):
        assert 60 in make_splits(dataset_of(labels), Splits(), seed=seed)["train"]


@pytest.mark.parametrize(
    ("labels", "kwargs", "sizes", "message"),
    [
        ([0, 1] * 10, {}, (0, 0.2), r"data\.splits\.validation: found 0, which is 0 of 20"),
        ([0, 1] * 10, {}, (0.01, 0.2), r"data\.splits\.validation: found 0\.01, which is 0 of 20.*at least 1"),
        ([0, 1] * 10, {}, (0.2, 0.0), r"data\.splits\.test: found 0\.0"),
        ([0, 1] * 10, {}, (0.5, 0.5), r"data\.splits\.test: found 0\.5: validation 10 and test 10 of 20 .*at most 18"),
        ([0, 1] * 10, {}, (19, 3), r"data\.splits\.validation: found 19.* at most 18"),
        ([-1] * 20, {}, (0.2, 0.2), r"data\.splits\.validation: .* 0 of 0 labelled"),
        ([0, 2] * 10, {}, (0.2, 0.2), r"data\.source: 1 of 3 classes have no labelled training sample \(1\)"),
        ([0, 1] * 10, {"classes": ("a", "b", "c")}, (0.2, 0.2), r"1 of 3 classes .*\(c\)"),
        ([0] * 10 + [1] * 10, {"splits": {"test": np.arange(10, 20)}}, (0.2, 0.2), r"1 of 2 classes"),
        ([0, 1] * 9 + [-1, 1], {"splits": {"test": np.arange(16, 20)}}, (0.2, 0.2), r"data\.source\.splits\.test: 1 of 4 samples have no label"),
    ],
)  # fmt: skip
def test_impossible_splits_are_named(labels, kwargs, sizes, message):
    with pytest.raises(InputError, match=message):
        make_splits(
            dataset_of(labels, **kwargs), Splits(validation=sizes[0], test=sizes[1]), seed=0
        )


@given(sizes=class_sizes, budget=st.integers(1, 400), seed=st.integers(0, 2**31))
@sized
def test_label_budget_is_exact_stratified_and_nested(sizes, budget, seed):
    labels = shuffled_labels(sizes, seed)
    rows = np.flatnonzero(np.arange(len(labels)) % 8 != 0)
    available = len(rows)
    budget = min(budget, available)
    kept = label_budget(labels, rows, budget, seed=seed)
    outside = np.setdiff1d(np.arange(len(labels)), rows)
    assert (kept[outside] == labels[outside]).all()
    chosen = rows[kept[rows] >= 0]
    assert len(chosen) == budget
    assert (kept[chosen] == labels[chosen]).all()
    counts = np.bincount(labels[chosen], minlength=len(sizes))
    train = np.bincount(labels[rows], minlength=len(sizes))
    if budget >= len(sizes):
        assert counts.min() >= 1
    fair = budget * train / available
    assert (np.abs(counts - fair) <= 1 + len(sizes) / 2).all()
    if budget < available:
        more = label_budget(labels, rows, budget + 1, seed=seed)
        assert set(chosen) < set(rows[more[rows] >= 0])
    assert (label_budget(labels, rows, budget, seed=seed) == kept).all()


def test_label_budget_of_a_part_and_of_ids():
    labels = np.array([0, 1] * 50)
    rows = np.arange(80)
    assert (label_budget(labels, rows, 0.25, seed=0)[rows] >= 0).sum() == 20
    assert (label_budget(labels, rows, 1.0, seed=0) == labels).all()
    assert (label_budget(labels, rows, 1, seed=0)[rows] >= 0).sum() == 1
    by_row = label_budget(labels, rows, 10, seed=0)
    assert (by_row != label_budget(labels, rows, 10, seed=1)).any()
    assert (by_row != label_budget(labels, rows, 10, seed=0, ids=np.arange(500, 600))).any()
    assert labels.tolist() == [0, 1] * 50


@pytest.mark.parametrize("budget", [0.001, 81])
def test_impossible_budgets_are_named(budget):
    labels = np.array([0, 1] * 50)
    with pytest.raises(
        InputError,
        match=rf"data\.labels: found {budget}, .* of 80 .* 0 to 80, .*one per class \(2\)",
    ):
        label_budget(labels, np.arange(80), budget, seed=0)


def test_a_budget_of_no_label_hides_those_of_training_alone():
    labels = np.array([0, 1, 0, 1, 0, 1, -1])
    kept = label_budget(labels, np.array([0, 1, 2, 6]), 0, seed=0)
    assert kept.tolist() == [-1, -1, -1, 1, 0, 1, -1]
    with pytest.raises(InputError, match="allowed are 0 to 3"):
        label_budget(labels, np.array([0, 1, 2]), 0.01, seed=0)


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(st.sampled_from([0, 1, 2, 7, 70_000]), min_size=1, max_size=60),
    seed=st.integers(0, 9),
    part=st.floats(0, 1),
)
def test_the_head_is_that_of_the_whole_order(labels, seed, part):
    """The order as it was made before heads were found without it."""
    labels = np.array(labels)
    keys = np.random.default_rng(seed).permutation(1000)[: len(labels)].astype(np.uint64)
    ranks, sizes = class_ranks(labels, keys)
    for row in range(len(labels)):
        alike = labels == labels[row]
        assert ranks[row] == (keys[alike] < keys[row]).sum()
        assert sizes[row] == alike.sum()
    priority = np.where(ranks == 0, -sizes.astype(np.float64), (ranks + 0.5) / sizes)
    count = round(part * len(labels))
    expected = np.sort(np.lexsort((labels, priority))[:count])
    np.testing.assert_array_equal(stratified_head(labels, ranks, sizes, count), expected)
