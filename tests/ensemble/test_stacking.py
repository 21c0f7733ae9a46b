"""Weights that are learnt: the likeliest mixture, shrunk to equal weights, of calibrated teachers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from raykd.config import load_config
from raykd.ensemble.stacking import best_weights, label_log_probs, stacked_weights
from raykd.errors import InputError


def answers(teachers=3, units=200, classes=5, seed=0):
    """Log-probabilities of labels, of teachers that know more and less."""
    source = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(0, classes, (units,), generator=source)
    logits_TNC = torch.randn(teachers, units, classes, generator=source, dtype=torch.float64)
    for k in range(teachers):
        logits_TNC[k, torch.arange(units), labels_N] += k + 0.5
    return logits_TNC, labels_N


def log_probs(**given):
    logits_TNC, labels_N = answers(**given)
    return logits_TNC.log_softmax(-1).gather(2, labels_N.expand(len(logits_TNC), -1)[..., None])[..., 0]  # fmt: skip


def likelihood(weights_T, log_probs_TN):
    return float(np.log(weights_T @ np.exp(log_probs_TN)).mean())


@pytest.mark.parametrize("seed", range(4))
def test_no_weights_are_likelier(seed):
    log_probs_TN = log_probs(seed=seed)
    found_T = best_weights(log_probs_TN).numpy()
    assert found_T.min() >= 0
    assert found_T.sum() == pytest.approx(1, abs=1e-12)
    own = log_probs_TN.numpy()
    reference = minimize(  # over the simplex, by another way
        lambda w_T: -likelihood(w_T, own),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w_T: w_T.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert likelihood(found_T, own) >= -reference.fun - 1e-8
    np.testing.assert_allclose(found_T, reference.x, atol=2e-3)
    # At a maximum the mean share of a teacher's likelihood is 1 where it counts, and at most 1 elsewhere.
    ratio_T = (np.exp(own) / (found_T @ np.exp(own))).mean(axis=1)
    assert (ratio_T <= 1 + 1e-4).all()
    np.testing.assert_allclose(ratio_T[found_T > 1e-3], 1, atol=1e-4)


def test_teachers_that_say_the_same_keep_the_same_share():
    own_N = log_probs()[0]
    assert best_weights(own_N.expand(4, -1)).tolist() == pytest.approx([0.25] * 4)
    two = torch.stack([own_N, own_N, log_probs()[2]])
    first, second, _ = best_weights(two).tolist()
    assert first == pytest.approx(second)


def test_any_order_and_any_common_factor():
    log_probs_TN = log_probs()
    order = [2, 0, 1]
    found_T = best_weights(log_probs_TN)
    torch.testing.assert_close(best_weights(log_probs_TN[order]), found_T[order], atol=1e-9, rtol=0)
    # So unlikely that none of them is a number any more: only their ratios count.
    torch.testing.assert_close(best_weights(log_probs_TN - 2000), found_T, atol=1e-9, rtol=0)


def test_shrunk_by_the_number_of_samples():
    log_probs_TN = log_probs(units=100)
    best_T, third = best_weights(log_probs_TN), 1 / 3
    torch.testing.assert_close(stacked_weights(log_probs_TN, 0.0), best_T)
    torch.testing.assert_close(
        stacked_weights(log_probs_TN, 300.0), third + 0.25 * (best_T - third)
    )
    assert stacked_weights(log_probs_TN[:, :0], 0.0).tolist() == pytest.approx([third] * 3)
    assert float(stacked_weights(log_probs_TN).sum()) == pytest.approx(1)
    for given in (0.0, 500.0):
        assert float(stacked_weights(log_probs_TN, given).min()) >= 0


def test_what_all_were_sure_not_to_be_says_nothing():
    log_probs_TN = torch.cat([log_probs(), torch.full((3, 5), -torch.inf, dtype=torch.float64)], 1)
    found_T = best_weights(log_probs_TN)
    assert found_T.isfinite().all()
    assert found_T.argmax() == best_weights(log_probs()).argmax()


@pytest.mark.parametrize(
    ("given", "message"),
    [(torch.zeros(0, 3), "no teacher"), (torch.full((2, 3), 0.5), "at most 0"), (torch.full((2, 3), torch.nan), "at most 0")],
)  # fmt: skip
def test_wrong_log_probabilities(given, message):
    with pytest.raises(ValueError, match=message):
        best_weights(given)
    if len(given):
        with pytest.raises(ValueError, match="prior"):
            stacked_weights(given, -1.0)


def test_log_probabilities_of_labels_that_all_know():
    logits_TNC, labels_N = answers(units=40)
    labels_N[:3] = -1
    found = label_log_probs(list(logits_TNC), labels_N, [1.0, 2.0, 0.5])
    expected = (logits_TNC[1] / 2).log_softmax(-1)[3:].gather(1, labels_N[3:, None])[:, 0]
    assert found.shape == (3, 37)
    torch.testing.assert_close(found[1], expected)
    logits_TNC[2, :, 4] = -1e9  # a class that it does not know
    found = label_log_probs(list(logits_TNC), labels_N, [1.0] * 3)
    assert found.shape == (3, int(((labels_N >= 0) & (labels_N != 4)).sum()))


def test_a_recipe_weighs_calibrated_teachers_alone(tiny_recipe):
    tiny_recipe["objective"] = {"weighting": {"type": "stacking"}}
    with pytest.raises(InputError) as caught:
        load_config(tiny_recipe)
    assert {p.key for p in caught.value.problems} == {"teachers.wide.temperature", "teachers.conv.temperature"}  # fmt: skip
    assert "give fit" in str(caught.value)
    for teacher in tiny_recipe["teachers"]:
        teacher["temperature"] = "fit"
    assert load_config(tiny_recipe).objective.weighting.knob("prior") == 500
    with pytest.raises(InputError, match="weighting"):
        load_config(tiny_recipe, ["objective.weighting.prior=-1"])
