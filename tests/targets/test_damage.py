"""Whatever happens to a store's files is found before a number of it is used, and named."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import raykd_forked_writers as writers
import xxhash

from raykd.errors import TargetError
from raykd.folders import read_json, write_json
from raykd.targets import EntryKey, TargetStore, TeacherKeys
from raykd.targets.maintenance import verify_store
from raykd.targets.shards import write_shard
from raykd.targets.store import ORIGINAL, Entry, append
from raykd.testing.damage import flip

KEY = writers.KEY
OTHERS = {
    "teacher": replace(KEY, teacher="teacher of another"),
    "views": replace(KEY, views="shift seed 1"),
    "tap": replace(KEY, tap="blocks.0"),
    "codec": replace(KEY, codec="logits16-top32-at-1,4-v1"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of two views of one shard each, and the entries of four other keys."""
    root = tmp_path_factory.mktemp("whole")
    rows = np.arange(writers.ROWS)
    for key in (KEY, *OTHERS.values()):
        for view in range(2):
            arrays = {"ids": writers.IDS[rows], "hashes": writers.HASHES[rows]}
            arrays |= writers.answers(rows, view)
            if key.tap:
                arrays[f"feature.{key.tap}"] = np.zeros((len(rows), 2), np.float16)
            append(root, key, [write_shard(root / key.folder, view, arrays, key.to_json())])
    return root


@pytest.fixture
def root(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


def shard_of(root, view=0, key=KEY):
    (found,) = [shard for shard in Entry(root, key).shards if shard.view == view]
    return root / key.folder / found.file


def complaint(root, view=0):
    """What a reader is told when it asks for rows of a view."""
    rows, keys = np.arange(5), {"a": TeacherKeys(KEY, replace(KEY, views=ORIGINAL))}
    with pytest.raises(TargetError) as caught:
        TargetStore.open(root, keys, writers.IDS, writers.HASHES).gather(rows, view)
    assert verify_store(root).problems, "`raykd targets verify` sees it too"
    return str(caught.value)


def read_both(root):
    """Every array of both views, as a reader opens them."""
    entry = Entry(root, KEY)
    for view in range(2):
        if not (found := [shard for shard in entry.shards if shard.view == view]):
            raise TargetError(f"no shard of view {view} in the manifest")
        for shard in found:
            entry.arrays(shard)


def test_the_store_is_whole_to_begin_with(root):
    report = verify_store(root)
    assert (report.shards, report.rows, report.problems) == (10, 10 * writers.ROWS, ())
    assert report.bytes == sum(path.stat().st_size for path in root.glob("*/view*"))


def test_a_flipped_bit_anywhere_in_a_shard(root, record_property):
    """120 places: the header's length, the header, every array, the last byte."""
    path = shard_of(root)
    raw = path.read_bytes()
    chance = random.Random(0)
    places = [*range(16), *np.linspace(16, len(raw) - 1, 104).astype(int).tolist()]
    for place in places:
        path.write_bytes(flip(raw, place, chance.randrange(8)))
        with pytest.raises(TargetError) as caught:
            read_both(root)
        assert f"shard '{path.name}' is damaged: its {len(raw):,} bytes have the checksum" in str(
            caught.value
        )
    assert path.name in complaint(root)
    record_property("flipped bits found", len(places))


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_flipped_bits_in_every_byte_of_a_manifest(root, record_property, bits):
    path = root / KEY.folder / "manifest.json"
    raw, unseen = path.read_bytes(), []
    chance = random.Random(0)
    for place in range(len(raw)):
        for bit in chance.sample(range(8), bits):
            path.write_bytes(flip(raw, place, bit))
            try:
                read_both(root)
            except TargetError as error:
                assert "manifest" in str(error) or "shard " in str(error), place  # noqa: PT017
            else:
                unseen.append((place, raw[max(0, place - 12) : place + 12]))
    assert unseen == []
    record_property("flipped bits found", bits * len(raw))
    path.write_bytes(raw)
    assert verify_store(root).problems == ()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_truncated_file(root, part, what):
    path = shard_of(root) if what == "shard" else root / KEY.folder / "manifest.json"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw))])
    found = complaint(root)
    assert path.name in found
    assert "damaged" in found


def test_files_that_are_gone_or_longer(root):
    path = shard_of(root)
    raw = path.read_bytes()
    path.write_bytes(raw + b"\0")
    assert "is damaged" in complaint(root)
    path.unlink()
    assert f"shard '{path.name}' is missing" in complaint(root)


def test_swapped_shards(root):
    one, other = shard_of(root, 0), shard_of(root, 1)
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    assert one.name in complaint(root, 0)
    assert other.name in complaint(root, 1)
    assert len(verify_store(root).problems) == 2


