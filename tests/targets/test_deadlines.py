"""`collect` gives up after `timeout_s` seconds, whatever the source; live ones are in `tests/teachers/test_fleet.py`."""

from __future__ import annotations

import time

import numpy as np
import pytest

from raykd.errors import TargetTimeoutError, TeacherError
from raykd.targets import EntryKey, NoTargets, StoredTargets, TargetStore, TeacherKeys
from raykd.targets.shards import write_shard
from raykd.targets.source import Deadline
from raykd.targets.store import ORIGINAL, append
from raykd.testing.sources import Failing, Killing, Recorded, TableTargets

SLOW_S = 0.2


def test_a_deadline_counts_from_when_it_is_made():
    deadline = Deadline(60)
    assert 59 < deadline.left_s <= 60
    deadline.check("a teacher")
    over = Deadline(0)
    assert over.left_s == 0
    with pytest.raises(TargetTimeoutError, match=r"^a teacher: no answer within 0 s$") as error:
        over.check("a teacher")
    assert isinstance(error.value, TeacherError)
    Deadline(float("inf")).check("a teacher")


class Slow(TableTargets):
    """Takes its time for each teacher."""

    def _answer(self, number, pairs):
        time.sleep(SLOW_S)
        return super()._answer(number, pairs)


@pytest.fixture
def stored(samples, tmp_path):
    """A store of two teachers of which each answer takes its time to read."""
    keys, rows = {}, np.arange(len(samples))
    for name in ("a", "b"):
        views = EntryKey(name * 32, samples.view_key)
        keys[name] = TeacherKeys(views, EntryKey(name * 32, ORIGINAL))
        arrays = {"ids": samples.ids, "hashes": samples.content_hash(rows),
                  "values": np.zeros((len(samples), 3), np.float16),
                  "offset": np.zeros(len(samples), np.float32)}  # fmt: skip
        append(tmp_path, views, [write_shard(tmp_path / views.folder, 0, arrays, views.to_json())])
    store = TargetStore.open(tmp_path, keys, samples.ids, samples.content_hash(rows))
    gather = store.gather_arrays

    def slowly(*asked):
        time.sleep(SLOW_S)
        return gather(*asked)

    store.gather_arrays = slowly
    return StoredTargets(store)


@pytest.fixture
def slow_source(request, samples, stored, tmp_path):
    """A source by name, that needs more than `SLOW_S` seconds for a batch."""
    table = Slow(["a", "b"], samples)
    return {
        "stored": lambda: stored,
        "table": lambda: table,
        "killing": lambda: Killing(table, (), tmp_path / "kills"),
        "failing": lambda: Failing(table, None),
        "recorded": lambda: Recorded(TableTargets(["a"], samples), tmp_path / "lines", pause_s=60),
    }[request.param]()


@pytest.mark.parametrize(
    "slow_source", ["stored", "table", "killing", "failing", "recorded"], indirect=True
)
def test_a_source_that_is_too_slow_is_given_up(slow_source, samples):
    batch = samples.batch(np.arange(4), np.zeros(4, np.int64))
    begun = time.monotonic()
    with pytest.raises(TargetTimeoutError, match=r"no answer within 0\.1 s"):
        slow_source.collect(slow_source.submit(batch), 0.1)
    assert time.monotonic() - begun < 10 * SLOW_S, "the second teacher is not asked any more"


def test_what_is_there_in_time_is_given(stored, samples):
    batch = samples.batch(np.arange(4), np.zeros(4, np.int64))
    assert stored.collect(stored.submit(batch), 60).keys() == {"a", "b"}


def test_without_teachers_there_is_nothing_to_wait_for(samples):
    none = NoTargets()
    assert none.collect(none.submit(samples.batch(np.arange(4), np.zeros(4, np.int64))), 0) == {}
