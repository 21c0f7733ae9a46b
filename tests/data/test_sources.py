from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from raykd.config.sources import (
    ArraysSource,
    DigitsSource,
    FactorySource,
    FashionMnistSource,
    IdxSource,
    MnistSource,
    Source,
)
from raykd.data import load_source
from raykd.data.named.idx import read_idx
from raykd.data.sources import SOURCES
from raykd.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 5, 4)).astype(np.uint8)
LABELS = (np.arange(60) % 10).astype(np.uint8)
NAMES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:12],
    "t10k-labels-idx1-ubyte": LABELS[:12],
}


def idx_bytes(array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder, *, zipped=True, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in NAMES.items():
        data = changed.get(name.replace("-", "_"), idx_bytes(array))
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def test_registry_has_exactly_the_tags():
    union = Source.__origin__.__args__
    assert set(SOURCES) == {kind.model_fields["type"].default for kind in union}


def test_digits():
    dataset = load_source(DigitsSource())
    images = dataset.arrays["inputs"]
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert dataset.classes == tuple("0123456789")
    assert dataset.splits is None


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [MnistSource, FashionMnistSource])
def test_idx_sources(tmp_path, zipped, kind):
    write_idx(tmp_path, zipped=zipped)
    dataset = load_source(kind(root=str(tmp_path)))
    assert dataset.arrays["inputs"].shape == (72, 1, 5, 4)
    np.testing.assert_array_equal(dataset.arrays["inputs"][:60, 0], IMAGES)
    assert dataset.labels[60:].tolist() == LABELS[:12].tolist()
    assert list(dataset.splits) == ["test"]
    assert dataset.splits["test"].tolist() == list(range(60, 72))
    assert len(dataset.classes) == 10


def test_limit_takes_the_same_stratified_few_with_the_same_ids(tmp_path):
    write_idx(tmp_path)
    small = load_source(MnistSource(root=str(tmp_path), limit=20))
    large = load_source(MnistSource(root=str(tmp_path), limit=30))
    assert len(small) == 20 + 3
    assert np.bincount(small.labels[:20]).tolist() == [2] * 10
    assert set(small.ids) <= set(large.ids)
    for row in range(20):
        np.testing.assert_array_equal(small.arrays["inputs"][row, 0], IMAGES[small.ids[row]])
    assert (small.ids[20:] >= 60).all()


def test_root_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("raykd.data.named.idx._SYSTEM_DATASETS", tmp_path / "system")
    with pytest.raises(InputError) as caught:
        load_source(FashionMnistSource())
    message = str(caught.value)
    for part in (
        "data.source.root",
        "home/data/fashion_mnist",
        ".raykd/data/fashion_mnist",
        "system/fashion-mnist",
        "apt-get install dataset-fashion-mnist",
        "train-images-idx3-ubyte",
    ):
        assert part in message
    write_idx(tmp_path / "system" / "fashion-mnist")
    assert len(load_source(FashionMnistSource())) == 72
    write_idx(tmp_path / ".raykd" / "data" / "mnist")
    assert len(load_source(MnistSource())) == 72
    with pytest.raises(InputError, match=r"looked in /no/such;"):
        load_source(MnistSource(root="/no/such"))


