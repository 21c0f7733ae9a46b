"""Folds: every labelled sample is tested once, by models that never saw it."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config.data import Data, Fold, SplitBy, Splits
from raykd.config.sources import DigitsSource
from raykd.data import Dataset
from raykd.data.grouping import grouped_folds
from raykd.data.samples import samples_of
from raykd.data.splits import make_splits
from raykd.errors import InputError

GROUPS = np.repeat(np.arange(12), 10)


def dataset(labels=None, **given):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3 if labels is None else labels
    inputs = rng.normal(size=(len(labels), 4)).astype(np.float32)
    return Dataset(inputs=inputs, labels=labels, **given)


def folds(data, of, by=None, validation=0.2, seed=0):
    return [
        make_splits(
            data, Splits(validation=validation, by=by, fold=Fold(index=i, of=of)), seed=seed
        )
        for i in range(of)
    ]


@pytest.mark.parametrize("by", [None, SplitBy(type="group", column="patient")])
def test_each_labelled_sample_is_tested_once_and_never_trained_on_there(by):
    labels = np.arange(120) % 3
    labels[::10] = -1
    data = dataset(labels, columns={"patient": GROUPS})
    made = folds(data, 5, by)
    tested = np.concatenate([parts["test"] for parts in made])
    assert sorted(tested) == sorted(np.flatnonzero(labels >= 0))
    for parts in made:
        every = np.concatenate(list(parts.values()))
        assert len(np.unique(every)) == len(every), "no sample is in two parts"
        assert len(parts["validation"]) > 0
        if by is not None:
            of_part = [set(GROUPS[rows]) for rows in parts.values()]
            assert not of_part[0] & of_part[1]
            assert not (of_part[0] | of_part[1]) & of_part[2]
        else:
            assert set(np.flatnonzero(labels < 0)) <= set(parts["train"])


def test_folds_are_stratified_seeded_and_independent_of_validation():
    data = dataset(np.r_[np.zeros(52), np.ones(33), np.full(8, 2)].astype(int))
    made = folds(data, 4)
    for label, size in enumerate((52, 33, 8)):
        counts = [int((data.labels[parts["test"]] == label).sum()) for parts in made]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == size
    sizes = [len(parts["test"]) for parts in made]
    assert max(sizes) - min(sizes) <= 1
    again, other = folds(data, 4, validation=0.4), folds(data, 4, seed=1)
    assert all((a["test"] == b["test"]).all() for a, b in zip(made, again, strict=True))
    assert any(set(a["test"]) != set(b["test"]) for a, b in zip(made, other, strict=True))


def test_groups_are_spread_evenly():
    sizes = np.array([50, 10, 10, 10, 10, 10, 20, 20])
    fold_G = grouped_folds(sizes, np.arange(8), 3)
    held = np.bincount(fold_G, weights=sizes)
    assert held.tolist() == [50, 50, 40]


@pytest.mark.parametrize(
    ("data", "of", "by", "says"),
    [
        (dataset(splits={"test": np.arange(20)}), 5, None, "brings its own test part \\(20 samples\\)"),
        (dataset(np.arange(6) % 2), 7, None, "found 7 for 6 labelled samples"),
        (dataset(columns={"patient": GROUPS}), 12, "patient", "found 12 with 12 groups"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused(data, of, by, says):
    by = None if by is None else SplitBy(type="group", column=by)
    with pytest.raises(InputError, match=says) as caught:
        folds(data, of, by)
    assert [problem.key for problem in caught.value.problems] == ["folds"]


def test_a_class_of_one_sample_cannot_be_tested():
    with pytest.raises(InputError, match="1 of 2 classes have no labelled training sample"):
        folds(dataset(np.array([0] * 9 + [1])), 3)


def test_the_label_budget_is_of_the_training_folds():
    splits = Splits(validation=0.2, fold=Fold(index=1, of=5))
    samples = samples_of(dataset(), Data(source=DigitsSource(), splits=splits, labels=12), seed=0)
    known = np.flatnonzero(samples.labels[samples.splits["train"]] >= 0)
    assert len(known) == 12
    assert (samples.labels[samples.splits["test"]] >= 0).all()
