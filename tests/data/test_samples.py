from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from raykd.config.data import (
    Data,
    Flip,
    Mixup,
    Shift,
    Splits,
    Views,
)
from raykd.config.sources import DigitsSource, FashionMnistSource
from raykd.data import Dataset, Samples, build_samples
from raykd.data import samples as samples_module
from raykd.data.samples import samples_of
from raykd.errors import InputError
from raykd.pipeline.loading import fingerprints

DIGITS = Data(
    source=DigitsSource(), labels=200, views=Views(count=4, policy=(Shift(pixels=1), Mixup()))
)


@pytest.fixture(scope="module")
def digits() -> Samples:
    return build_samples(DIGITS, seed=0)


def test_digits(digits):
    assert {name: len(rows) for name, rows in digits.splits.items()} == {
        "train": 1168,
        "validation": 270,
        "test": 359,
    }
    assert digits.input_shape == (1, 8, 8)
    assert digits.class_count == 10
    assert len(digits) == 1797
    assert len(digits.labelled_rows("train")) == 200
    assert len(digits.labelled_rows("test")) == 359
    assert (digits.all_labels >= 0).all()
    counts = np.bincount(digits.labels[digits.labelled_rows("train")])
    assert np.abs(counts - 20).max() <= 1


def test_build_is_repeatable_and_seeded(digits):
    again, other = build_samples(DIGITS, seed=0), build_samples(DIGITS, seed=1)
    for name in digits.splits:
        assert (digits.splits[name] == again.splits[name]).all()
        assert (digits.splits[name] != other.splits[name]).any()
    assert (digits.labels == again.labels).all()
    assert digits.view_key == again.view_key != other.view_key


def test_batch_fields(digits):
    rows = np.array([5, 900, 5])
    batch = digits.batch(rows, 2, present=np.array([True, True, False]))
    assert batch.rows.tolist() == [5, 900, 5]
    assert batch.ids.tolist() == [5, 900, 5]
    assert batch.view_B.tolist() == [2, 2, 2]
    assert batch.present_B.tolist() == [True, True, False]
    assert batch.weight_B is None
    assert batch.inputs["inputs"].shape == (3, 1, 8, 8)
    assert batch.labels.dtype == torch.int64
    assert batch.mixed.share_B.dtype == torch.float32
    assert batch.mixed.partner_labels_B.dtype == torch.int64
    assert len(batch) == 3
    assert digits.batch(rows, -1).mixed is None
    empty = digits.batch(rows[:0], 0)
    assert empty.inputs["inputs"].shape == (0, 1, 8, 8)


def test_budget_or_all_labels(digits):
    train, test = digits.splits["train"], digits.splits["test"]
    hidden = digits.batch(train, -1).labels
    assert int((hidden >= 0).sum()) == 200
    known = digits.batch(train, -1, labels="all").labels
    assert (known >= 0).all()
    assert torch.equal(known[hidden >= 0], hidden[hidden >= 0])
    assert (digits.batch(test, -1).labels >= 0).all()


def test_partners_are_training_samples_only(digits):
    train = set(digits.splits["train"].tolist())
    assert set(digits.pools.every.tolist()) == train
    assert set(digits.pools.labelled.tolist()) == set(digits.labelled_rows("train").tolist())
    assert (np.diff(digits.ids[digits.pools.every]) > 0).all()


def test_a_batch_is_memory_of_its_own(digits):
    for view in (-1, 0):
        first = digits.batch(np.arange(4), view)
        expected = first.inputs["inputs"].clone()
        first.inputs["inputs"].fill_(7)
        first.labels.fill_(7)
        first.rows.fill_(7)
        again = digits.batch(np.arange(4), view)
        assert torch.equal(again.inputs["inputs"], expected)
    rows = np.arange(4)
    digits.batch(rows, 0).rows.fill_(9)
    assert rows.tolist() == [0, 1, 2, 3]


