"""Which rows each step trains on: exactly once per epoch, for any batch size and any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.hashing import mix
from raykd.train import Plan
from raykd.train import plan as plan_module
from raykd.train.plan import COUNTED, WHOLE_UP_TO, counted_order, split


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


def test_the_order_of_today_s_recipes_stays():
    """Numbers of a finished release: fits that are resumed, and figures that were published, hang on them."""
    rows = [make().batch(epoch, step)[0][:4].tolist() for epoch, step in ((0, 0), (0, 2), (3, 1))]
    assert rows == [[120, 148, 131, 107], [133, 117, 113, 109], [134, 144, 115, 118]]
    assert make().order is None
    assert Plan(np.broadcast_to(0, WHOLE_UP_TO), 1, 1, 0, 1).order is None


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 3000), seed=st.integers(0, 2**63 - 1))
def test_a_computed_order_is_a_permutation(size, seed):
    order = counted_order(np.arange(size), size, seed)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    some = np.array([size - 1, 0, size // 2])
    np.testing.assert_array_equal(counted_order(some, size, seed), order[some])


def test_a_computed_order_keeps_its_numbers():
    order = counted_order(np.arange(8), 20_000_000, 7)
    expected = [10767231, 17932933, 8938484, 8077787, 647683, 13606271, 18334786, 11322025]
    assert order.tolist() == expected, "raise the number in COUNTED where they have to change"


def test_a_computed_order_looks_random():
    """Against what independent uniform places give, at four standard deviations."""
    size, batch, groups = 1_000_000, 256, 50
    order = counted_order(np.arange(400 * batch), size, 3)
    counts = np.stack(
        [np.bincount(part * groups // size, minlength=groups) for part in order.reshape(400, -1)]
    )
    expected, freedom = batch / groups, 400 * (groups - 1)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom), (
        "sorted data would give batches of one class"
    )
    lag = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(lag) < 4 / np.sqrt(len(order))
    other = counted_order(np.arange(400 * batch), size, 4)
    assert abs(np.corrcoef(order, other)[0, 1]) < 4 / np.sqrt(len(order))


def test_large_plans_are_computed_place_by_place(monkeypatch):
    plan = make()
    assert plan.order is None
    monkeypatch.setattr(plan_module, "WHOLE_UP_TO", 49)
    assert plan.order == COUNTED, "it has 50 rows"
    for epoch in range(3):
        rows, views = epoch_of(plan, epoch)
        assert sorted(rows) == list(range(100, 150))
        assert set(views) == {epoch % 4}
    assert not np.array_equal(epoch_of(plan, 0)[0], epoch_of(plan, 1)[0])
    control = make(epoch_rows=120)
    rows, views = epoch_of(control, 0)
    assert Counter(Counter(rows).values()) == {2: 30, 3: 20}, "two passes and a part of the third"
    assert set(views) == {0, 1, 2}


def test_a_batch_of_a_billion_rows_costs_what_its_own_rows_cost(monkeypatch):
    """Counted, not timed: hashed numbers; and no array as long as the data could be made here at all."""
    hashed = []
    monkeypatch.setattr(
        plan_module, "mix", lambda values: (hashed.append(values.size), mix(values))[1]
    )
    count = 10**9
    plan = Plan(np.broadcast_to(np.int64(5), count), count, 256, 0, 1)
    rows, _ = plan.batch(0, 1_000_000)
    assert rows.tolist() == [5] * 256
    assert sum(hashed) <= 2 * 6 * 256
