"""MUNGE, mixtures, noise and blends against references of their own, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from raykd.config.transfer import (
    FactorySet,
    MixtureSet,
    MixupSet,
    MungeSet,
    NoiseSet,
)
from raykd.data.transfer.making import Origin, make
from raykd.data.transfer.mixtures import fit_mixture, starting_shares, with_shares
from raykd.data.transfer.munge import munge_pass, neighbours
from raykd.errors import InputError

NAN = float("nan")


def table(count=40, columns=5, seed=0):
    """Numbers of unlike scales, words in column 1, a constant column 2, gaps in columns 1 and 3."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, columns)) * 10.0 ** np.arange(columns)
    values[:, 1] = rng.integers(0, 4, count)
    values[:, 2] = 7.0
    values[rng.random(count) < 0.2, 3] = NAN
    values[rng.random(count) < 0.2, 1] = NAN
    return values, np.array([False, True, False, False, False])


def origin(inputs, *, strata=None, words=(), seed=3, name="made"):
    arrays = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    count = len(next(iter(arrays.values())))
    strata = np.zeros(count, np.int64) if strata is None else strata
    return Origin(arrays, strata, tuple(words), seed, name, f"data.transfer.sets.{name}")


def distance(one, other, values, words):
    """As the docstring of `neighbours` says it, value by value."""
    total = 0.0
    for column, is_word in enumerate(words):
        a, b = one[column], other[column]
        known = [v for v in values[:, column] if v == v]
        total += (a == a) != (b == b)
        if is_word:
            total += a != b and not (a != a and b != b)
            continue
        low, high = min(known), max(known)
        if high == low:
            continue
        scaled = [(v - low) / (high - low) for v in known]
        mean = sum(scaled) / len(scaled)
        a, b = ((v - low) / (high - low) if v == v else mean for v in (a, b))
        total += (a - b) ** 2
    return total


def test_the_nearest_other_sample_is_found_by_hand():
    values, words = table()
    found = neighbours(values, words)
    for row in range(len(values)):
        apart = [
            np.inf if other == row else distance(values[row], values[other], values, words)
            for other in range(len(values))
        ]
        assert found[row] == int(np.argmin(np.round(apart, 9)))


def test_copies_are_each_others_neighbours_and_the_first_of_equals_wins():
    values = np.array([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0], [0.0, 1.0]])
    assert neighbours(values, np.zeros(2, bool)).tolist() == [2, 0, 0, 0]


def munge_by_hand(values, words, nearest, uniform, normal, p, s):
    """Algorithm 1 of the paper, cell by cell, for one pass."""
    made = [list(row) for row in values]
    for e, other in enumerate(nearest):
        for a in range(len(words)):
            if uniform[e, a] >= p:
                continue
            own, theirs = made[e][a], made[other][a]
            if words[a] or own != own or theirs != theirs:
                made[e][a], made[other][a] = theirs, own
                continue
            sd = abs(own - theirs) / s
            made[e][a] = theirs + sd * normal[0, e, a]
            made[other][a] = own + sd * normal[1, e, a]
    return np.array(made)


@pytest.mark.parametrize(("p", "s"), [(0.3, 1.0), (1.0, 0.5), (0.5, 20.0)])
def test_munge_is_the_papers_algorithm(p, s):
    values, words = table()
    rng = np.random.default_rng(1)
    nearest = neighbours(values, words)
    uniform, normal = rng.random(values.shape), rng.normal(size=(2, *values.shape))
    before = values.copy()
    made = munge_pass(values, words, nearest, uniform, normal, p=p, s=s)
    wanted = munge_by_hand(values, words, nearest, uniform, normal, p, s)
    np.testing.assert_allclose(made, wanted, rtol=1e-12, equal_nan=True)
    np.testing.assert_array_equal(values, before)
    assert not np.array_equal(made, before, equal_nan=True)


