"""The store with very many rows: nothing is done row by row in Python, and what processes can share is made once.

All sizes are small: bytecodes, calls and bytes are counted, and nothing is timed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.errors import TargetError
from raykd.targets import EntryKey, StoredTargets, TargetStore, TeacherKeys, entries, shards
from raykd.targets import positions as positions_module
from raykd.targets import verified as verified_module
from raykd.targets.positions import SortedIds, positions
from raykd.targets.quarantine_log import add_quarantined, quarantined_rows
from raykd.targets.ragged import UNIT_OFFSETS, joined
from raykd.targets.shards import in_shards, write_shard
from raykd.targets.store import ORIGINAL, Entry, append
from raykd.targets.write_buffer import WriteBuffer
from raykd.teachers.filling import missing_parts

KEY = EntryKey("teacher-a", "one view")
SHARDS = 4


def filled(root, count, *, seed=0):
    """A store of `count` samples with ids in no order, in a few shards."""
    ids = np.random.default_rng(seed).permutation(10 * count)[:count]
    hashes = ids.astype(np.uint64) + np.uint64(2**63)
    written = []
    for rows in np.array_split(np.arange(count), SHARDS):
        arrays = {"ids": ids[rows], "hashes": hashes[rows], "values": values_of(rows)}
        written.append(write_shard(root / KEY.folder, 0, arrays, KEY.to_json()))
    append(root, KEY, written)
    return ids, hashes


def values_of(rows):
    return np.stack([rows % 100, rows // 100], axis=1).astype(np.float16)


def opened(root, ids, hashes):
    return TargetStore.open(
        root, {"a": TeacherKeys(KEY, replace(KEY, views=ORIGINAL))}, ids, hashes
    )


def bytecodes(call):
    """How many bytecodes of raykd a call runs: a loop over rows, of whatever kind, shows."""
    counted = Counter()

    def trace(frame, event, argument):
        if "raykd" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted[event] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return counted["opcode"]


class Data:
    """As much of the samples as filling looks at."""

    def __init__(self, ids, hashes):
        self.ids, self.hashes = ids, hashes

    def content_hash(self, rows):
        return self.hashes[rows]


def steps(root, count):
    """What a run asks of a store of so many samples, each as a call."""
    ids, hashes = filled(root, count)
    rows = np.arange(count)
    store = opened(root, ids, hashes)
    batch = np.random.default_rng(1).permutation(count)[:32]
    view = np.zeros(32, np.int64)
    add_quarantined(root / KEY.folder, [(int(ids[3]), int(hashes[3]), 5)])
    wanted = {"a": (KEY, replace(KEY, tap="t"))}
    buffer = WriteBuffer(opened(root, ids, hashes), "a", rows)
    return {
        "missing": lambda: Entry(root, KEY).missing(ids, hashes, 0),
        "parts": lambda: list(missing_parts(root, wanted, Data(ids, hashes), rows, [0])),
        "first gather": lambda: store.gather_arrays("a", batch, 0),
        "rows of ids": lambda: store.rows(ids[batch]),
        "quarantine": lambda: quarantined_rows(root / KEY.folder, ids, hashes),
        "reserve": lambda: buffer.reserve(batch, view),
        "read": lambda: buffer.read(batch, view),
    }


def test_no_bytecode_runs_for_each_row(tmp_path):
    few = {name: bytecodes(call) for name, call in steps(tmp_path / "few", 1000).items()}
    many = {name: bytecodes(call) for name, call in steps(tmp_path / "many", 4000).items()}
    assert few.keys() == many.keys()
    for name, count in few.items():
        assert count > 0, name
        assert many[name] <= count + 50, (
            f"{name}: {count} bytecodes of 1,000 rows, {many[name]} of 4,000"
        )


def test_the_counter_sees_a_loop(tmp_path):
    ids, hashes = filled(tmp_path, 100)
    buffer = WriteBuffer(opened(tmp_path, ids, hashes), "a", np.arange(100))
    buffer.reserve(np.arange(1), np.zeros(1, np.int64))
    few, many = (
        bytecodes(lambda n=n: buffer.reserve(np.arange(n), np.zeros(n, np.int64))) for n in (10, 40)
    )
    assert many >= few + 5 * 30, "of the rows of a batch it may be done one by one"


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(-50, 50), unique=True),
    asked=st.lists(st.integers(-60, 60)),
    rising=st.booleans(),
)
def test_rows_by_id(ids, asked, rising):
    ids = np.array(sorted(ids) if rising else ids, np.int64)
    row_of = {int(one): row for row, one in enumerate(ids)}
    expected = [row_of.get(one, -1) for one in asked]
    found = SortedIds(ids).rows(np.array(asked, np.int64))
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_ids_that_rise_are_not_copied():
    ids = np.arange(100)
    assert SortedIds(ids)._ids is ids


@pytest.mark.parametrize("shared_from", [1, 2**20])
def test_positions_are_those_of_a_dictionary(tmp_path, monkeypatch, shared_from):
    monkeypatch.setattr(positions_module, "SHARED_FROM", shared_from)
    draw = np.random.default_rng(0)
    ids = draw.permutation(60)[:40]
    hashes = draw.integers(0, 3, 40).astype(np.uint64)
    written = [
        {"ids": draw.permutation(70)[:25], "hashes": draw.integers(0, 3, 25).astype(np.uint64)}
        for _ in range(5)
    ]
    expected = np.full((2, 40), -1)
    row_of = {(int(i), int(h)): row for row, (i, h) in enumerate(zip(ids, hashes, strict=True))}
    for number, arrays in enumerate(written):
        for place, pair in enumerate(zip(arrays["ids"], arrays["hashes"], strict=True)):
            if (row := row_of.get((int(pair[0]), int(pair[1])))) is not None:
                expected[:, row] = number, place
    found = positions(tmp_path, list("abcde"), written, ids, hashes)
    np.testing.assert_array_equal(found, expected)
    assert (expected >= 0).any()
    assert (expected < 0).any()


@pytest.fixture
def shared(monkeypatch):
    """Tables of positions lie in files; the list of those that were made."""
    monkeypatch.setattr(positions_module, "SHARED_FROM", 1)
    made, fill = [], positions_module._fill
    monkeypatch.setattr(positions_module, "_fill", lambda *given: (made.append(1), fill(*given))[1])
    return made


def test_the_table_is_made_once_and_mapped_by_all_who_read(tmp_path, shared):
    ids, hashes = filled(tmp_path, 200)
    rows = np.array([199, 0, 77, 77])
    for _ in range(3):
        store = opened(tmp_path, ids, hashes)
        np.testing.assert_array_equal(store.gather_arrays("a", rows, 0)["values"], values_of(rows))
        assert isinstance(store._index(store.entries["a"], "a", 0).shard_N, np.memmap)
    assert len(shared) == 1
    opened(tmp_path, ids[:150], hashes[:150]).gather_arrays("a", rows[1:], 0)
    assert len(shared) == 2, "other data have a table of their own"


def test_a_table_belongs_to_the_shards_that_it_was_made_of(tmp_path, shared):
    ids, hashes = filled(tmp_path, 200)
    more = np.array([500_000, 500_001])
    every, known = np.concatenate([ids, more]), np.concatenate([hashes, more.astype(np.uint64)])
    with pytest.raises(TargetError, match="no answer for 1 of 1"):
        opened(tmp_path, every, known).gather_arrays("a", np.array([200]), 0)
    arrays = {
        "ids": more,
        "hashes": more.astype(np.uint64),
        "values": values_of(np.array([200, 201])),
    }
    append(tmp_path, KEY, [write_shard(tmp_path / KEY.folder, 0, arrays, KEY.to_json())])
    store = opened(tmp_path, every, known)
    np.testing.assert_array_equal(
        store.gather_arrays("a", np.array([200, 4]), 0)["values"], values_of(np.array([200, 4]))
    )
    assert len(shared) == 2


def test_what_one_process_adds_is_not_in_the_table_of_others(tmp_path, shared):
    ids, hashes = filled(tmp_path, 200)
    other = hashes.copy()
    other[[5, 9]] += np.uint64(1)
    store, reader = (opened(tmp_path, ids, other) for _ in range(2))
    rows = np.array([9, 5])
    for one in (store, reader):
        assert one.holds("a", np.array([5, 6]), 0).tolist() == [False, True]
    entry = store.entries["a"]
    arrays = {"ids": ids[rows], "hashes": other[rows], "values": values_of(rows + 1)}
    store.enter(entry, write_shard(entry.folder, 0, arrays, KEY.to_json()), rows)
    assert store.holds("a", np.array([5, 6, 9]), 0).all()
    asked = np.array([5, 6, 9])
    expected = values_of(np.array([6, 6, 10]))
    np.testing.assert_array_equal(store.gather_arrays("a", asked, 0)["values"], expected)
    assert reader.holds("a", np.array([5, 6]), 0).tolist() == [False, True]
    assert len(shared) == 1, "the first two share one, and what was added is added to a copy"
    np.testing.assert_array_equal(
        opened(tmp_path, ids, other).gather_arrays("a", asked, 0)["values"], expected
    )


def test_a_store_that_may_only_be_read_has_its_tables_in_memory(tmp_path, shared, monkeypatch):
    def refused(path):
        raise PermissionError(path)

    monkeypatch.setattr(positions_module, "lock_file", refused)
    ids, hashes = filled(tmp_path, 50)
    store = opened(tmp_path, ids, hashes)
    np.testing.assert_array_equal(
        store.gather_arrays("a", np.array([7]), 0)["values"], values_of(np.array([7]))
    )
    assert not [*(tmp_path / KEY.folder).glob(".positions-*")]


@pytest.fixture
def checks(monkeypatch):
    """Shards are marked whatever their size; the names of those whose checksums were computed."""
    monkeypatch.setattr(verified_module, "MARKED_BYTES", 1)
    checked, check = [], entries.check_shard
    monkeypatch.setattr(
        entries,
        "check_shard",
        lambda folder, shard: (checked.append(shard.file), check(folder, shard))[1],
    )
    return checked


def test_a_shard_is_verified_once_on_a_node(tmp_path, checks):
    ids, hashes = filled(tmp_path, 200)
    for _ in range(3):
        opened(tmp_path, ids, hashes).gather_arrays("a", np.array([3]), 0)
    assert len(Entry(tmp_path, KEY).missing(ids, hashes, 0)) == 0
    assert len(checks) == len(set(checks)) == SHARDS


def test_after_the_node_started_anew_all_are_verified_again(tmp_path, checks, monkeypatch):
    ids, hashes = filled(tmp_path, 200)
    for boot in ("one", "one", "two", ""):
        monkeypatch.setattr(verified_module, "_boot", lambda boot=boot: boot)
        Entry(tmp_path, KEY).missing(ids, hashes, 0)
    assert len(checks) == 3 * SHARDS, "without a name of the node nothing is marked"


def test_a_file_that_changed_is_verified_again_and_a_damaged_one_never_marked(tmp_path, checks):
    ids, hashes = filled(tmp_path, 200)
    entry = Entry(tmp_path, KEY)
    entry.missing(ids, hashes, 0)
    checks.clear()
    shard = entry.shards[2]
    path = entry.folder / shard.file
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        with pytest.raises(TargetError, match=re.escape(f"{shard.file!r} is damaged")):
            Entry(tmp_path, KEY).missing(ids, hashes, 0)
    assert checks == [shard.file] * 2


def test_small_stores_leave_no_marks(tmp_path):
    ids, hashes = filled(tmp_path, 200)
    opened(tmp_path, ids, hashes).gather_arrays("a", np.array([3]), 0)
    assert not [*(tmp_path / KEY.folder).glob(".[pv]*")]


def test_shards_are_bounded_by_bytes(monkeypatch):
    """70 rows of 40 bytes in pieces of 16, with room for 25 rows."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1039)
    values = np.arange(700, dtype=np.float32).reshape(70, 10)
    found = list(in_shards({"values": values[start : start + 16]} for start in range(0, 70, 16)))
    assert [len(one["values"]) for one in found] == [25, 25, 20]
    np.testing.assert_array_equal(joined(found)["values"], values)
    monkeypatch.setattr(shards, "SHARD_BYTES", 3)
    found = list(in_shards([{"values": values[:3]}]))
    assert [len(one["values"]) for one in found] == [1, 1, 1], "a row is never cut"


