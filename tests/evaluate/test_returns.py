"""Returns on common seeds against references in plain Python and SciPy, their invariances, and their extremes."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from raykd.evaluate.returns import (
    Cast,
    Rolled,
    corrected,
    difference,
    interquartile_mean,
    normalised,
    over_variants,
    returns_numbers,
)
from raykd.evaluate.statistics import bootstrap_means, bootstrap_pvalue, percentiles

EPISODES, REPLICAS = 40, 3


def rolled(level, replicas=1, seed=0, noise=20.0, **more):
    """Episodes around a level; those of one number are common to all models, as a seed's difficulty is."""
    common_E = np.random.default_rng(99).normal(0, 60, EPISODES)
    own_RE = np.random.default_rng(seed).normal(0, noise, (replicas, EPISODES))
    lengths_RE = np.random.default_rng(seed).integers(50, 300, (replicas, EPISODES))
    return Rolled(returns_RE=level + common_E + own_RE, lengths_RE=lengths_RE, **more)


def variants(shift=0.0, scale=1.0):
    def moved(one):
        return Rolled(returns_RE=scale * one.returns_RE + shift, lengths_RE=one.lengths_RE)

    made = {
        name: {
            "student": rolled(240 - fall, REPLICAS, seed=1),
            "hard": rolled(200 - fall, REPLICAS, seed=2),
            "good": rolled(250 - fall, seed=3),
            "other": rolled(220 - fall, seed=4),
            "random": rolled(-180, seed=5),
        }
        for name, fall in (("nominal", 0), ("windy", 60), ("heavy", 90), ("light", -20))
    }
    return {name: {m: moved(one) for m, one in models.items()} for name, models in made.items()}


CAST = Cast(students=("student", "hard"), best=dict.fromkeys(("nominal", "windy", "heavy", "light"), "good"))  # fmt: skip


def test_means_and_differences_are_those_of_plain_python():
    found = variants()
    numbers = returns_numbers(found, CAST)["windy"]["student"]
    own = found["windy"]["student"].returns_RE.tolist()
    teacher = found["windy"]["good"].returns_RE.tolist()[0]
    chance = found["windy"]["random"].returns_RE.tolist()[0]
    means = [math.fsum(row) / EPISODES for row in own]
    assert numbers["return"]["values"] == pytest.approx(means, rel=1e-12)
    assert numbers["return"]["std"] == pytest.approx(statistics.stdev(means), rel=1e-12)
    low, high = math.fsum(chance) / EPISODES, math.fsum(teacher) / EPISODES
    expected = [(mean - low) / (high - low) for mean in means]
    assert numbers["normalised"]["values"] == pytest.approx(expected, rel=1e-12)
    paired = [math.fsum(a - b for a, b in zip(row, teacher, strict=True)) / EPISODES for row in own]
    assert numbers["against_teacher"]["values"] == pytest.approx(paired, rel=1e-9)
    assert numbers["against_teacher"]["teacher"] == "good"
    assert numbers["against"]["hard"]["mean"] == pytest.approx(
        found["windy"]["student"].returns_RE.mean() - found["windy"]["hard"].returns_RE.mean()
    )
    json.dumps(numbers, allow_nan=False)


def test_the_interval_of_a_single_model_is_scipys_bootstrap_over_seeds():
    one = rolled(100, seed=7)
    ours = percentiles(bootstrap_means(one.returns_RE, 0))
    theirs = stats.bootstrap((one.returns_RE[0],), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.08 * width)


def test_pairing_by_seed_takes_the_common_part_out():
    student, teacher = rolled(240, REPLICAS, seed=1), rolled(250, seed=3)
    paired = difference(student, teacher, fixed=True)["ci95_bootstrap"]
    alone = percentiles(bootstrap_means(student.returns_RE, 0))
    assert paired[1] - paired[0] < 0.7 * (alone[1] - alone[0])
    harder = np.random.default_rng(3).normal(0, 500, EPISODES)
    moved = [Rolled(returns_RE=one.returns_RE + harder, lengths_RE=one.lengths_RE) for one in (student, teacher)]  # fmt: skip
    again = difference(*moved, fixed=True)
    assert again["ci95_bootstrap"] == pytest.approx(paired, rel=1e-9)


def test_equal_models_do_not_differ_and_unequal_ones_do():
    one = rolled(200, REPLICAS, seed=1)
    same = difference(one, one)
    assert same["ci95_bootstrap"] == [0.0, 0.0]
    assert same["p"] == 1.0
    assert difference(rolled(300, REPLICAS, seed=1), one)["p"] == pytest.approx(2 / 2001)
    single = difference(rolled(200, seed=1), rolled(200, seed=2))
    assert (single["ci95_bootstrap"], single["p"]) == (None, None)
    assert difference(rolled(200, seed=1), rolled(200, seed=2), fixed=True)["p"] is not None
    with pytest.raises(ValueError, match="do not pair up"):
        difference(one, rolled(200, 2, seed=1))


