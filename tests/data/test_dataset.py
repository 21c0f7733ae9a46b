from __future__ import annotations

import numpy as np
import pytest

from raykd.data import Dataset
from raykd.errors import InputError

X = np.zeros((6, 3), np.float32)
NAN = np.where(np.eye(6, 3) > 0, np.nan, 0).astype(np.float32)


def test_everything_is_normalised_and_nothing_given_is_changed():
    labels = np.array([0, 1, -1, 1, 0, 1], np.int32)
    rows = np.array([5, 3])
    dataset = Dataset(inputs=X, labels=labels, splits={"test": rows}, weights=np.arange(6))
    assert list(dataset.arrays) == ["inputs"]
    assert dataset.arrays["inputs"] is X
    assert dataset.labels.dtype == np.int64
    assert dataset.ids.tolist() == list(range(6))
    assert dataset.splits["test"].tolist() == [3, 5]
    assert rows.tolist() == [5, 3]
    assert dataset.weights.dtype == np.float32
    assert dataset.class_names == ("0", "1")
    assert len(dataset) == 6


def test_without_labels():
    dataset = Dataset(inputs={"a": X, "b": X})
    assert dataset.labels is None
    assert dataset.known_labels.tolist() == [-1] * 6
    assert dataset.class_names == ()


def test_whole_floats_are_labels():
    assert Dataset(inputs=X, labels=np.array([0.0, 1, 2, -1, 0, 1])).labels.dtype == np.int64


@pytest.mark.parametrize("dtype", ["U", object])
def test_text_ids_are_hashed_the_same_each_time(dtype):
    names = np.array(list("abcdéf"), dtype=dtype)
    ids = Dataset(inputs=X, ids=names).ids
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids[0] == 8314517215945369359  # must never change: stored targets are found by it
    assert len(set(ids.tolist())) == 6
    assert Dataset(inputs=X[:2], ids=["c", "a"]).ids.tolist() == [ids[2], ids[0]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inputs": {}}, r"data\.source\.inputs: found no array"),
        ({"inputs": {"": X}}, r"inputs: found the name ''"),
        ({"inputs": X[:, 0]}, r"inputs: 'inputs' has shape \[6\]; vectors are \[N, D\]"),
        ({"inputs": X[:0]}, r"has shape \[0, 3\].*none of them empty"),
        ({"inputs": X.astype(complex)}, r"has dtype complex128; use unsigned 8-bit"),
        ({"inputs": X.astype(np.int16)}, r"has dtype int16; use unsigned 8-bit"),
        ({"inputs": X > 0}, r"has dtype bool"),
        ({"inputs": NAN[:, :, None]}, r"'inputs' has NaN, infinity or a number too large for float32 in 3 of 6 samples"),
        ({"inputs": np.nan_to_num(NAN, nan=np.inf)}, r"'inputs' has infinity or a number too large for float32 in 3 of 6 samples"),
        ({"inputs": {"a": X, "b": X[:4]}}, r"found lengths \{'a': 6, 'b': 4\}"),
        ({"labels": np.arange(5)}, r"labels: found shape \[5\]; needs \[6\]"),
        ({"labels": np.arange(6) + 0.5}, r"labels: found dtype float64; needs whole numbers from -1"),
        ({"labels": np.array(list("abcdef"))}, r"labels: found dtype <U1.*name classes in `classes`"),
        ({"labels": np.arange(6) - 2}, r"labels: found values from -2 to 3; allowed are -1 and above"),
        ({"labels": np.full(6, np.nan)}, r"labels: found dtype float64"),
        ({"ids": np.zeros(6, int)}, r"ids: 5 ids are repeated \(e\.g\. '0'\)"),
        ({"ids": list("abcdea")}, r"ids: 1 ids are repeated \(e\.g\. 'a'\)"),
        ({"ids": np.arange(6) - 1}, r"ids: found values from -1 to 4; allowed are 0"),
        ({"ids": np.arange(6, dtype=np.uint64) + np.uint64(2**63)}, r"ids: found values from 9223"),
        ({"ids": np.arange(4)}, r"ids: found shape \[4\]"),
        ({"ids": np.array([None] * 6)}, r"ids: found dtype object"),
        ({"splits": {"valid": np.arange(2)}}, r"splits: found \['valid'\]; the parts are train, validation"),
        ({"splits": {"test": np.arange(0)}}, r"splits\.test: found .*at least one \(or leave it out\)"),
        ({"splits": {"test": X[:, 0] > 0}}, r"splits\.test: found dtype bool"),
        ({"splits": {"test": np.array([0, 6])}}, r"found rows from 0 to 6; allowed are 0 to 5"),
        ({"splits": {"test": np.array([1, 1])}}, r"each once"),
        (
            {"splits": {"train": np.arange(4), "test": np.arange(3, 6)}},
            r"splits: train and test share 1 rows \(e\.g\. 3\)",
        ),
        ({"weights": np.ones(5)}, r"weights: found shape \[5\]"),
        ({"weights": -np.ones(6)}, r"weights: found negative"),
        ({"weights": np.zeros(6)}, r"weights: .* only zero"),
        ({"classes": ("a", "a")}, r"classes: found \['a', 'a'\]"),
        ({"classes": ()}, r"classes: found \[\]"),
        ({"labels": np.arange(6), "classes": ("a", "b")}, r"found label 5; with 2 classes allowed are"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        Dataset(**{"inputs": X, **kwargs})


def test_all_problems_come_at_once():
    with pytest.raises(InputError) as caught:
        Dataset(inputs=X, labels=np.arange(5), ids=np.zeros(6, int), weights=-np.ones(6))
    keys = [problem.key for problem in caught.value.problems]
    assert sorted(keys) == ["data.source.ids", "data.source.labels", "data.source.weights"]
