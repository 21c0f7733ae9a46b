"""The shelf: each answer is claimed once, whoever asks, and ends in the store once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykd.targets import EntryKey, TargetStore, TeacherKeys, codec, write_buffer
from raykd.targets.packing import without_features
from raykd.targets.quarantine_log import read_quarantined
from raykd.targets.shards import write_shard
from raykd.targets.store import ORIGINAL, Entry, append
from raykd.targets.write_buffer import WriteBuffer

COUNT, CLASSES, TAP = 30, 4, "blocks.0"
IDS = np.random.default_rng(0).permutation(1000)[:COUNT]
HASHES = np.arange(COUNT, dtype=np.uint64)
VIEWS = EntryKey("teacher", "shift")
FEATURE = replace(VIEWS, tap=TAP, codec="features16-v1")
KEYS = TeacherKeys(VIEWS, replace(VIEWS, views=ORIGINAL), (FEATURE,))


def answers(rows, view):
    """What the teacher says: a pure function of row and view."""
    view = np.broadcast_to(view, len(rows))
    drawn = [
        np.random.default_rng((r, v)).normal(size=CLASSES) for r, v in zip(rows, view, strict=True)
    ]
    logits = torch.from_numpy(np.stack(drawn)).float()
    return codec.encode(logits, {TAP: logits[:, :2]})


def shelf_of(root, rows=None):
    store = TargetStore.open(root, {"a": KEYS}, IDS, HASHES)
    return WriteBuffer(store, "a", np.arange(COUNT) if rows is None else rows)


def ask(one, rows, view):
    """As a source does: claim, have the teacher answer, read the rest; the claimed pairs."""
    rows, view = np.asarray(rows), np.asarray(view)
    claimed = one.reserve(rows, view)
    if len(claimed):
        one.put(rows[claimed], view[claimed], answers(rows[claimed], view[claimed]))
    others = np.setdiff1d(np.arange(len(rows)), claimed)
    for places, arrays in one.read(rows[others], view[others]):
        expected = answers(rows[others][places], view[others][places])
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    return list(zip(rows[claimed].tolist(), view[claimed].tolist(), strict=True))


def stored(root, key, view):
    """Ids of an entry's view, as often as they are written."""
    entry = Entry(root, key)
    found = [entry.arrays(shard)["ids"] for shard in entry.shards if shard.view == view]
    return sorted(np.concatenate(found).tolist()) if found else []


PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, 1)), min_size=1, max_size=20)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(PAIRS, min_size=1, max_size=6), rows=st.integers(1, 40))
def test_whatever_is_asked_is_asked_once_and_answered_right(
    tmp_path_factory, batches, rows, monkeypatch
):
    monkeypatch.setattr(write_buffer, "BUFFER_ROWS", rows)
    root = tmp_path_factory.mktemp("store")
    one, claimed = shelf_of(root), []
    for batch in batches:
        claimed += ask(one, *zip(*batch, strict=True))
    assert sorted(claimed) == sorted({pair for batch in batches for pair in batch})
    later = shelf_of(root)
    for view in (0, 1):
        rest = {row for row, _ in ask(later, range(COUNT), [view] * COUNT)}
        unasked = set(range(COUNT)) - {row for row, v in claimed if v == view}
        assert unasked <= rest, "what was not asked is not there"
    for key in KEYS.augmented:
        for view in (0, 1):
            assert stored(root, key, view) == sorted(IDS.tolist()), "each sample once"


def test_a_view_is_written_when_it_is_whole_and_another_one_is_not(tmp_path):
    one = shelf_of(tmp_path, rows=np.arange(10))
    ask(one, range(9), [0] * 9)
    ask(one, range(3), [1] * 3)
    assert stored(tmp_path, VIEWS, 0) == []
    ask(one, [9], [0])
    assert stored(tmp_path, VIEWS, 0) == sorted(IDS[:10].tolist())
    assert stored(tmp_path, VIEWS, 1) == []
    ask(one, [2], [1])
    assert stored(tmp_path, VIEWS, 1) == sorted(IDS[:3].tolist()), "it was read, so it is written"


def test_only_the_entry_that_lacks_an_answer_gets_it(tmp_path):
    rows = np.arange(20)
    arrays = {"ids": IDS[rows], "hashes": HASHES[rows], **without_features(answers(rows, 0))}
    append(tmp_path, VIEWS, [write_shard(tmp_path / VIEWS.folder, 0, arrays, VIEWS.to_json())])
    claimed = ask(shelf_of(tmp_path), range(COUNT), [0] * COUNT)
    assert len(claimed) == COUNT, "all lack the feature"
    for key in KEYS.augmented:
        assert stored(tmp_path, key, 0) == sorted(IDS.tolist())


def test_what_is_given_back_may_be_claimed_again(tmp_path):
    one, rows, view = shelf_of(tmp_path), np.arange(5), np.zeros(5, np.int64)
    assert one.reserve(rows, view).tolist() == [0, 1, 2, 3, 4]
    assert one.reserve(rows, view).tolist() == []
    one.release(rows[3:], view[3:])
    assert one.read(rows, view) == []
    assert one.reserve(rows, view).tolist() == [3, 4]


@pytest.mark.parametrize("later", [False, True])
def test_what_breaks_the_teacher_is_never_claimed_again(tmp_path, later):
    one, rows, view = shelf_of(tmp_path), np.arange(COUNT), np.zeros(COUNT, np.int64)
    one.reserve(rows, view)
    one.quarantine(rows[[4]], view[[4]])
    good = np.delete(rows, 4)
    one.put(good, view[good], answers(good, 0))
    assert read_quarantined(tmp_path / VIEWS.folder) == {(int(IDS[4]), int(HASHES[4]), 0)}
    assert stored(tmp_path, VIEWS, 0) == sorted(IDS[good].tolist()), "the view is whole without it"
    one = shelf_of(tmp_path) if later else one
    assert one.reserve(rows, view).tolist() == []
    assert one.reserve(rows, view + 1).tolist() == rows.tolist()
    ((places, _),) = one.read(rows, view)
    assert places.tolist() == good.tolist()