def test_p_values_are_counts_of_resamples():
    means = np.array([-1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert bootstrap_pvalue(means) == bootstrap_pvalue(-means) == pytest.approx(2 * 2 / 10)
    assert bootstrap_pvalue(np.ones(9)) == pytest.approx(2 / 10)
    assert bootstrap_pvalue(np.zeros(9)) == 1.0


def test_several_arms_are_corrected():
    found = {name: {"p": p} for name, p in (("a", 0.01), ("b", 0.04), ("c", None), ("d", 0.03))}
    right = corrected(found)
    assert [right[name]["p_holm"] for name in "abcd"] == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 19, 20, 21])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).standard_cauchy(count)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)
    assert interquartile_mean(values[::-1]) == interquartile_mean(values)


def test_normalised_returns_do_not_depend_on_the_units_of_reward():
    plain, moved = over_variants(variants(), CAST), over_variants(variants(shift=-700, scale=0.01), CAST)  # fmt: skip
    assert plain["variants"] == list(variants())
    assert set(plain["models"]) == {"student", "hard", "good", "other"}
    for name, one in plain["models"].items():
        other = moved["models"][name]
        assert one["iqm"] == pytest.approx(other["iqm"], rel=1e-9)
        assert one["ci95_bootstrap"] == pytest.approx(other["ci95_bootstrap"], rel=1e-9)
        assert one["ci95_bootstrap"][0] <= one["iqm"] <= one["ci95_bootstrap"][1]
    assert plain["models"]["good"]["iqm"] == pytest.approx(1.0)
    assert plain["models"]["good"]["ci95_bootstrap"] == pytest.approx([1.0, 1.0])
    assert plain["models"]["student"]["n"] == 4 * REPLICAS


def test_the_interquartile_mean_over_variants_and_replicas_is_that_of_plain_python():
    found = variants()
    shares = []
    for models in found.values():
        low, high = (
            math.fsum(models[name].returns_RE[0]) / EPISODES for name in ("random", "good")
        )
        shares += [(math.fsum(row) / EPISODES - low) / (high - low) for row in models["student"].returns_RE]  # fmt: skip
    middle = sorted(shares)[3:9]
    assert over_variants(found, CAST)["models"]["student"]["iqm"] == pytest.approx(math.fsum(middle) / 6, rel=1e-12)  # fmt: skip


def test_where_the_teacher_is_no_better_than_chance_nothing_is_normalised():
    found = variants()
    found["windy"]["good"] = rolled(-180, seed=5)
    assert normalised(rolled(0, seed=1), found["windy"]["random"], found["windy"]["good"]) is None
    assert returns_numbers(found, CAST)["windy"]["student"]["normalised"] is None
    assert over_variants(found, CAST)["variants"] == ["nominal", "heavy", "light"]
    nowhere = {name: {**models, "good": models["random"]} for name, models in found.items()}
    assert over_variants(nowhere, CAST) == {"variants": [], "models": {}}


def test_what_is_counted_along_the_way():
    lengths = np.array([[10, 30], [20, 20]])
    one = Rolled(
        returns_RE=np.array([[1.0, 2.0], [3.0, 4.0]]),
        lengths_RE=lengths,
        success_RE=np.array([[True, False], [True, True]]),
        agreed_RE=np.array([[5.0, 30.0], [10.0, 20.0]]),
        apart_RE=np.array([[1.0, 1.0], [4.0, 0.0]]),
    )
    low, high = (Rolled(returns_RE=np.array([[v, v + 1]]), lengths_RE=lengths[:1]) for v in (-9.0, 9.0))  # fmt: skip
    models = {"student": one, "random": low, "good": high}
    found = returns_numbers({"nominal": models}, Cast(students=("student",), best={"nominal": "good"}))  # fmt: skip
    numbers = found["nominal"]["student"]
    assert numbers["success"]["values"] == [0.5, 1.0]
    assert numbers["agreement"]["values"] == [35 / 40, 30 / 40]
    assert numbers["disagreement"]["values"] == [2 / 40, 4 / 40]
    assert numbers["length"]["values"] == [20.0, 20.0]
    assert found["nominal"]["good"]["success"] is None
    assert isinstance(found["nominal"]["good"]["return"], float)
    stacked = Rolled.stacked([one, one])
    assert stacked.returns_RE.shape == stacked.success_RE.shape == (4, 2)
