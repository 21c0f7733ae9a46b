"""A start with a whole cache looks at folders and shards alone, and notices what has changed in them."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raykd.config.data import Data
from raykd.config.sources import ImagesSource, LabelTable, WebdatasetSource
from raykd.data.decoding import forget_index, load_decoded

_LONG_AGO_NS = 10**18


def encoded(value):
    held = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


def settle(root):
    """As if nothing had changed there for years."""
    for path in (root, *root.rglob("*")):
        os.utime(path, ns=(_LONG_AGO_NS, _LONG_AGO_NS))


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            (root / name / f"{number}.png").write_bytes(encoded(40 * number))
    settle(root)
    return Data(source=ImagesSource(path=str(root)), cache=str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    write_shard(root / "0.tar", 3)
    settle(root)
    source = WebdatasetSource(path=str(root / "*.tar"))
    return Data(source=source, cache=str(tmp_path / "cache"))


def write_shard(path, count):
    with tarfile.open(path, "w") as shard:
        for number in range(count):
            for name, payload in (("png", encoded(number)), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(payload)
                shard.addfile(member, io.BytesIO(payload))


@pytest.fixture
def touched(monkeypatch, tmp_path):
    """Files of the sources that were opened or looked at, by name."""
    found = []

    def spy(module, name):
        real = getattr(module, name)

        def spied(path, *given, **more):
            text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if Path(text).suffix in {".png", ".tar"}:
                found.append((name, Path(text).name))
            return real(path, *given, **more)

        monkeypatch.setattr(module, name, spied)

    for module, name in (
        (os, "stat"),
        (io, "open"),
        (Path, "stat"),
        (Path, "open"),
        (tarfile, "open"),
    ):
        spy(module, name)
    return found


def same(one, other):
    np.testing.assert_array_equal(one.arrays["inputs"], other.arrays["inputs"])
    np.testing.assert_array_equal(one.known_labels, other.known_labels)
    assert one.sample_ids.tolist() == other.sample_ids.tolist()
    assert one.user_ids.to_pylist() == other.user_ids.to_pylist()
    assert (one.class_names, one.notes) == (other.class_names, other.notes)


def test_a_second_start_looks_at_no_image(images, touched):
    first = load_decoded(images, "classification")
    assert touched
    touched.clear()
    same(load_decoded(images, "classification"), first)
    assert touched == []


def test_a_second_start_asks_a_shard_for_its_size_alone(shards, touched):
    first = load_decoded(shards, "classification")
    assert ("open", "0.tar") in touched
    touched.clear()
    same(load_decoded(shards, "classification"), first)
    assert {name for name, _ in touched} == {"stat"}


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "new folder"])
def test_what_changes_in_a_folder_is_noticed(images, change):
    load_decoded(images, "classification")
    root = Path(images.source.path)
    if change == "added":
        (root / "cat" / "9.png").write_bytes(encoded(7))
    elif change == "removed":
        (root / "dog" / "2.png").unlink()
    elif change == "renamed":
        (root / "dog" / "2.png").rename(root / "dog" / "8.png")
    else:
        (root / "eel").mkdir()
        (root / "eel" / "0.png").write_bytes(encoded(9))
    found = load_decoded(images, "classification")
    names = sorted(p.relative_to(root).as_posix() for p in root.glob("*/*.png"))
    assert sorted(found.user_ids.to_pylist()) == names


def test_a_shard_that_was_written_anew_is_noticed(shards):
    assert len(load_decoded(shards, "classification")) == 3
    write_shard(Path(shards.source.path).parent / "0.tar", 5)
    assert len(load_decoded(shards, "classification")) == 5


def test_an_image_written_over_in_place_is_seen_once_the_index_is_forgotten(images):
    before = load_decoded(images, "classification")
    (Path(images.source.path) / "cat" / "1.png").write_bytes(encoded(250))
    same(load_decoded(images, "classification"), before)
    forget_index(images)
    after = load_decoded(images, "classification")
    assert (after.arrays["inputs"] == 250).any()


def test_a_folder_that_changed_just_now_is_looked_at_again(images, touched):
    now = time.time_ns()
    os.utime(Path(images.source.path) / "cat", ns=(now, now))
    load_decoded(images, "classification")
    touched.clear()
    load_decoded(images, "classification")
    assert touched


@pytest.mark.parametrize("name", ["index.json", "samples.arrow", "files.arrow"])
def test_a_damaged_index_is_made_anew(images, name):
    first = load_decoded(images, "classification")
    (file,) = Path(images.cache).glob(f"index/*/{name}")
    file.write_bytes(file.read_bytes()[:-20])
    same(load_decoded(images, "classification"), first)


def test_a_table_of_labels_is_read_each_time(images, tmp_path):
    table = tmp_path / "labels.csv"

    def labelled(word):
        table.write_text("id,label\n" + "".join(
            f"{folder}/{number}.png,{word if number else 'none'}\n" for folder in ("cat", "dog") for number in range(3)
        ))  # fmt: skip
        source = ImagesSource(path=images.source.path, labels=LabelTable(path=str(table)))
        return load_decoded(Data(source=source, cache=images.cache), "classification")

    assert labelled("some").class_names == ("none", "some")
    assert labelled("many").class_names == ("many", "none")
