"""Weights of units in sequences: Bayes' rule from the past alone, forgetting, resets, routes."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.ensemble import bayesian_mixture, routed

OFFSETS = torch.tensor([0, 5, 5, 6, 12])


def evidence(teachers=3, units=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(teachers, units, generator=generator, dtype=torch.float64).log()


def naive(logs_TN, offsets, forgetting, prior):
    """Probabilities multiplied one after the other."""
    weights = torch.empty_like(logs_TN)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for t in range(start, end):
            score = torch.tensor(prior, dtype=torch.float64).log()
            for s in range(start, t):
                score = score + forgetting ** (t - 1 - s) * logs_TN[:, s]
            weights[:, t] = score.exp() / score.exp().sum()
    return weights


@pytest.mark.parametrize("forgetting", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("prior", [[1.0, 1.0, 1.0], [0.2, 0.5, 0.3]])
def test_it_is_bayes_rule(forgetting, prior):
    found = bayesian_mixture(evidence(), OFFSETS, forgetting=forgetting, prior=torch.tensor(prior))
    torch.testing.assert_close(
        found, naive(evidence(), OFFSETS, forgetting, prior), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(found.sum(0), torch.ones(12, dtype=torch.float64))


def test_a_unit_knows_the_tokens_before_it_and_neither_its_own_nor_other_sequences():
    logs = evidence().requires_grad_()
    before = bayesian_mixture(logs, OFFSETS)
    assert not before.requires_grad
    for unit in range(12):
        changed = evidence()
        changed[0, unit] -= 3.0
        differs = (bayesian_mixture(changed, OFFSETS) != before).any(0)
        end = 5 if unit < 5 else 6 if unit < 6 else 12
        assert torch.equal(differs.nonzero()[:, 0], torch.arange(unit + 1, end)), unit


def test_at_the_beginning_of_a_sequence_there_is_the_prior():
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    found = bayesian_mixture(evidence(), OFFSETS, prior=prior)
    torch.testing.assert_close(found[:, [0, 5, 6]], prior[:, None].expand(3, 3))


def test_the_mixture_is_as_good_as_the_best_teacher_but_for_the_logarithm_of_the_prior():
    logs = evidence(units=400) - torch.tensor([[0.0], [0.5], [1.0]])
    weights = bayesian_mixture(logs, torch.tensor([0, 400]))
    mixture = (weights * logs.exp()).sum(0).log().sum()
    assert mixture >= logs.sum(1).max() - math.log(3) - 1e-9
    assert mixture > (logs.exp().mean(0)).log().sum(), "better than equal weights"


def test_forgetting_follows_a_change_of_domain():
    logs = torch.full((2, 200), -2.0)
    logs[0, :100], logs[1, 100:] = -1.0, -1.0
    offsets = torch.tensor([0, 200])
    assert bayesian_mixture(logs, offsets, forgetting=0.9)[1, 120] > 0.9
    assert bayesian_mixture(logs, offsets)[1, 120] < 1e-6


def test_who_gave_no_answer_has_no_weight_and_neither_gains_nor_loses():
    available = torch.ones(3, 12, dtype=torch.bool)
    available[0, 2] = False
    available[:, 8] = False
    logs = torch.where(available, evidence(), torch.nan)
    found = bayesian_mixture(logs, OFFSETS, available_TN=available)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(0), available.any(0).double())
    assert found[0, 2] == 0
    as_the_others = evidence()
    as_the_others[0, 2] = as_the_others[1:, 2].mean()
    torch.testing.assert_close(found[:, 3:5], bayesian_mixture(as_the_others, OFFSETS)[:, 3:5])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"offsets": torch.tensor([0, 5, 11])}, "rise from 0 to 12"),
        ({"offsets": torch.tensor([0, 7, 5, 12])}, "rise from 0 to 12"),
        ({"offsets": OFFSETS, "forgetting": 1.5}, "from 0 to 1"),
        ({"offsets": OFFSETS, "prior": torch.tensor([1.0, 0.0, 1.0])}, "above 0"),
        ({"offsets": OFFSETS, "prior": torch.ones(2)}, r"prior must be \[3\]"),
        ({"offsets": OFFSETS, "available_TN": torch.ones(3, 2)}, "available_TN must be"),
    ],
)
def test_what_does_not_belong_together_is_refused(given, why):
    with pytest.raises(ValueError, match=why):
        bayesian_mixture(evidence(), **given)


def test_a_probability_of_zero_is_no_number_that_spreads():
    logs = evidence()
    logs[0, 1] = logs[:, 7] = -torch.inf
    found = bayesian_mixture(logs, OFFSETS, forgetting=0.5)
    assert found.isfinite().all()
    assert found[0, 2] < 1e-12
    alike = evidence()
    alike[:, 7] = -1.0
    same = bayesian_mixture(alike, OFFSETS, forgetting=0.5)
    torch.testing.assert_close(found[:, 6:], same[:, 6:])


def test_low_precision_is_not_that_of_the_weights():
    found = bayesian_mixture(evidence().half(), OFFSETS)
    assert found.dtype == torch.float32
    assert bayesian_mixture(evidence().float(), OFFSETS).dtype == torch.float32


def test_routes():
    available = torch.ones(3, 4, dtype=torch.bool)
    available[2, 1] = available[0, 2] = False
    available[:, 3] = False
    found = routed(torch.tensor([1, 2, -1, 0]), 3, available_TN=available)
    wanted = [[0, 0.5, 0, 0], [1, 0.5, 0.5, 0], [0, 0, 0.5, 0]]
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert torch.equal(routed(torch.tensor([0, 2]), 3), torch.eye(3)[:, [0, 2]])
    with pytest.raises(ValueError, match="a route is −1 to 2"):
        routed(torch.tensor([3]), 3)