def test_zero_copy_on_the_other_side(digits):
    digits.batch(np.arange(3), 0)
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(digits, protocol=5, buffer_callback=buffers.append)
    assert len(small) < 10_000
    frozen = [bytes(buffer) for buffer in buffers]
    there = pickle.loads(small, buffers=frozen)  # noqa: S301
    assert not there.inputs["inputs"].flags.writeable
    for view in (-1, 0, 3):
        here, other = digits.batch(np.arange(50), view), there.batch(np.arange(50), view)
        assert torch.equal(here.inputs["inputs"], other.inputs["inputs"])
        assert torch.equal(here.labels, other.labels)
    assert there.view_key == digits.view_key
    assert there.statistics() == digits.statistics()
    assert (there.content_hash(np.arange(9)) == digits.content_hash(np.arange(9))).all()


def test_what_was_given_stays_writeable():
    inputs = np.ones((40, 3), np.float32)
    samples = samples_of(
        Dataset(inputs=inputs, labels=np.arange(40) % 2), Data(source=DigitsSource()), seed=0
    )
    assert inputs.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        samples.labels[0] = 3


@pytest.mark.parametrize(
    ("rows", "view", "error"),
    [
        (np.array([1797]), 0, IndexError),
        (np.array([-1]), 0, IndexError),
        (np.array([0]), -2, ValueError),
        (np.array([[0]]), 0, ValueError),
        (np.array([0, 1]), np.array([0, 1, 2]), ValueError),
    ],
)
def test_wrong_requests_are_refused(digits, rows, view, error):
    with pytest.raises(error):
        digits.batch(rows, view)


def test_present_of_another_length_is_refused(digits):
    with pytest.raises(ValueError, match="one length"):
        digits.batch(np.array([0]), 0, present=np.ones(2, bool))


