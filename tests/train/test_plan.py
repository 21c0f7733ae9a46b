"""Which rows each step trains on: exactly once per epoch, for any batch size and any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.train import Plan
from raykd.train.plan import split


def make(rows=range(100, 150), epoch_rows=None, batch_size=16, seed=0, views=4):
    rows = np.asarray(rows)
    return Plan(rows, len(rows) if epoch_rows is None else epoch_rows, batch_size, seed, views)


def epoch_of(plan, epoch):
    parts = [plan.batch(epoch, step) for step in range(plan.steps_per_epoch)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([v for _, v in parts])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 70), batch_size=st.integers(1, 80), seed=st.integers(0, 9))
def test_every_row_exactly_once_per_epoch_in_one_view(count, batch_size, seed):
    plan = make(range(count), batch_size=batch_size, seed=seed)
    for epoch in range(6):
        rows, views = epoch_of(plan, epoch)
        assert sorted(rows) == list(range(count))
        assert set(views) == {epoch % 4}


def test_sizes():
    plan = make()
    assert plan.steps_per_epoch == 4
    assert [len(plan.batch(1, step)[0]) for step in range(4)] == [16, 16, 16, 2]


def test_epochs_and_seeds_differ_and_repeat():
    first, second = epoch_of(make(), 0)[0], epoch_of(make(), 1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_of(make(seed=1), 0)[0])
    np.testing.assert_array_equal(first, epoch_of(make(), 0)[0])


def test_a_batch_does_not_depend_on_what_was_asked_before():
    plan = make()
    later = plan.batch(5, 2)
    plan.batch(0, 0)
    np.testing.assert_array_equal(plan.batch(5, 2), later)


@pytest.mark.parametrize("labelled", [1, 7, 16, 49, 50])
def test_a_control_on_fewer_rows_gets_as_many_updates_of_the_same_sizes(labelled):
    student, control = make(), make(range(labelled), epoch_rows=50)
    assert control.steps_per_epoch == student.steps_per_epoch
    seen: Counter[int] = Counter()
    for epoch in range(3):
        for step in range(student.steps_per_epoch):
            rows, views = control.batch(epoch, step)
            assert len(rows) == len(views) == len(student.batch(epoch, step)[0])
            seen.update(rows.tolist())
    assert max(seen.values()) - min(seen.values()) <= 1, "passes are whole, so rows are balanced"
    assert set(seen) == set(range(labelled))


def test_each_pass_of_a_control_shows_the_next_view():
    control = make(range(10), epoch_rows=50, batch_size=10, views=4)
    views = [control.batch(0, step)[1] for step in range(5)]
    assert [set(v) for v in views] == [{0}, {1}, {2}, {3}, {0}]


def test_endless_views_and_none():
    assert set(epoch_of(make(views=None), 11)[1]) == {11}
    assert set(epoch_of(make(views=0), 11)[1]) == {-1}


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), workers=st.integers(1, 8))
def test_split_is_contiguous_and_covers_the_batch(size, workers):
    parts = [split(np.arange(size), rank, workers) for rank in range(workers)]
    kept = np.concatenate([positions[present] for positions, present in parts])
    np.testing.assert_array_equal(kept, np.arange(size))
    for positions, present in parts:
        assert len(positions) == len(present) >= 1, "every worker takes part in every step"
    sizes = [int(present.sum()) for _, present in parts]
    assert max(sizes) - min(sizes) <= 1