def test_munge_changes_nothing_at_p_0_and_swaps_what_is_near_for_a_large_s():
    values, _ = table(columns=4)
    rows = values[:, [0]].astype(np.float32)
    copies = make(MungeSet(count=len(rows), p=0.0), origin(rows))["inputs"]
    np.testing.assert_array_equal(copies, rows)
    pair = np.array([[0.0], [1.0]])
    swapped = make(MungeSet(count=2, p=1.0, s=1e12), origin(pair))["inputs"]
    # Each is swapped twice: in its own turn and in its neighbour's.
    np.testing.assert_allclose(swapped, pair, atol=1e-9)


def test_munge_keeps_words_and_gaps_what_they_are():
    values, _ = table()
    made = make(MungeSet(count=200, p=0.7), origin(values, words=[1]))["inputs"]
    words = made[:, 1]
    assert set(words[~np.isnan(words)]) <= {0.0, 1.0, 2.0, 3.0}
    assert np.isnan(words).any()
    assert set(made[:, 2]) == {7.0}


@pytest.mark.parametrize("components", [1, 3])
def test_a_mixture_is_fitted_as_scikit_learn_fits_it(components):
    rng = np.random.default_rng(components)
    values = np.concatenate([rng.normal(size=(60, 3)), rng.normal(size=(50, 3)) * 0.5 + 3.0])
    start = with_shares(values, starting_shares(values, rng.random(components)), 1e-3)
    covariances = start.factor_KDD @ start.factor_KDD.transpose(0, 2, 1)
    reference = GaussianMixture(
        components,
        reg_covar=1e-3,
        weights_init=start.weight_K,
        means_init=start.mean_KD,
        precisions_init=np.linalg.inv(covariances),
    ).fit(values)
    found = fit_mixture(values, start, 1e-3)
    np.testing.assert_allclose(found.weight_K, reference.weights_, rtol=1e-7)
    np.testing.assert_allclose(found.mean_KD, reference.means_, rtol=1e-7, atol=1e-9)
    covariances = found.factor_KDD @ found.factor_KDD.transpose(0, 2, 1)
    np.testing.assert_allclose(covariances, reference.covariances_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.log_likelihood(values), reference.score_samples(values))


def test_draws_have_the_means_and_covariances_of_their_classes():
    rng = np.random.default_rng(0)
    strata = np.repeat([4, 9], [300, 100])
    values = rng.normal(size=(400, 2)) @ np.array([[1.0, 0.8], [0.0, 0.3]])
    values[strata == 9] += [20.0, -20.0]
    made = make(MixtureSet(count=20_000), origin(values, strata=strata))["inputs"]
    far = made[:, 0] > 10
    assert far.mean() == pytest.approx(0.25, abs=0.01)
    for drawn, own in ((made[~far], values[strata == 4]), (made[far], values[strata == 9])):
        np.testing.assert_allclose(drawn.mean(axis=0), own.mean(axis=0), atol=0.05)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(own.T), rtol=0.1, atol=0.05)