def test_statistics_match_numpy(make_samples):
    for floats in (False, True):
        samples = make_samples(floats=floats)
        train = samples.inputs["inputs"][samples.splits["train"]]
        scaled = train.astype(np.float64) / (1 if floats else 255)
        means, stds = samples.statistics()
        np.testing.assert_allclose(means, scaled.mean(axis=(0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(stds, scaled.std(axis=(0, 2, 3)), rtol=1e-6)
        assert samples.statistics() == (means, stds)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_channel_has_deviation_one(dtype):
    inputs = np.full((40, 2), 3, dtype)
    inputs[:, 1] = np.arange(40)
    dataset = Dataset(inputs=inputs, labels=np.arange(40) % 2)
    samples = samples_of(dataset, Data(source=DigitsSource()), seed=0)
    assert samples.statistics()[1][0] == 1.0


def test_content_hash_sees_bytes_dtype_and_shape():
    def hashes(inputs):
        dataset = Dataset(inputs=inputs, labels=np.arange(40) % 2)
        samples = samples_of(dataset, Data(source=DigitsSource()), seed=0)
        return samples.content_hash(np.arange(40))

    values = np.arange(160, dtype=np.float32).reshape(40, 4)
    own = hashes(values)
    assert own.dtype == np.uint64
    assert len(np.unique(own)) == 40
    assert (own == hashes(np.asfortranarray(values))).all()
    changed = values.copy()
    changed[7, 3] += 1
    assert np.flatnonzero(own != hashes(changed)).tolist() == [7]
    for other in (values.view(np.int32), values.reshape(40, 2, 2), {"b": values}):
        assert not np.intersect1d(own, hashes(other)).size
    two = {"a": values, "b": np.zeros((40, 1), np.float32)}
    assert not np.intersect1d(hashes(two), own).size


def test_weights_and_float64_inputs():
    dataset = Dataset(
        inputs=np.random.default_rng(0).random((40, 3)),
        labels=np.arange(40) % 2,
        weights=np.arange(40),
    )
    samples = samples_of(dataset, Data(source=DigitsSource()), seed=0)
    batch = samples.batch(np.array([3, 8]), 0)
    assert batch.weight_B.tolist() == [3, 8]
    assert batch.inputs["inputs"].dtype == torch.float32


def test_classes_are_overridden_or_refused():
    names = tuple("abcdefghij")
    assert build_samples(Data(source=DigitsSource(), classes=names), seed=0).classes == names
    for wrong, why in {
        names[:9]: r"found 9 names; the source has 10 classes \(0, 1",
        (*names[:9], "a"): r"found 10 names \(9 different\): 'a' more than once",
        (*names[:9], " "): "name 9 is empty",
        (): "found no name",
        tuple("1023456789"): r"'1' has index 0, and is class 1 of the source",
    }.items():
        with pytest.raises(InputError, match=rf"data\.classes: {why}"):
            build_samples(Data(source=DigitsSource(), classes=wrong), seed=0)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "a\nb\nc c\n\n"),
        ("names.txt", "\ufeffa\r\nb\r\nc c"),
        ("n.json", '["a", "b", "c c"]'),
    ],
)
def test_classes_of_a_file(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    dataset = Dataset(inputs=np.random.default_rng(0).random((60, 2)), labels=np.arange(60) % 3)
    data = Data(source=DigitsSource(), classes=str(tmp_path / file))
    assert samples_of(dataset, data, seed=0).classes == ("a", "b", "c c")


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("no.txt", None, "there is no file .*give a list of names, or a text file"),
        ("n.txt", "a\n\nb", "name 1 in .*n.txt is empty"),
        ("n.txt", "a\nb\na", r"3 names in .*n.txt \(2 different\): 'a' more than once"),
        ("n.json", "{", "cannot be read"),
        ("n.json", "[1, 2, 3]", "holds no list of texts"),
        ("n.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_names_no_classes(tmp_path, file, text, why):
    if text is not None:
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    data = Data(source=DigitsSource(), classes=str(tmp_path / file))
    with pytest.raises(InputError, match=rf"data\.classes: .*{why}"):
        build_samples(data, seed=0)


def test_budget_of_a_part_and_too_many():
    data = Data(source=DigitsSource(), labels=0.1, splits=Splits(validation=100, test=100))
    assert len(build_samples(data, seed=0).labelled_rows("train")) == 160
    with pytest.raises(InputError, match=r"data\.labels: found 5000"):
        build_samples(data.model_copy(update={"labels": 5000}), seed=0)


@pytest.mark.soak
def test_limited_fashion_mnist_end_to_end():
    source = FashionMnistSource(limit=600)
    try:
        samples = build_samples(Data(source=source, views=Views(policy=(Flip(),))), seed=0)
    except InputError as error:
        pytest.skip(str(error))
    assert {name: len(rows) for name, rows in samples.splits.items()} == {
        "train": 510,
        "validation": 90,
        "test": 100,
    }
    shown = samples.batch(np.arange(5), 0).inputs["inputs"]
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_content_hashes_are_computed_once_for_all_processes(digits, monkeypatch):
    hashed = []
    compute = samples_module.content_hashes
    monkeypatch.setattr(
        samples_module, "content_hashes", lambda inputs: (hashed.append(1), compute(inputs))[1]
    )
    known = digits.hashed()
    once = len(hashed)
    assert once
    there = pickle.loads(pickle.dumps(known))  # noqa: S301
    np.testing.assert_array_equal(there.content_hashes, known.content_hash(np.arange(len(digits))))
    assert there.hashed() is there
    assert fingerprints(there) == fingerprints(known)
    assert len(hashed) == once
    np.testing.assert_array_equal(digits.content_hashes, known.content_hashes)


def test_arrays_that_are_alike_are_one_array():
    """Of many samples each would be some hundred megabytes."""
    data = Dataset(inputs=np.zeros((50, 2), np.uint8), labels=np.arange(50) % 2)
    samples = samples_of(data, Data.model_validate({"source": {"type": "digits"}}), seed=0)
    train = samples.splits["train"]
    for same in (samples.pools.every, samples.pools.labelled):
        assert np.shares_memory(same, train)
    assert np.shares_memory(samples.labels, samples.all_labels)
    assert samples.named(np.array([3, 1])) == ["3", "1"]
    assert samples.user_ids.buffers()[1].address == samples.ids.__array_interface__["data"][0]
