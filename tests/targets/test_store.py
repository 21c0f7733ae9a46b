"""The store on disk: what is written is found again, and nothing else is."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.errors import TargetError
from raykd.folders import read_json, write_json
from raykd.targets import EntryKey, StoredTargets, TargetStore, TeacherKeys, codec
from raykd.targets.shards import map_shard, write_shard
from raykd.targets.store import ORIGINAL, Entry, append

KEY = EntryKey("teacher-a", "shift seed 0")
ORIGINALS = replace(KEY, views=ORIGINAL)
COUNT, CLASSES = 20, 5


def answers(rows, view, *, taps=()):
    """What the teacher says: a pure function of row and view."""
    logits = np.stack([np.random.default_rng((row, view + 1)).normal(size=CLASSES) for row in rows])
    features = {tap: torch.from_numpy(logits[:, :2].copy()).float() for tap in taps}
    return codec.encode(torch.from_numpy(logits), features)


@pytest.fixture
def ids():
    return np.random.default_rng(0).permutation(1000)[:COUNT]


@pytest.fixture
def hashes():
    return np.arange(COUNT, dtype=np.uint64) + np.uint64(2**63)


@pytest.fixture
def write(tmp_path, ids, hashes):
    """Writes rows of one view as one shard and enters it in the manifest."""

    def write(rows, view, key=KEY, *, taps=(), enter=True, hashes=hashes):
        rows = np.asarray(rows)
        arrays = key.of(answers(rows, view, taps=taps))
        arrays = {"ids": ids[rows], "hashes": hashes[rows], **arrays}
        shard = write_shard(tmp_path / key.folder, view, arrays)
        if enter:
            append(tmp_path, key, [shard])
        return shard

    return write


@pytest.fixture
def open_store(tmp_path, ids, hashes):
    def open_store(*features, ids=ids, hashes=hashes):
        return TargetStore.open(tmp_path, {"a": TeacherKeys(KEY, ORIGINALS, features)}, ids, hashes)

    return open_store


def same(arrays, rows, view, taps=()):
    expected = answers(rows, view, taps=taps)
    assert arrays.keys() == expected.keys()
    return all(np.array_equal(arrays[name], expected[name]) for name in expected)


def test_gather_in_any_order_over_several_shards(write, open_store):
    write(range(7), 0)
    write(range(7, 12), 0)
    write(range(12, COUNT), 0)
    rows = np.array([19, 0, 7, 7, 6, 12, 3])
    assert same(open_store().gather_arrays("a", rows, 0), rows, 0)


def test_one_view_per_row(write, open_store):
    for view in range(3):
        write(range(COUNT), view)
    rows, views = np.array([4, 4, 4, 9, 0]), np.array([2, 0, 1, 2, 0])
    found = open_store().gather_arrays("a", rows, views)
    for place, (row, view) in enumerate(zip(rows, views, strict=True)):
        assert same({n: a[place : place + 1] for n, a in found.items()}, [row], view)


def test_originals_lie_in_their_own_entry(write, open_store):
    write(range(COUNT), -1, ORIGINALS)
    write(range(COUNT), 0)
    rows = np.arange(COUNT)
    store = open_store()
    assert same(store.gather_arrays("a", rows, -1), rows, -1)
    mixed = store.gather_arrays("a", rows[:4], np.array([-1, 0, -1, 0]))
    assert same({n: a[::2] for n, a in mixed.items()}, [0, 2], -1)


def test_features_are_gathered_with_the_logits(write, open_store):
    taps = ("blocks.0", "blocks.1")
    first, second = (replace(KEY, tap=tap) for tap in taps)
    for key in (KEY, first, second):
        write(range(10), 0, key, taps=taps)
    write(range(10, COUNT), 0, taps=taps)
    write(range(10, COUNT), 0, first, taps=taps)
    rows = np.array([15, 2])
    assert same(open_store().gather_arrays("a", rows, 0), rows, 0)
    assert same(open_store(first).gather_arrays("a", rows, 0), rows, 0, taps=taps[:1])
    both = open_store(first, second)
    assert same(both.gather_arrays("a", rows[1:], 0), rows[1:], 0, taps=taps)
    with pytest.raises(TargetError, match=r"no feature 'blocks\.1' for 1 of 2 rows in view 0"):
        both.gather(rows, 0)
    assert both.keys == {"a": TeacherKeys(KEY, ORIGINALS, (first, second))}
    assert both.verify().shards == 5


def test_rows_of_ids(open_store, ids):
    store = open_store()
    np.testing.assert_array_equal(store.rows(ids[[5, 0, 19]]), [5, 0, 19])
    with pytest.raises(TargetError, match="1 sample ids are not in the data, 5000"):
        store.rows(np.array([ids[0], 5000]))


def test_what_is_missing_is_named(write, open_store, ids):
    write(range(10), 0)
    with pytest.raises(
        TargetError, match=f"'a' has no answer for 2 of 3 rows in view 0.*{ids[12]}"
    ):
        open_store().gather(np.array([3, 12, 15]), 0)
    with pytest.raises(TargetError, match="no answer for view 1"):
        open_store().gather(np.array([3]), 1)


def missing(tmp_path, ids, hashes, view=0, key=KEY):
    return Entry(tmp_path, key).missing(ids, hashes, view).tolist()


def test_only_missing_rows_are_asked_for(write, tmp_path, ids, hashes):
    assert missing(tmp_path, ids, hashes) == list(range(COUNT))
    write([0, 3, 5], 0)
    assert missing(tmp_path, ids, hashes) == [i for i in range(COUNT) if i not in (0, 3, 5)]
    assert missing(tmp_path, ids, hashes, view=1) == list(range(COUNT))


def test_changed_content_is_scored_anew_and_then_used(write, open_store, tmp_path, ids, hashes):
    write(range(COUNT), 0)
    changed = hashes.copy()
    changed[4] += np.uint64(1)
    assert missing(tmp_path, ids, changed) == [4]
    with pytest.raises(TargetError, match="no answer for 1 of 1"):
        open_store(hashes=changed).gather(np.array([4]), 0)
    arrays = {"ids": ids[[4]], "hashes": changed[[4]], **answers([77], 0)}
    append(tmp_path, KEY, [write_shard(tmp_path / KEY.folder, 0, arrays)])
    assert missing(tmp_path, ids, changed) == []
    assert same(open_store(hashes=changed).gather_arrays("a", np.array([4]), 0), [77], 0)
    # Content that is changed back is still known, and asked for no second time.
    assert missing(tmp_path, ids, hashes) == []
    assert same(open_store().gather_arrays("a", np.array([4]), 0), [4], 0)


def test_new_and_removed_samples(write, open_store, tmp_path, ids, hashes):
    write(range(COUNT), 0)
    kept = np.array([2, 9, 11])
    new_ids, new_hashes = np.append(ids[kept], 4321), np.append(hashes[kept], np.uint64(1))
    assert missing(tmp_path, new_ids, new_hashes) == [3]
    store = open_store(ids=new_ids, hashes=new_hashes)
    assert same(store.gather_arrays("a", np.array([2, 0]), 0), [11, 2], 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, teacher="teacher-b"),
        replace(KEY, views="shift seed 1"),
        replace(KEY, tap="layer1"),
        replace(KEY, codec="logits8"),
    ],
)
def test_another_teacher_view_tap_or_codec_never_shares(write, tmp_path, ids, hashes, other):
    write(range(COUNT), 0)
    assert other.folder != KEY.folder
    assert len(missing(tmp_path, ids, hashes, key=other)) == COUNT
    # A manifest that was put into the wrong folder is refused, naming what differs.
    wrong = tmp_path / other.folder
    wrong.mkdir()
    (wrong / "manifest.json").write_bytes((tmp_path / KEY.folder / "manifest.json").read_bytes())
    field = next(
        n for n in ("teacher", "views", "tap", "codec") if getattr(other, n) != getattr(KEY, n)
    )
    with pytest.raises(TargetError, match=f"belongs to other targets: {field} differ"):
        Entry(tmp_path, other)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty, lambda path: path.unlink()])
def test_a_damaged_shard_is_found_and_named(write, open_store, tmp_path, damage):
    good, bad = write(range(10), 0), write(range(10, COUNT), 0)
    report = open_store().verify()
    assert (report.shards, report.rows, report.problems) == (2, COUNT, ())
    assert report.bytes == sum(p.stat().st_size for p in tmp_path.glob("*/*.safetensors"))
    damage(tmp_path / KEY.folder / bad.file)
    with pytest.raises(TargetError, match=re.escape(bad.file)):
        open_store().gather(np.array([1]), 0)
    (problem,) = open_store().verify().problems
    assert bad.file in problem
    assert good.file not in problem


def test_swapped_shards_are_found(write, open_store, tmp_path):
    one, other = (tmp_path / KEY.folder / write(range(COUNT), v).file for v in (0, 1))
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)
    assert len(open_store().verify().problems) == 2
    with pytest.raises(TargetError, match="damaged"):
        open_store().gather(np.array([1]), 0)


def test_a_shard_without_a_manifest_entry_is_as_if_it_were_not_there(
    write, open_store, tmp_path, ids, hashes
):
    write(range(10), 0)
    write(range(10, COUNT), 0, enter=False)  # killed before the manifest was written
    assert missing(tmp_path, ids, hashes) == list(range(10, COUNT))
    assert open_store().verify().problems == ()
    write(range(10, COUNT), 0)  # the next run writes the same file again
    assert missing(tmp_path, ids, hashes) == []
    assert len(list((tmp_path / KEY.folder).glob("view*"))) == 2


def test_a_kill_while_writing_leaves_the_store_whole(write, open_store, tmp_path, monkeypatch):
    from pathlib import Path

    write(range(10), 0)

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(range(10, COUNT), 0)
    assert open_store().verify().problems == ()
    assert same(open_store().gather_arrays("a", np.arange(10), 0), range(10), 0)


def test_an_entry_is_added_once(write, tmp_path):
    write(range(COUNT), 0)
    write(range(COUNT), 0)
    assert len(Entry(tmp_path, KEY).shards) == 1


def test_runs_that_fill_one_entry_at_a_time_lose_nothing(write, tmp_path):
    shards = [write([row], 0, enter=False) for row in range(COUNT)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda shard: append(tmp_path, KEY, [shard]), shards))
    assert {s.file for s in Entry(tmp_path, KEY).shards} == {s.file for s in shards}


def tamper(tmp_path, change):
    path = tmp_path / KEY.folder / "manifest.json"
    manifest = read_json(path)
    change(manifest)
    write_json(path, manifest)


def test_a_path_in_a_manifest_leads_nowhere(write, open_store, tmp_path):
    shard = write(range(COUNT), 0)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((tmp_path / KEY.folder / shard.file).read_bytes())
    for name in ("../outside.safetensors", str(outside)):
        tamper(tmp_path, lambda m, name=name: m["shards"][0].update(file=name))
        with pytest.raises(TargetError, match="missing"):
            open_store().gather(np.array([0]), 0)
        assert open_store().verify().problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=99), "has schema 99"),
        (lambda m: m.pop("shards"), "damaged"),
        (lambda m: m.pop("key"), "damaged"),
        (lambda m: m["shards"][0].pop("rows"), "damaged"),
        (lambda m: m["shards"][0].update(run="me"), "damaged"),
    ],
)
def test_a_damaged_manifest(write, tmp_path, change, message):
    write(range(COUNT), 0)
    tamper(tmp_path, change)
    with pytest.raises(TargetError, match=message):
        Entry(tmp_path, KEY)


def test_a_truncated_manifest(write, tmp_path):
    write(range(COUNT), 0)
    path = tmp_path / KEY.folder / "manifest.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(TargetError, match="delete its folder to score it anew"):
        Entry(tmp_path, KEY)


def header_of(path):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def put_header(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["values"].update(dtype="F64"),
        lambda h: h["values"].update(dtype="OBJECT"),
        lambda h: h["values"].update(shape=[COUNT + 1, CLASSES]),
        lambda h: h["values"].update(shape=[]),
        lambda h: h["values"].update(shape=[COUNT, 10**9]),
        lambda h: h["values"].update(data_offsets=[-8, -8 + COUNT * CLASSES * 2]),
        lambda h: h["values"].update(data_offsets=[10**9, 10**9 + COUNT * CLASSES * 2]),
        lambda h: h["values"].pop("data_offsets"),
        lambda h: h.update(values=3),
        lambda h: h.pop("ids"),
        lambda h: h.pop("hashes"),
    ],
)
def test_a_forged_header_is_refused(write, tmp_path, change):
    """Also where somebody made its checksum fit: nothing outside the arrays is ever read."""
    shard = write(range(COUNT), 0)
    path = tmp_path / KEY.folder / shard.file
    header, body = header_of(path)
    change(header)
    put_header(path, header, body)
    with pytest.raises(TargetError, match=re.escape(shard.file)):
        map_shard(tmp_path / KEY.folder, shard)


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_header_that_is_no_header(write, tmp_path, raw):
    shard = write(range(COUNT), 0)
    path = tmp_path / KEY.folder / shard.file
    put_header(path, raw, header_of(path)[1])
    with pytest.raises(TargetError):
        map_shard(tmp_path / KEY.folder, shard)


def test_a_huge_header_is_refused_before_it_is_read(write, tmp_path):
    shard = write(range(COUNT), 0)
    path = tmp_path / KEY.folder / shard.file
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(TargetError, match="header of 4611686018427387904 bytes is refused"):
        map_shard(tmp_path / KEY.folder, shard)


def test_mapped_arrays_cannot_be_written(write, tmp_path):
    arrays = map_shard(tmp_path / KEY.folder, write(range(COUNT), 0))
    with pytest.raises(ValueError, match="read-only"):
        arrays["values"][0] = 0


def test_a_source_over_the_store(write, open_store, make_samples):
    samples = make_samples({"type": "shift", "pixels": 1}, count=2)
    for view in range(2):
        write(range(COUNT), view)
    source = StoredTargets(open_store())
    rows, views = np.array([3, 17, 3]), np.array([0, 1, 1])
    answer = source.collect(source.submit(samples.batch(rows, views)), 1.0)["a"]
    for place in range(3):
        expected = codec.decode(answers([rows[place]], views[place]))
        assert torch.equal(answer.values_NC[place], expected.values_NC[0])
    assert answer.valid_N.all()


def test_what_a_run_has_noted_is_opened_by_its_folder(write, open_store, ids, tmp_path):
    tapped = replace(KEY, tap="layer")
    for view in (0, 1):
        write(range(COUNT - 5), view, taps=("layer",))
        write(range(COUNT - 5), view, key=tapped, taps=("layer",))
    write(range(COUNT), -1, key=ORIGINALS)
    store, run = open_store(tapped), tmp_path / "run"
    write_json(run / "targets.json", store.note())
    found = TargetStore.open(run)
    assert found.keys == store.keys
    assert found.ids_N.tolist() == sorted(ids.tolist())
    asked = ids[[3, 0, 7]]
    for view in (-1, 0, 1):
        (one,) = store.gather(store.rows(asked), view).values()
        (other,) = found.gather(found.rows(asked), view).values()
        assert one.values_NC.equal(other.values_NC)
        assert one.features.keys() == other.features.keys()
        assert all(one.features[tap].equal(other.features[tap]) for tap in one.features)


def test_a_folder_without_noted_targets_is_told(tmp_path):
    with pytest.raises(TargetError, match=r"has noted no targets.*give the folder of a run"):
        TargetStore.open(tmp_path)