@pytest.mark.parametrize("field", OTHERS)
def test_a_manifest_of_other_targets(root, field):
    other = OTHERS[field]
    mine = root / KEY.folder / "manifest.json"
    mine.write_bytes((root / other.folder / "manifest.json").read_bytes())
    found = complaint(root)
    assert f"belongs to other targets: {field} differ (found {getattr(other, field)!r}" in found
    (problem,) = verify_store(root).problems
    assert other.folder in problem


def put(root, path, view=0):
    """Enter a file as the shard of a view, under its checksum, as somebody could by hand."""
    (root / KEY.folder / path.name).write_bytes(path.read_bytes())
    manifest = read_json(root / KEY.folder / "manifest.json")
    for shard in manifest["shards"]:
        if shard["view"] == view:
            shard.update(file=path.name, xxh3=xxhash.xxh3_128_hexdigest(path.read_bytes()))
    write_json(root / KEY.folder / "manifest.json", manifest)


@pytest.mark.parametrize("field", OTHERS)
def test_a_shard_of_other_targets_with_a_checksum_that_fits(root, field):
    path = shard_of(root, key=OTHERS[field])
    put(root, path)
    found = complaint(root)
    assert f"shard '{path.name}' was made for other targets: {field} is " in found
    assert repr(getattr(KEY, field)) in found


def test_a_shard_of_another_view_with_a_checksum_that_fits(root):
    path = shard_of(root, 1)
    put(root, path)
    assert f"shard '{path.name}' is not of view 0" in complaint(root)
    renamed = path.with_name(path.name.replace("view+00001", "view+00000"))
    path.rename(renamed)
    put(root, renamed)
    assert "was made for other targets: view is 1, not 0" in complaint(root)


def test_a_manifest_that_says_another_number_of_rows(root):
    manifest = read_json(root / KEY.folder / "manifest.json")
    manifest["shards"][0]["rows"] -= 1
    write_json(root / KEY.folder / "manifest.json", manifest)
    assert f"{writers.ROWS - 1} rows" in complaint(root)


def test_a_shard_without_the_feature_that_its_entry_promises(tmp_path):
    key = replace(KEY, tap="blocks.0")
    arrays = {"ids": writers.IDS[:3], "hashes": writers.HASHES[:3], **writers.answers(range(3), 0)}
    append(tmp_path, key, [write_shard(tmp_path / key.folder, 0, arrays, key.to_json())])
    entry = Entry(tmp_path, key)
    with pytest.raises(TargetError, match=r"lacks the feature 'blocks\.0'"):
        entry.arrays(entry.shards[0])


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("holder", "operation"), [(os, "fsync"), (Path, "replace"), (Path, "open")]
)
@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch, holder, operation, what):
    rows = np.arange(10)
    arrays = {"ids": writers.IDS[rows], "hashes": writers.HASHES[rows], **writers.answers(rows, 0)}
    append(tmp_path, KEY, [write_shard(tmp_path / KEY.folder, 0, arrays)])
    before = {path: path.read_bytes() for path in (tmp_path / KEY.folder).iterdir()}
    more = {**arrays, "offset": arrays["offset"] + 1}
    with monkeypatch.context() as patch:
        shard = None if what == "shard" else write_shard(tmp_path / KEY.folder, 1, more)
        patch.setattr(holder, operation, full)
        with pytest.raises(TargetError, match=r"cannot be written: .*No space left on device"):
            append(tmp_path, KEY, [shard or write_shard(tmp_path / KEY.folder, 1, more)])
    after = {path: path.read_bytes() for path in (tmp_path / KEY.folder).iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + (shard is not None), "no temporary file takes room"
    assert verify_store(tmp_path).problems == ()
    append(tmp_path, KEY, [write_shard(tmp_path / KEY.folder, 1, more)])
    assert verify_store(tmp_path).rows == 20


def test_reading_takes_no_memory_but_the_rows_asked_for(tmp_path):
    """64 MB of targets, checked and indexed and read from in less than 8 MB."""
    count, classes = 16_384, 1000
    ids, hashes = np.arange(count), np.arange(count, dtype=np.uint64)
    key = EntryKey("teacher", "shift")
    values = np.zeros((count, classes), np.float16)
    for view in range(2):
        arrays = {
            "ids": ids,
            "hashes": hashes,
            "values": values,
            "offset": np.zeros(count, np.float32),
        }
        append(tmp_path, key, [write_shard(tmp_path / key.folder, view, arrays)])
    del values, arrays
    tracemalloc.start()
    store = TargetStore.open(
        tmp_path, {"a": TeacherKeys(key, replace(key, views=ORIGINAL))}, ids, hashes
    )
    for view in range(2):
        answer = store.gather(np.arange(100), view)["a"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.values_NC.shape == (100, classes)
    assert store.size_bytes() > 64e6
    assert most < 8e6
    mapped = store.entries["a"].arrays(store.entries["a"].shards[0])
    assert all(isinstance(array, np.memmap) for array in mapped.values())
