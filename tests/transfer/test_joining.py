"""Samples with transfer sets: rows, ids, labels, and that nothing of the recipe's own changes."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config.data import Data, Splits, Views
from raykd.config.sources import DigitsSource
from raykd.config.transfer import Transfer
from raykd.data.check import check_data
from raykd.data.dataset import Dataset, ids_of_texts
from raykd.data.samples import samples_of
from raykd.data.transfer.joining import fresh_ids
from raykd.data.transfer_parts import AT_HOME, at_home_rows, without_transfer
from raykd.errors import InputError
from raykd.types import UNLABELLED

SETS = {
    "munge": {"type": "munge", "count": 70, "of": "labelled"},
    "mixture": {"type": "gaussian_mixture", "count": 30},
    "noise": {"type": "noise", "count": 20},
}


def numbers(count=120, **given):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, 3)).astype(np.float32)
    return Dataset(inputs, **{"labels": np.arange(count) % 4, "ids": np.arange(count) * 3, **given})


def samples(dataset=None, sets=SETS, *, labels=40, seed=0, columns=(), **given):
    transfer = None if sets is None else Transfer(sets=sets, **given)
    data = Data(source=DigitsSource(), splits=Splits(validation=20, test=20), labels=labels, transfer=transfer,
                views=Views())  # fmt: skip
    return samples_of(dataset or numbers(), data, seed=seed, columns=columns)


def test_made_samples_stand_behind_the_own_ones_without_labels():
    found, own = samples(), samples(sets=None)
    assert {name: len(rows) for name, rows in found.transfer.items()} == {
        "munge": 70, "mixture": 30, "noise": 20,
    }  # fmt: skip
    assert len(found.splits["train"]) == 80 + 120
    np.testing.assert_array_equal(found.own_training_rows, own.splits["train"])
    made = np.concatenate(list(found.transfer.values()))
    assert (found.labels[made] == UNLABELLED).all()
    assert (found.all_labels[made] == UNLABELLED).all()
    assert len(np.unique(found.ids)) == len(found)
    assert found.named(found.transfer["noise"][:2]) == ["noise/0", "noise/1"]
    for split in ("validation", "test"):
        np.testing.assert_array_equal(found.splits[split], own.splits[split])
    assert len(found.labelled_rows("train")) == 40
    assert any("munge, made of 40 training samples" in note for note in found.notes)


def test_what_is_fitted_to_inputs_does_not_know_of_made_samples():
    found, own = samples(), samples(sets=None)
    assert found.statistics() == own.statistics()
    np.testing.assert_array_equal(found.training_rows(50), own.training_rows(50))
    assert found.view_key == own.view_key
    bare = without_transfer(found)
    assert len(bare) == len(own)
    assert not bare.transfer
    for name in ("ids", "labels", "all_labels"):
        np.testing.assert_array_equal(getattr(bare, name), getattr(own, name))
    np.testing.assert_array_equal(bare.splits["train"], own.splits["train"])
    every = np.arange(len(own))
    np.testing.assert_array_equal(bare.content_hash(every), own.content_hash(every))
    assert without_transfer(own) is own


def test_held_out_samples_and_labels_outside_the_budget_leave_no_trace():
    """Another value in validation, test or a hidden label changes no made sample."""
    first = samples()
    dataset = numbers()
    held_out = np.concatenate([first.splits["validation"], first.splits["test"]])
    inputs = dataset.arrays["inputs"].copy()
    inputs[held_out] += 100.0
    second = samples(Dataset(inputs, dataset.known_labels, dataset.sample_ids))
    for name, rows in first.transfer.items():
        np.testing.assert_array_equal(
            first.inputs["inputs"][rows], second.inputs["inputs"][second.transfer[name]]
        )


def test_made_samples_do_not_depend_on_the_order_of_the_source():
    dataset = numbers()
    order = np.random.default_rng(1).permutation(len(dataset))
    other = Dataset(
        dataset.arrays["inputs"][order], dataset.known_labels[order], dataset.sample_ids[order]
    )
    one, two = samples(dataset), samples(other)
    for name, rows in one.transfer.items():
        np.testing.assert_array_equal(
            one.inputs["inputs"][rows], two.inputs["inputs"][two.transfer[name]]
        )


def test_a_larger_set_keeps_ids_and_contents_of_the_smaller_one():
    more = samples(sets={**SETS, "munge": {**SETS["munge"], "count": 300}})
    some = samples()
    rows, longer = some.transfer["munge"], more.transfer["munge"][:70]
    np.testing.assert_array_equal(some.ids[rows], more.ids[longer])
    np.testing.assert_array_equal(some.content_hash(rows), more.content_hash(longer))


def test_ids_that_are_taken_are_given_to_nobody_else():
    names = ["a/0", "a/1", "a/2"]
    usual = ids_of_texts(names)
    np.testing.assert_array_equal(fresh_ids(names, np.array([1, 2])), usual)
    found = fresh_ids(names, usual[1:2])
    assert found[0] == usual[0]
    assert found[2] == usual[2]
    assert found[1] not in {*usual.tolist()}
    again = fresh_ids(["x", "x"], np.array([], np.int64))
    assert again[0] != again[1]


def test_weights_columns_and_hashes_are_continued():
    columns = {"age": np.arange(120)}
    found = samples(numbers(weights=np.linspace(1, 3, 120), columns=columns), columns=["age"])
    assert found.weights[found.transfer["munge"]] == pytest.approx(2.0)
    np.testing.assert_array_equal(found.columns["age"], columns["age"])
    assert not len(check_data(found).leaks)


@pytest.mark.parametrize("task", ["regression", "multilabel", "embedding"])
def test_other_tasks_have_transfer_sets_too(task):
    labels = {
        "regression": np.linspace(0, 1, 120),
        "multilabel": np.stack([np.arange(120) % 2, np.arange(120) % 3 == 0], axis=1).astype(int),
        "embedding": np.arange(120) % 4,
    }[task]
    found = samples(numbers(labels=labels, task=task))
    rows = found.transfer["mixture"]
    assert len(rows) == 30
    assert len(found.labelled_rows("train")) == 40
    assert not np.isin(rows, found.labelled_rows("train")).any()


def test_few_rows_of_each_set_are_looked_at():
    found = samples(
        sets={"noise": {"type": "noise", "count": 2000}, "few": {"type": "noise", "count": 3}}
    )
    shown = at_home_rows(found)
    assert len(np.unique(shown["noise"])) == AT_HOME
    np.testing.assert_array_equal(shown["few"], found.transfer["few"])


def brought(**given):
    return {
        "other": {"type": "source", "source": {"type": "factory", "path": "mine:make"}, **given}
    }


@pytest.fixture
def source(monkeypatch):
    """Whatever the source of a set is to give."""
    held = {}
    monkeypatch.setattr(
        "raykd.data.transfer.joining.load_source", lambda source, task: held["data"]
    )
    return held


def test_samples_of_another_source_are_taken_without_their_labels(source):
    source["data"] = Dataset(
        np.full((9, 3), 2.0), labels=np.arange(9) % 3, ids=[f"x{i}" for i in range(9)]
    )
    found = samples(sets=brought())
    rows = found.transfer["other"]
    assert found.inputs["inputs"].dtype == np.float32
    assert (found.inputs["inputs"][rows] == 2.0).all()
    assert (found.all_labels[rows] == UNLABELLED).all()
    assert found.named(rows[:1]) == ["other/x0"]
    some, more = (samples(sets=brought(count=n)) for n in (3, 5))
    assert set(some.ids[some.transfer["other"]]) < set(more.ids[more.transfer["other"]])


def test_columns_of_another_table_are_found_by_name_and_words_keep_their_codes(source):
    codes = np.array([0.0, 1.0, np.nan] * 40)
    own = Dataset(
        np.stack([np.arange(120.0), codes], axis=1), np.arange(120) % 2, features=("size", "shop"),
        words={"shop": ("north", "south")},
    )  # fmt: skip
    source["data"] = Dataset(
        np.array([[0.0, 9.0, 5.0], [1.0, 9.0, 6.0], [np.nan, 9.0, 7.0]]),
        features=("shop", "unused", "size"), words={"shop": ("east", "south")},
    )  # fmt: skip
    found = samples(own, brought())
    rows = found.transfer["other"]
    assert found.words["shop"] == ("north", "south", "east")
    np.testing.assert_array_equal(
        found.inputs["inputs"][rows], [[5.0, 2.0], [6.0, 1.0], [7.0, np.nan]]
    )
    source["data"] = Dataset(np.ones((2, 2)), features=("size", "shop"))
    with pytest.raises(InputError, match=r"numbers in column 'shop', where data\.source has words"):
        samples(own, brought())
    source["data"] = Dataset(np.ones((2, 1)), features=("size",))
    with pytest.raises(InputError, match="lacks column 'shop'"):
        samples(own, brought())


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Dataset(np.zeros((2, 4))), r"float64 \[4\]; those of data.source are float32 \[3\]"),
        (Dataset(np.zeros((2, 3), np.uint8)), r"uint8 \[3\]"),
        (Dataset({"pixels": np.zeros((2, 3))}), r"has inputs \['pixels'\]"),
    ],
)
def test_other_samples_that_look_different_are_refused(source, other, why):
    source["data"] = other
    with pytest.raises(InputError, match=why) as caught:
        samples(sets=brought())
    assert caught.value.problems[0].key == "data.transfer.sets.other.source"


def test_more_than_a_source_has_is_refused(source):
    source["data"] = Dataset(np.zeros((2, 3)))
    with pytest.raises(InputError, match="found 5, but the source has 2"):
        samples(sets=brought(count=5))


def test_digits_of_one_kind_are_transfer_samples_of_another():
    data = Data(
        source=DigitsSource(),
        transfer=Transfer(sets={"again": {"type": "source", "source": DigitsSource(), "count": 40},
                                "blends": {"type": "mixup", "count": 10}}),
    )  # fmt: skip
    from raykd.data.samples import build_samples

    found = build_samples(data, seed=0)
    assert len(found.transfer["again"]) == 40
    assert found.inputs["inputs"][found.transfer["blends"]].shape == (10, 1, 8, 8)
