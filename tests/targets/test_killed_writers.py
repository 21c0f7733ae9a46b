"""Writers that are killed anywhere, and many at once: readers see whole shards, and the end is the same."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import raykd_forked_writers as writers

from raykd.targets import TargetStore, TeacherKeys
from raykd.targets.maintenance import delete, leftovers, verify_store
from raykd.targets.store import ORIGINAL, Entry

KEYS = {"a": TeacherKeys(writers.KEY, replace(writers.KEY, views=ORIGINAL))}


def content(root):
    """Name -> bytes of all that readers see: the manifest and the shards that it lists."""
    entry = Entry(root, writers.KEY)
    names = [*(shard.file for shard in entry.shards), "manifest.json"]
    return {name: (entry.folder / name).read_bytes() for name in names}


def assert_valid(root):
    """Every listed row is what the teacher says; the rows listed, over all views."""
    assert verify_store(root).problems == ()
    store = TargetStore.open(root, KEYS, writers.IDS, writers.HASHES)
    count = 0
    for view in {shard.view for shard in store.entries["a"].shards}:
        missing = store.entries["a"].missing(writers.IDS, writers.HASHES, view)
        rows = np.setdiff1d(np.arange(writers.COUNT), missing)
        found = store.gather_arrays("a", rows, view)
        expected = writers.answers(rows, view)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        count += len(rows)
    return count


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    found = nursery(root=str(root), trace=True)
    assert found["codes"] == [0]
    assert assert_valid(root) == writers.VIEWS * writers.COUNT
    return content(root), int(found["lines"])


def assert_resumed(nursery, root, undisturbed, **more):
    assert nursery(root=str(root), **more)["codes"] == [0] * more.get("writers", 1)
    assert content(root) == undisturbed[0], "byte for byte"


def test_killed_at_any_line_of_the_writer(nursery, undisturbed, tmp_path, record_property):
    """40 points over all that the writer runs, 20 of them one after the other within one file's writing."""
    lines = undisturbed[1]
    points = sorted({*np.linspace(1, lines, 24).astype(int).tolist(), *range(100, 117)})
    assert len(points) >= 38
    finished = set()
    for point in points:
        root = tmp_path / str(point)
        assert nursery(root=str(root), line=point)["codes"] == [-signal.SIGKILL]
        finished.add(assert_valid(root))
        assert_resumed(nursery, root, undisturbed)
    shards = writers.VIEWS * writers.COUNT // writers.ROWS
    assert len(finished) == 1 + shards, "some were killed after each number of finished shards"
    record_property("kills", len(points))


@pytest.mark.parametrize("times", [20, pytest.param(100, marks=pytest.mark.soak)])
def test_killed_at_any_time(nursery, undisturbed, tmp_path, record_property, times):
    chance = random.Random(0)
    begun = time.perf_counter()
    nursery(root=str(tmp_path / "whole"))
    whole_s = time.perf_counter() - begun
    killed = 0
    for number in range(times):
        root = tmp_path / str(number)
        (code,) = nursery(root=str(root), after_s=chance.uniform(0.0, whole_s))["codes"]
        killed += code == -signal.SIGKILL
        assert_valid(root)
        assert_resumed(nursery, root, undisturbed)
    assert killed, "some before they were done"
    record_property("kills", killed)


@pytest.mark.soak
def test_killed_again_and_again(nursery, undisturbed, tmp_path, record_property):
    """Each run finishes one line's worth more; what they leave behind can go."""
    killed = 0
    for point in range(30, 190, 8):
        killed += nursery(root=str(tmp_path), line=point)["codes"] == [-signal.SIGKILL]
        assert_valid(tmp_path)
    record_property("kills", killed)
    assert_resumed(nursery, tmp_path, undisturbed)
    left = leftovers(tmp_path, older_than_s=0.0)
    assert left, "temporary files"
    assert leftovers(tmp_path) == [], "a writer may still be at work"
    for path in left:
        delete(path)
    assert content(tmp_path) == undisturbed[0]
    assert leftovers(tmp_path, older_than_s=0.0) == []


def test_many_writers_and_readers_at_once(nursery, undisturbed, tmp_path):
    """Four writers of the same targets in both orders, one of them killed; readers look all the time."""
    rounds, looked = 3, 0
    for number in range(rounds):
        root = tmp_path / str(number)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(nursery, root=str(root), writers=4, line=100 + 40 * number)
            seen = [0]
            while not writing.done():
                seen.append(assert_valid(root))
            assert seen == sorted(seen), "what was there once stays there"
            looked += len(seen)
            assert writing.result()["codes"] == [-signal.SIGKILL, 0, 0, 0]
        assert assert_valid(root) == writers.VIEWS * writers.COUNT
    assert looked > 10 * rounds