GOOD = idx_bytes(IMAGES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with an empty file"),
        (GOOD[:10], "starts with 00000803"),
        (b"\0\0\x0d\x03" + GOOD[4:], "starts with 00000d03.*with 00000803"),
        (idx_bytes(LABELS), "starts with 00000801.*3 axes"),
        (GOOD[:-1], "promises 1,200 values, it has 1,199"),
        (GOOD + b"\0", "promises 1,200 values, it has 1,201"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0", "it has 1;"),
    ],
)
def test_damaged_idx(tmp_path, data, message):
    for name, content in (("x", data), ("x.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"^some\.key: .*x.* is damaged .*{message}"):
            read_idx(tmp_path / name, axes=(3,), key="some.key")


@pytest.mark.parametrize(
    "damage",
    [lambda z: z[: len(z) // 2], lambda z: b"no gzip", lambda z: z[:200] + b"\0" * 50 + z[250:]],
)
def test_damaged_gzip(tmp_path, damage):
    (tmp_path / "x.gz").write_bytes(damage(gzip.compress(GOOD)))
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "x.gz", axes=(3,), key="some.key")


def test_images_and_labels_of_different_length(tmp_path):
    write_idx(tmp_path, train_labels_idx1_ubyte=idx_bytes(LABELS[:50]))
    with pytest.raises(InputError, match=r"data\.source\.root: .* 60 images, .* 50 labels"):
        load_source(MnistSource(root=str(tmp_path)))


def typed_idx(array, code):
    """An IDX file of any type."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def write_named(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in files}


def test_idx_files_of_any_name(tmp_path):
    at = write_named(
        tmp_path,
        letters=idx_bytes(IMAGES),
        letter_labels=idx_bytes(LABELS),
        held=idx_bytes(IMAGES[:9]),
    )
    held_labels = typed_idx(np.arange(9, dtype=">i4"), 0x0C)
    (tmp_path / "held_labels.gz").write_bytes(gzip.compress(held_labels))
    train, test = (at["letters"], at["letter_labels"]), (at["held"], str(tmp_path / "held_labels"))
    dataset = load_source(IdxSource(train=train, test=test))
    assert dataset.arrays["inputs"].shape == (69, 1, 5, 4)
    np.testing.assert_array_equal(dataset.arrays["inputs"][60:, 0], IMAGES[:9])
    assert dataset.labels.tolist() == [*LABELS.tolist(), *range(9)]
    assert {part: rows.tolist() for part, rows in dataset.splits.items()} == {
        "test": [*range(60, 69)]
    }
    assert load_source(IdxSource(train=train)).splits is None
    three = load_source(IdxSource(train=train, validation=(at["held"], None), test=test))
    assert {part: rows.tolist() for part, rows in three.splits.items()} == {
        "validation": [*range(60, 69)],
        "test": [*range(69, 78)],
    }
    assert three.labels[60:69].tolist() == [-1] * 9


@pytest.mark.parametrize(
    ("kind", "code", "shape"),
    [(">f4", 0x0D, (6, 3)), (">f8", 0x0E, (6, 3, 4, 5)), (">i4", 0x0C, (6, 4, 5))],
)
def test_idx_of_other_types_and_axes(tmp_path, kind, code, shape):
    values = np.random.default_rng(0).normal(0, 100, shape).astype(kind)
    targets = np.linspace(-1, 1, 6).astype(">f4")
    at = write_named(tmp_path, x=typed_idx(values, code), y=typed_idx(targets, 0x0D))
    dataset = load_source(IdxSource(train=(at["x"], at["y"])), "regression")
    found = dataset.arrays["inputs"]
    np.testing.assert_array_equal(found.reshape(shape), values)
    assert found.dtype.isnative
    assert found.ndim in (2, 4)
    np.testing.assert_array_equal(dataset.labels, targets)


@pytest.mark.parametrize(
    ("pairs", "key", "message"),
    [
        ({"train": ("no", "labels")}, "train", r"there is no file .*no or no\.gz \(in "),
        ({"train": ("x", "short")}, "train", "60 images, .* 50 labels"),
        ({"train": ("labels", "labels")}, "train", "starts with 00000801, .* 2 or 3 or 4 axes with 000008.. or 00000c"),
        ({"train": ("bytes", None)}, "train", "starts with 00000902"),
        ({"train": ("x", "labels"), "test": ("x", "x")}, "test", "starts with 00000803, .* 1 or 2 axes"),
        ({"train": ("x", "labels"), "test": ("flat", None)}, None, r"train uint8 \[1, 5, 4\], test uint8 \[4\]"),
        ({"train": ("x", "cut")}, "train", "promises 60 values, it has 59"),
    ],
)  # fmt: skip
def test_wrong_idx_files_are_named(tmp_path, pairs, key, message):
    write_named(
        tmp_path,
        x=idx_bytes(IMAGES),
        labels=idx_bytes(LABELS),
        short=idx_bytes(LABELS[:50]),
        cut=idx_bytes(LABELS)[:-1],
        bytes=typed_idx(IMAGES[:, 0].view(np.int8), 0x09),
        flat=idx_bytes(IMAGES[:, 0]),
    )
    given = {
        part: tuple(None if name is None else str(tmp_path / name) for name in pair)
        for part, pair in pairs.items()
    }
    with pytest.raises(InputError, match=message) as caught:
        load_source(IdxSource(**given))
    assert [p.key for p in caught.value.problems] == [
        f"data.source.{key}" if key else "data.source"
    ]


def save(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return ArraysSource(path=str(path))


def test_arrays(tmp_path):
    parts = np.array(["train"] * 5 + ["", "test"])
    source = save(
        tmp_path,
        inputs=np.ones((7, 2)),
        labels=np.arange(7),
        ids=np.array(list("abcdefg")),
        splits=parts,
        classes=np.array(list("tuvwxyz")),
        weights=np.ones(7),
    )
    dataset = load_source(source)
    assert dataset.splits["train"].tolist() == [0, 1, 2, 3, 4]
    assert dataset.splits["test"].tolist() == [6]
    assert "validation" not in dataset.splits
    assert dataset.classes == tuple("tuvwxyz")
    assert load_source(save(tmp_path, inputs=np.ones((7, 2)))).labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.ones(3)}, r"has no array 'inputs'; it has \['labels'\]"),
        ({"inputs": np.ones((3, 2)), "label": np.ones(3)}, r"array 'label' \(did you mean 'labels'\?\)"),
        ({"inputs": np.ones((3, 2)), "splits": np.array(["a", "b", "c"])}, r"splits: found \['a', 'b'"),
        ({"inputs": np.ones((3, 2)), "splits": np.arange(3)}, r"needs \[N\] of train, validation, test"),
        ({"inputs": np.array([[{}]])}, r"no \.npz of plain arrays .*\(pickles\) are refused"),
        ({"inputs": np.ones((3, 2)), "ids": np.array([1, "a", None], object)}, r"\(pickles\) are refused"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(InputError, match=r"^data\.source\.[a-z]+: ") as caught:
        load_source(save(tmp_path, **arrays))
    assert caught.match(message)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(InputError, match=r"data\.source\.path: there is no file /no/such"):
        load_source(ArraysSource(path="/no/such.npz"))
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    source = save(tmp_path, inputs=np.ones((300, 20)))
    whole = Path(source.path).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:2000] + b"\xff" * 9 + whole[2009:])
    for name in ("one.npy", "text.npz", "cut.npz", "flipped.npz"):
        with pytest.raises(InputError, match=r"data\.source\.path: .* is no \.npz of plain arrays"):
            load_source(ArraysSource(path=str(tmp_path / name)))


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    monkeypatch.delitem(sys.modules, "view_functions", raising=False)


def test_factory(importable):
    source = FactorySource(path="view_functions:make_dataset", kwargs={"count": 12})
    assert len(load_source(source)) == 12


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        ("view_functions:make_dataset", {"size": 1}, r"kwargs: .* does not take \{'size': 1\}"),
        (
            "view_functions:make_nothing",
            {},
            r"path: .* returned builtins\.NoneType: .* give a raykd\.data\.Dataset",
        ),
        ("view_functions:no_such", {}, r"path: .*has no function 'no_such'"),
        ("no_such_module:make", {}, r"path: cannot import 'no_such_module'"),
    ],
)
def test_wrong_factories_are_named(importable, path, kwargs, message):
    with pytest.raises(InputError, match=rf"data\.source\.{message}"):
        load_source(FactorySource(path=path, kwargs=kwargs))


REAL = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.soak
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    dataset = load_source(FashionMnistSource(root=str(REAL), limit=600))
    assert dataset.arrays["inputs"].shape == (700, 1, 28, 28)
    assert np.bincount(dataset.labels).tolist() == [70] * 10