def test_shards_of_small_rows_are_bounded_by_rows(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    values = np.arange(64, dtype=np.float32).reshape(64, 1)
    found = list(in_shards({"values": values[start : start + 16]} for start in range(0, 64, 16)))
    assert [len(one["values"]) for one in found] == [32, 32]


def test_shards_of_samples_with_many_units(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 200)
    counts = np.array([3, 0, 2, 5, 1, 4])
    parts = [
        {"values": np.full((int(n.sum()), 4), n.sum(), np.float32), UNIT_OFFSETS: np.concatenate([[0], np.cumsum(n)])}
        for n in (counts[:3], counts[3:])
    ]  # fmt: skip
    found = list(in_shards(parts))
    assert len(found) > 1
    whole, expected = joined(found), joined(parts)
    assert whole.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(whole[name], array)


def test_a_view_that_is_whole_is_written_at_once(tmp_path):
    """The number of open rows is that of a look at all of them."""
    ids = np.arange(10)
    store = opened(tmp_path, ids, ids.astype(np.uint64))
    buffer = WriteBuffer(store, "a", np.array([0, 2, 4, 6, 8]))
    view = np.zeros(2, np.int64)

    def put(*rows):
        rows = np.array(rows)
        buffer.put(rows, np.zeros(len(rows), np.int64), {"values": values_of(rows)})
        known = buffer._views[0]
        assert known.open == int((known.state_N[buffer.rows] < 2).sum())
        return len(store.entries["a"].shards)

    buffer.reserve(np.array([0, 2]), view)
    assert put(0, 2) == 0
    buffer.reserve(np.array([4, 6]), view)
    buffer.release(np.array([4, 6]), view)
    assert put(2, 1) == 0, "again, and one that nobody asks about"
    buffer.quarantine(np.array([8, 8]), view)
    assert put(4) == 0
    assert put(6) == 1
    source = StoredTargets(store)
    assert source._quarantined == {"a": {(8, 0)}}
