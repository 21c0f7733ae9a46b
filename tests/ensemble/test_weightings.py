"""What every weighting must obey, and each formula against an independent reference."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.ensemble import WEIGHTINGS
from raykd.methods import WEIGHTING_ROWS, weighting_table

T, N, C = 4, 9, 5
ALL = pytest.mark.parametrize("name", sorted(WEIGHTINGS))
EQUIVARIANT = pytest.mark.parametrize(
    "name", [n for n in WEIGHTINGS if not WEIGHTING_ROWS[n].random]
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def situation(teachers=T, units=N, seed=0, scale=2.0, dtype=torch.float64):
    """Logits, labels and the common keywords."""
    source = generator(seed)
    logits_TNC = scale * torch.randn(teachers, units, C, generator=source, dtype=dtype)
    labels_N = torch.randint(-1, C, (units,), generator=source)
    common = {
        "student_logits": torch.randn(units, C, generator=source, dtype=dtype),
        "losses_TN": torch.rand(teachers, units, generator=source, dtype=dtype),
        "generator": generator(seed + 1),
    }
    return logits_TNC, labels_N, common


def knobs(name, teachers=T):
    """Per-teacher knobs that a weighting cannot do without."""
    return {
        key: torch.arange(1.0, teachers + 1) / teachers
        for key in ("weights", "accuracies", "errors", "stacked")
        if key in WEIGHTING_ROWS[name].needs
    }


def reordered(name, order):
    return {key: value[order] for key, value in knobs(name).items()}


def assert_weights(weights_TN, answered_N):
    assert (weights_TN >= 0).all()
    assert not weights_TN.requires_grad
    sums_N = weights_TN.sum(0)
    torch.testing.assert_close(sums_N, answered_N.to(sums_N.dtype), rtol=0, atol=1e-6)


def test_registry_and_info_have_the_same_names():
    assert list(WEIGHTINGS) == list(WEIGHTING_ROWS)


@ALL
def test_info_tells_the_truth_about_the_signature(name):
    parameters = inspect.signature(WEIGHTINGS[name]).parameters
    assert list(parameters)[:2] == ["logits_TNC", "labels_N"]
    assert parameters["labels_N"].default is None
    common = {"labels", "student_logits", "losses_TN"}
    assert set(WEIGHTING_ROWS[name].needs) - common <= set(parameters)
    assert WEIGHTING_ROWS[name].stored != bool(
        {"student_logits", "losses_TN"} & set(WEIGHTING_ROWS[name].needs)
    )


@pytest.mark.parametrize(
    "name", [n for n, row in WEIGHTING_ROWS.items() if not row.looks and not row.sequences]
)
def test_a_weighting_that_does_not_look_at_logits_goes_by_their_shape(name):
    logits_TNC, labels_N, common = situation()
    rubbish_TNC = torch.full((N, C), torch.nan, dtype=torch.float64).expand(T, N, C)
    expected = WEIGHTINGS[name](logits_TNC, labels_N, **common, **knobs(name))
    common["generator"] = generator(1)
    found = WEIGHTINGS[name](rubbish_TNC, labels_N, **common, **knobs(name))
    assert torch.equal(found, expected)


@ALL
def test_weights_sum_to_one_and_are_detached(name):
    logits_TNC, labels_N, common = situation()
    common["student_logits"].requires_grad_()
    logits_TNC.requires_grad_()
    for labels in (labels_N, None):
        weights_TN = WEIGHTINGS[name](logits_TNC, labels, **common, **knobs(name))
        assert weights_TN.shape == (T, N)
        assert_weights(weights_TN, torch.ones(N))


@settings(deadline=None, derandomize=True, max_examples=8)
@given(
    seed=st.integers(0, 1000),
    teachers=st.integers(1, 6),
    scale=st.sampled_from([0.0, 1.0, 200.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@ALL
def test_weights_are_sane_for_any_logits_and_absences(name, seed, teachers, scale, dtype):
    logits_TNC, labels_N, common = situation(teachers, 7, seed, scale, dtype)
    available_TN = torch.rand(teachers, 7, generator=generator(seed)) < 0.6
    logits_TNC[~available_TN] = float("nan")
    common["losses_TN"][~available_TN] = float("nan")
    weights_TN = WEIGHTINGS[name](
        logits_TNC, labels_N, available_TN=available_TN, **common, **knobs(name, teachers)
    )
    assert weights_TN.dtype == dtype
    assert weights_TN.isfinite().all()
    assert_weights(weights_TN, available_TN.any(0))
    assert (weights_TN[~available_TN] == 0).all()


@ALL
def test_nobody_available_gives_zeros(name):
    logits_TNC, labels_N, common = situation()
    nobody_TN = torch.zeros(T, N, dtype=torch.bool)
    weights_TN = WEIGHTINGS[name](
        logits_TNC, labels_N, available_TN=nobody_TN, **common, **knobs(name)
    )
    assert (weights_TN == 0).all()


@ALL
def test_one_teacher_gets_weight_one(name):
    logits_TNC, labels_N, common = situation(teachers=1)
    weights_TN = WEIGHTINGS[name](logits_TNC, labels_N, **common, **knobs(name, 1))
    torch.testing.assert_close(weights_TN, torch.ones(1, N, dtype=torch.float64))


@EQUIVARIANT
def test_permuting_the_teachers_permutes_the_weights(name):
    logits_TNC, labels_N, common = situation()
    available_TN = torch.rand(T, N, generator=generator(3)) < 0.7
    order = torch.tensor([2, 0, 3, 1])
    weights_TN = WEIGHTINGS[name](
        logits_TNC, labels_N, available_TN=available_TN, **common, **knobs(name)
    )
    moved = dict(common, losses_TN=common["losses_TN"][order])
    found_TN = WEIGHTINGS[name](
        logits_TNC[order],
        labels_N,
        available_TN=available_TN[order],
        **moved,
        **reordered(name, order),
    )
    torch.testing.assert_close(found_TN, weights_TN[order], rtol=0, atol=1e-7)


@EQUIVARIANT
def test_absent_teachers_equal_a_smaller_ensemble(name):
    logits_TNC, labels_N, common = situation()
    some_TN = torch.ones(T, N, dtype=torch.bool)
    some_TN[1] = False
    kept = torch.tensor([0, 2, 3])
    found_TN = WEIGHTINGS[name](logits_TNC, labels_N, available_TN=some_TN, **common, **knobs(name))
    smaller = dict(common, losses_TN=common["losses_TN"][kept])
    expected_TN = WEIGHTINGS[name](logits_TNC[kept], labels_N, **smaller, **reordered(name, kept))
    torch.testing.assert_close(found_TN[kept], expected_TN, rtol=0, atol=1e-7)


BY_LABEL = [n for n, row in WEIGHTING_ROWS.items() if "labels" in row.needs and not row.sequences]


@pytest.mark.parametrize("name", BY_LABEL)
def test_where_a_label_is_missing_label_based_weights_are_uniform(name):
    logits_TNC, labels_N, common = situation()
    weights_TN = WEIGHTINGS[name](logits_TNC, labels_N, **common)
    assert (weights_TN[:, labels_N < 0] == 1 / T).all()
    assert (weights_TN[:, labels_N >= 0] != 1 / T).all()


@ALL
def test_unknown_arguments_and_wrong_shapes_are_refused(name):
    logits_TNC, labels_N, common = situation()
    given = {**common, **knobs(name)}
    with pytest.raises(TypeError, match="temprature"):
        WEIGHTINGS[name](logits_TNC, labels_N, temprature=2.0, **given)
    with pytest.raises(ValueError, match="available_TN"):
        WEIGHTINGS[name](logits_TNC, labels_N, available_TN=torch.ones(N, T).bool(), **given)
    with pytest.raises(ValueError, match=r"\[T, N, C\]"):
        WEIGHTINGS[name](logits_TNC[0], labels_N, **given)


@ALL
def test_half_precision_is_computed_in_float32(name):
    logits_TNC, labels_N, common = situation(dtype=torch.float32)
    given = {**common, **knobs(name)}
    half = WEIGHTINGS[name](logits_TNC.half(), labels_N, **given)
    assert half.dtype == torch.float32


# --- formulas ---------------------------------------------------------------------------------


def probabilities(logits, temperature=1.0):
    z = logits.numpy() / temperature
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_given_weights():
    logits_TNC, labels_N, common = situation(teachers=3)
    values = torch.tensor([1.0, 3.0, 4.0])
    cases = [
        ("fixed", {"weights": values}, [1 / 8, 3 / 8, 4 / 8]),
        ("accuracy", {"accuracies": values}, [1 / 8, 3 / 8, 4 / 8]),
        ("accuracy", {"accuracies": values, "power": 2.0}, [1 / 26, 9 / 26, 16 / 26]),
        ("stacking", {"stacked": values}, [1 / 8, 3 / 8, 4 / 8]),
        ("inverse_error", {"errors": values}, [12 / 19, 4 / 19, 3 / 19]),
    ]
    for name, given_knobs, expected in cases:
        weights_TN = WEIGHTINGS[name](logits_TNC, labels_N, **given_knobs, **common)
        expected_T = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(weights_TN, expected_T[:, None].expand(3, N))


def test_fixed_falls_back_to_uniform_where_only_zero_weights_answered():
    logits_TNC, labels_N, _ = situation(teachers=3)
    available_TN = torch.tensor([False, True, True])[:, None].expand(3, N)
    weights_TN = WEIGHTINGS["fixed"](
        logits_TNC, labels_N, weights=torch.tensor([1.0, 0, 0]), available_TN=available_TN
    )
    assert weights_TN[:, 0].tolist() == [0.0, 0.5, 0.5]


def test_entropy_is_the_normalised_ebkd_formula():
    logits_TNC, labels_N, _ = situation()
    for temperature in (1.0, 3.0):
        p = probabilities(logits_TNC, temperature)
        h = -(p * np.log(p)).sum(-1)
        found = WEIGHTINGS["entropy"](logits_TNC, labels_N, temperature=temperature)
        np.testing.assert_allclose(found.numpy(), (1 - h / h.sum(0)) / (T - 1), atol=1e-12)


def test_confidence_is_the_ca_mkd_formula():
    """The three cross entropies of methods.md A2.4 give 0.496, 0.491 and 0.013."""
    logits_TNC, labels_N, _ = situation()
    labels_N = labels_N.clamp_min(0)
    ce = -np.log(probabilities(logits_TNC)[:, np.arange(N), labels_N.numpy()])
    soft = np.exp(ce - ce.max(0))
    soft = soft / soft.sum(0)
    found = WEIGHTINGS["confidence"](logits_TNC, labels_N)
    np.testing.assert_allclose(found.numpy(), (1 - soft) / (T - 1), atol=1e-12)

    target = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    two_classes = torch.stack((torch.zeros(3).double(), target.expm1().log()), dim=1)
    known = WEIGHTINGS["confidence"](two_classes[:, None], torch.zeros(1, dtype=torch.int64))
    np.testing.assert_allclose(known.squeeze().numpy(), [0.496, 0.491, 0.013], atol=1e-3)


def test_confidence_can_take_the_ensemble_as_label():
    logits_TNC, _, _ = situation()
    pseudo_N = torch.from_numpy(probabilities(logits_TNC).mean(0).argmax(-1))
    found = WEIGHTINGS["confidence"](logits_TNC, None, unlabelled="ensemble_argmax")
    torch.testing.assert_close(found, WEIGHTINGS["confidence"](logits_TNC, pseudo_N))


def test_agreement_keeps_the_majority_and_all_of_a_tie():
    votes = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 2, 1], [0, 3, 1]])
    logits_TNC = torch.nn.functional.one_hot(votes, 4).double()
    found = WEIGHTINGS["agreement"](logits_TNC)
    third = 1 / 3
    expected = [[third, 0.25, 0.25], [third, 0.25, 0.25], [0, 0.25, 0.25], [third, 0.25, 0.25]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


# --- random weightings ------------------------------------------------------------------------


def test_sample_is_one_hot_with_the_asked_frequencies():
    logits_TNC = torch.zeros(3, 20_000, 1)
    share = torch.tensor([0.5, 0.0, 1.5])
    found = WEIGHTINGS["sample"](logits_TNC, probabilities=share, generator=generator())
    assert set(found.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(found.mean(1).numpy(), [0.25, 0.0, 0.75], atol=0.015)
    units_N = torch.arange(20_000)
    hashed = WEIGHTINGS["sample"](logits_TNC, probabilities=share, seed=7, units_N=units_N)
    np.testing.assert_allclose(hashed.mean(1).numpy(), [0.25, 0.0, 0.75], atol=0.015)


def test_sample_per_batch_takes_one_teacher_and_another_where_it_is_absent():
    logits_TNC = torch.zeros(3, 50, 1)
    chosen = set()
    for seed in range(20):
        found = WEIGHTINGS["sample"](logits_TNC, per="batch", seed=seed)
        assert (found == found[:, :1]).all()
        chosen.add(int(found[:, 0].argmax()))
    assert chosen == {0, 1, 2}
    available_TN = torch.ones(3, 50, dtype=torch.bool)
    available_TN[int(found[:, 0].argmax()), 0] = False
    other = WEIGHTINGS["sample"](logits_TNC, per="batch", seed=19, available_TN=available_TN)
    assert other[:, 0].sum() == 1
    assert (other * ~available_TN).sum() == 0


def test_seeded_draws_belong_to_the_unit_not_to_its_place():
    logits_TNC, _, common = situation(units=40)
    units_N = torch.randint(0, 2**62, (40,), generator=generator(3))
    order = torch.randperm(40, generator=generator(4))
    for name in ("sample", "drop"):
        given_knobs = {"losses_TN": common["losses_TN"], "seed": 3, "units_N": units_N}
        whole = WEIGHTINGS[name](logits_TNC, **given_knobs)
        given_knobs.update(losses_TN=common["losses_TN"][:, order], units_N=units_N[order])
        assert torch.equal(WEIGHTINGS[name](logits_TNC[:, order], **given_knobs), whole[:, order])
        given_knobs["seed"] = 4
        assert not torch.equal(
            WEIGHTINGS[name](logits_TNC[:, order], **given_knobs), whole[:, order]
        )


def test_random_weightings_follow_their_generator():
    logits_TNC, _, common = situation(units=40)
    for name in ("sample", "drop"):
        first, second, other = (
            WEIGHTINGS[name](logits_TNC, losses_TN=common["losses_TN"], generator=generator(s))
            for s in (1, 1, 2)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


def test_drop_keeps_the_highest_loss_and_half_of_the_others():
    losses_TN = torch.rand(3, 20_000, generator=generator(1))
    logits_TNC = torch.zeros(3, 20_000, 1)
    found = WEIGHTINGS["drop"](logits_TNC, losses_TN=losses_TN, generator=generator())
    hardest_N = losses_TN.argmax(0)
    assert (found.gather(0, hardest_N[None]) > 0).all()
    kept = (found > 0).scatter(0, hardest_N[None], False)
    assert abs(kept.float().sum() / (2 * 20_000) - 0.5) < 0.015
    torch.testing.assert_close(found.amax(0), 1 / (found > 0).sum(0))
    for probability, count in ((0.0, 3), (1.0, 1)):
        found = WEIGHTINGS["drop"](logits_TNC, losses_TN=losses_TN, probability=probability)
        assert ((found > 0).sum(0) == count).all()


BAD = [
    ("fixed", {"weights": torch.ones(T + 1)}),
    ("fixed", {"weights": torch.zeros(T)}),
    ("fixed", {"weights": torch.tensor([1.0, -1, 1, 1])}),
    ("accuracy", {"accuracies": torch.ones(T), "power": -1.0}),
    ("accuracy", {"accuracies": torch.full((T,), float("nan"))}),
    ("stacking", {"stacked": torch.ones(T + 1)}),
    ("inverse_error", {"errors": torch.zeros(T)}),
    ("entropy", {"temperature": 0.0}),
    ("confidence", {"unlabelled": "guess"}),
    ("gradient", {"student_logits": None}),
    ("gradient", {"student_logits": torch.zeros(N, C + 1)}),
    ("gradient", {"temperature": 0.0}),
    ("gradient", {"tolerance": 0.0}),
    ("gradient", {"gram": "mean"}),
    ("sample", {"per": "epoch"}),
    ("sample", {"seed": 1}),
    ("sample", {"seed": 1, "units_N": torch.arange(N + 1)}),
    ("sample", {"probabilities": torch.full((T,), -1.0)}),
    ("drop", {"losses_TN": None}),
    ("drop", {"probability": 1.5}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD)
def test_wrong_knobs_are_refused(name, wrong):
    logits_TNC, labels_N, common = situation()
    with pytest.raises(ValueError, match=r"must|needs"):
        WEIGHTINGS[name](logits_TNC, labels_N, **{**common, **wrong})


def test_labels_of_another_shape_are_refused_only_where_they_are_used():
    logits_TNC, _, common = situation()
    values = torch.zeros(N, 2)
    with pytest.raises(ValueError, match="labels"):
        WEIGHTINGS["confidence"](logits_TNC, values, **common)
    assert_weights(WEIGHTINGS["uniform"](logits_TNC, values, **common), torch.ones(N))


def test_table_has_a_line_for_every_weighting():
    lines = weighting_table().splitlines()
    assert len(lines) == len(WEIGHTINGS) + 2
    assert all(f"`{name}`" in line for name, line in zip(WEIGHTINGS, lines[2:], strict=True))