def test_more_components_than_samples_or_values_are_no_trouble():
    values = np.array([[1.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    made = make(MixtureSet(count=50, components=9), origin(values))["inputs"]
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made[:, 1], 5.0, atol=0.5)


def test_noise_is_like_the_columns():
    values, _ = table()
    of_columns = make(NoiseSet(count=500), origin(values, words=[1]))["inputs"]
    for column in range(values.shape[1]):
        drawn = of_columns[:, column]
        assert set(drawn[~np.isnan(drawn)]) <= set(values[:, column])
    numbers = np.nan_to_num(values)
    uniform = make(NoiseSet(count=4000, like="uniform"), origin(numbers))["inputs"]
    assert (uniform >= numbers.min(axis=0)).all()
    assert (uniform <= numbers.max(axis=0)).all()
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    apart = np.abs(uniform.mean(axis=0) - (low + high) / 2)
    assert (apart <= 0.03 * (high - low)).all()
    normal = make(NoiseSet(count=4000, like="normal"), origin(numbers))["inputs"]
    np.testing.assert_allclose(normal.std(axis=0), numbers.std(axis=0), rtol=0.1, atol=1e-6)
    assert abs(np.corrcoef(normal[:, 0], normal[:, 4])[0, 1]) < 0.06


def test_blends_lie_between_two_samples_and_stay_bytes():
    images = np.zeros((6, 1, 2, 2), np.uint8)
    images[3:] = 200
    made = make(MixupSet(count=400), origin(images))["inputs"]
    assert made.dtype == np.uint8
    assert {0, 200} < set(made.ravel().tolist())
    assert (made == made[:, :1, :1, :1]).all()  # one share for all pixels of a blend


EVERY = {
    "munge": MungeSet(count=50),
    "gaussian_mixture": MixtureSet(count=50, components=2),
    "columns": NoiseSet(count=50),
    "normal": NoiseSet(count=50, like="normal"),
    "mixup": MixupSet(count=50),
}


@pytest.mark.parametrize("kind", EVERY)
def test_a_larger_set_contains_the_smaller_one_and_the_seed_decides(kind):
    values = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
    settings = EVERY[kind]
    some = make(settings, origin(values))["inputs"]
    more = make(settings.model_copy(update={"count": 5000}), origin(values))["inputs"]
    np.testing.assert_array_equal(more[:50], some)
    assert some.dtype == np.float32
    for other in (origin(values, seed=4), origin(values, name="another")):
        assert not np.array_equal(make(settings, other)["inputs"], some)


def halves(inputs, count, generator, *, part=0.5):
    return (inputs[generator.integers(0, len(inputs), count)] * part).astype(inputs.dtype)


def test_a_factory_is_called_with_inputs_count_and_generator(monkeypatch):
    monkeypatch.setattr("raykd.data.transfer.making.load_callable", lambda path, key: halves)
    values = np.ones((4, 3), np.float32)
    settings = FactorySet(count=6, path="mine:halves", kwargs={"part": 0.25})
    np.testing.assert_array_equal(make(settings, origin(values))["inputs"], np.full((6, 3), 0.25))
    for wrong, why in (
        (lambda inputs, count, generator: inputs, r"float32 \[4, 3\].*needed are float32 \[6, 3\]"),
        (lambda inputs, count: inputs, r"called with \(inputs, count, generator"),
        (lambda *_, **__: {"pixels": values}, r"returned \['pixels'\]"),
    ):
        monkeypatch.setattr(
            "raykd.data.transfer.making.load_callable", lambda path, key, f=wrong: f
        )
        with pytest.raises(InputError, match=why):
            make(FactorySet(count=6, path="mine:halves"), origin(values))


IMAGES = np.zeros((5, 1, 4, 4), np.uint8)
GAPS = np.array([[1.0], [NAN], [2.0]])


@pytest.mark.parametrize(
    ("settings", "given", "why"),
    [
        (
            MungeSet(count=3),
            origin(IMAGES),
            "munge is for tables of floats, and samples are images",
        ),
        (MixtureSet(count=3), origin(GAPS), "the table has gaps"),
        (MixtureSet(count=3), origin(np.ones((4, 2)), words=[1]), "the table has columns of words"),
        (MixupSet(count=3), origin(np.ones((4, 2)), words=[1]), "the table has columns of words"),
        (NoiseSet(count=3), origin({"text": np.ones((4, 9), np.uint8)}), "samples are texts"),
        (NoiseSet(count=3), origin({"a": GAPS, "b": GAPS}), "several inputs"),
        (MungeSet(count=3), origin(np.ones((1, 2))), "two training samples at least"),
        (MixupSet(count=3), origin(np.ones((0, 2))), "no training sample"),
    ],
)
def test_what_cannot_be_made_is_refused_by_its_key(settings, given, why):
    with pytest.raises(InputError, match=why) as caught:
        make(settings, given)
    assert caught.value.problems[0].key == "data.transfer.sets.made"
