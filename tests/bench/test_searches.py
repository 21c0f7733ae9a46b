"""The benchmark of a search: both sides run every trial, and only one asks the teachers for each."""

from __future__ import annotations

import pytest

from jobs.bench import BENCHMARKS, Sizes, searches


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_set_of_targets_is_held_against_one_for_each_trial(monkeypatch):
    monkeypatch.setattr(searches, "_RATES", (1e-3, 1e-2))
    sizes = Sizes(units=32, samples=512, repeats=1)
    ratio, most, alone, shared, all_scored, scored = BENCHMARKS["sweep"](sizes)
    assert ratio["bar"] == ">= 3"
    assert ratio["median"] == pytest.approx(alone["median"] / shared["median"])
    assert "2 trials, 128 images" in ratio["name"]
    assert 1 < most["median"] < 2
    # 3 teachers: 8 samples of validation and 8 of test once, the other 112 in two views.
    assert scored["median"] == 3 * (16 + 2 * 112)
    assert all_scored["median"] == 2 * scored["median"]
