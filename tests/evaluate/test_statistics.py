import json
import statistics

import numpy as np
import pytest
from scipy import stats

from raykd.evaluate import holm, paired_gain, paired_t_pvalue, spread
from raykd.evaluate.statistics import fisher, ranks

TREATED = [0.91, 0.93, 0.92, 0.95, 0.90]
CONTROL = [0.90, 0.90, 0.91, 0.91, 0.91]


def answers(accuracy, samples=100):
    """Correctness [R, N] whose mean is each accuracy."""
    return np.stack([np.arange(samples) < round(value * samples) for value in accuracy])


def gain(treated=TREATED, control=CONTROL, **kwargs):
    return paired_gain(
        treated, control, answers(treated), answers(control), **{"seed": 0, **kwargs}
    )


def test_spread():
    found = spread([0.1, 0.2, 0.4])
    assert found == {
        "mean": pytest.approx(0.7 / 3),
        "std": pytest.approx(statistics.stdev([0.1, 0.2, 0.4])),
        "n": 3,
        "values": [0.1, 0.2, 0.4],
    }
    assert spread([0.5]) == {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}
    assert spread([]) == {"mean": None, "std": None, "n": 0, "values": []}


def test_spread_with_an_undefined_value_has_no_mean():
    found = spread([0.1, None, float("inf"), float("nan")])
    assert found == {"mean": None, "std": None, "n": 4, "values": [0.1, None, None, None]}


def test_interval_equals_scipy():
    found = gain()
    test = stats.ttest_rel(TREATED, CONTROL)
    interval = test.confidence_interval(0.95)
    assert found["ci95"] == pytest.approx([interval.low, interval.high])
    assert paired_t_pvalue(found["values"]) == pytest.approx(test.pvalue)
    assert found["mean"] == pytest.approx(np.mean(TREATED) - np.mean(CONTROL))
    assert found["n"] == 5
    json.dumps(found, allow_nan=False)


def test_bootstrap_is_seeded_and_of_the_right_width():
    assert gain()["ci95_bootstrap"] == gain()["ci95_bootstrap"]
    assert gain(seed=1)["ci95_bootstrap"] != gain()["ci95_bootstrap"]
    low, high = gain()["ci95_bootstrap"]
    assert low < gain()["mean"] < high


def test_bootstrap_does_not_depend_on_how_it_is_cut(monkeypatch):
    low, high = gain(resamples=4000)["ci95_bootstrap"]
    monkeypatch.setattr("raykd.evaluate.statistics._CHUNK", 1000)
    assert gain(resamples=4000)["ci95_bootstrap"] == pytest.approx([low, high], abs=0.004)


def test_bootstrap_covers_the_true_gain():
    generator = np.random.default_rng(0)
    trials, hits = 100, 0
    for trial in range(trials):
        # Replicas differ by a random effect, samples by difficulty; the true gain is 0.05.
        shift = generator.normal(0.05, 0.01, size=(8, 1))
        difficulty = generator.random(300)
        treated = difficulty < 0.8 + shift
        control = np.broadcast_to(difficulty < 0.8, treated.shape)
        found = paired_gain(
            treated.mean(1), control.mean(1), treated, control, seed=trial, resamples=300
        )
        low, high = found["ci95_bootstrap"]
        hits += low <= 0.05 <= high
    assert 0.85 <= hits / trials <= 1.0


def test_one_replica_has_no_interval():
    found = gain([0.9], [0.8])
    assert found == {
        "mean": pytest.approx(0.1),
        "ci95": None,
        "ci95_bootstrap": None,
        "n": 1,
        "values": [pytest.approx(0.1)],
    }
    assert paired_t_pvalue([0.1]) is None


def test_equal_differences_give_a_point():
    found = gain([0.9, 0.8], [0.9, 0.8])
    assert found["ci95"] == [0.0, 0.0]
    assert paired_t_pvalue([0.0, 0.0]) == 1.0
    assert paired_t_pvalue([0.5, 0.5]) == 0.0


def test_what_does_not_pair_up_is_refused():
    with pytest.raises(ValueError, match="do not pair up"):
        paired_gain([0.9, 0.8], [0.7], answers([0.9, 0.8]), answers([0.7]), seed=0)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ranks_and_tails_are_scipy_s():
    from scipy.stats import hypergeom, rankdata

    draw = np.random.default_rng(4)
    for values in (draw.normal(size=50), draw.integers(0, 7, 60), np.zeros(5), np.array([2.5])):
        np.testing.assert_array_equal(ranks(values), rankdata(values))
    for given in (
        (0, 20, 40, 500),
        (3, 20, 40, 500),
        (9, 9, 40, 500),
        (40, 480, 40, 500),
        (1, 1, 40, 500),
    ):
        hits, of, all_hits, everywhere = given
        expected = hypergeom.sf(hits - 1, everywhere, all_hits, of)
        assert fisher(*given) == pytest.approx(expected, rel=1e-9)
    assert fisher(900, 30_000, 4000, 200_000) == pytest.approx(
        hypergeom.sf(899, 200_000, 4000, 30_000), rel=1e-7
    )
