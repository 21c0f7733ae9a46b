"""Temperature scaling on held-out labels, and measures of which teachers to keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from raykd.ensemble import (
    agreement_matrix,
    error_correlation,
    fit_temperature,
    greedy_selection,
    oracle_accuracy,
)


def overconfident(factor, units=400, classes=6, seed=0):
    """Logits whose labels were drawn from their own softmax, then multiplied by `factor`."""
    source = torch.Generator().manual_seed(seed)
    logits_NC = 1.5 * torch.randn(units, classes, generator=source)
    labels_N = torch.multinomial(logits_NC.softmax(1), 1, generator=source).squeeze(1)
    return factor * logits_NC, labels_N


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_fit_temperature_finds_the_minimum(factor):
    logits_NC, labels_N = overconfident(factor)
    found = fit_temperature(logits_NC, labels_N)
    reference = minimize_scalar(
        lambda t: F.cross_entropy(logits_NC.double() / t, labels_N).item(),
        bounds=(0.01, 100),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(reference.x, rel=1e-5)
    assert found == pytest.approx(factor, rel=0.15)


def test_fit_temperature_leaves_out_the_unlabelled():
    logits_NC, labels_N = overconfident(3.0)
    some_N = labels_N.clone()
    some_N[::3] = -1
    noisy_NC = logits_NC.clone()
    noisy_NC[::3] = float("nan")
    kept = some_N >= 0
    assert fit_temperature(noisy_NC, some_N) == fit_temperature(logits_NC[kept], labels_N[kept])


def test_fit_temperature_stays_in_bounds():
    logits_NC, _ = overconfident(1.0)
    assert fit_temperature(logits_NC, logits_NC.argmax(1)) == pytest.approx(0.01)
    assert fit_temperature(logits_NC, logits_NC.argmin(1)) == pytest.approx(100.0)
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == pytest.approx(100.0)


def test_fit_temperature_where_the_curvature_underflows():
    """Three of four right at a margin m: the optimum has p = 3/4, T = m / ln(9)."""
    for margin in (20.0, 200.0):
        found = fit_temperature(margin * torch.eye(4)[:, :4], torch.tensor([0, 1, 2, 0]))
        reference = margin / np.log(9)
        assert found == pytest.approx(reference, rel=1e-6)
    assert fit_temperature(5000.0 * torch.eye(4), torch.tensor([0, 1, 2, 0])) == 100.0
    sharp = torch.tensor([[0.0, 2000.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert 0.01 < fit_temperature(sharp, torch.tensor([1, 1, 1, 0])) < 100


def test_fit_temperature_refuses_what_it_cannot_fit():
    logits_NC, labels_N = overconfident(1.0, units=3)
    with pytest.raises(ValueError, match="at least two"):
        fit_temperature(logits_NC, torch.tensor([1, -1, -1]))
    with pytest.raises(ValueError, match="must be"):
        fit_temperature(logits_NC, labels_N[:2])
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(logits_NC.fill_(float("nan")), labels_N)


VOTES = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 1], [0, 2, 2, 2], [1, 1, 2, 0]])
LOGITS = 3.0 * F.one_hot(VOTES, 3).float()
LABELS = torch.tensor([0, 1, 2, 1])


def test_agreement_matrix():
    found = agreement_matrix(LOGITS)
    expected = [[np.mean(VOTES.numpy()[i] == VOTES.numpy()[j]) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(found.numpy(), expected)


def test_error_correlation_is_that_of_the_errors():
    logits_TNC = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(50) % 4
    labels_N[:7] = -1
    wrong = (logits_TNC.argmax(-1) != labels_N)[:, 7:].numpy().astype(float)
    found = error_correlation(logits_TNC, labels_N)
    np.testing.assert_allclose(found.numpy(), np.corrcoef(wrong), atol=1e-12)


def test_error_correlation_of_a_faultless_teacher_is_zero():
    perfect = F.one_hot(LABELS, 3).float().unsqueeze(0)
    found = error_correlation(torch.cat((perfect, LOGITS[:1])), LABELS)
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_oracle_accuracy():
    assert oracle_accuracy(LOGITS, LABELS) == 1.0
    assert oracle_accuracy(LOGITS[[0, 2]], LABELS) == 0.75
    assert oracle_accuracy(LOGITS[[0, 2]], torch.tensor([0, 1, 2, -1])) == 1.0


def test_greedy_selection_adds_what_helps_most():
    logits_TNC = torch.randn(5, 60, 4, generator=torch.Generator().manual_seed(1)).double()
    labels_N = torch.arange(60) % 4
    logits_TNC[torch.arange(5) != 3] += F.one_hot(labels_N, 4)
    found = greedy_selection(logits_TNC, labels_N)
    assert sorted(index for index, _ in found) == list(range(5))
    probs = logits_TNC.softmax(-1).numpy()
    chosen = []
    for index, accuracy in found:
        rest = [k for k in range(5) if k not in chosen]
        scores = {}
        for k in rest:
            mean = probs[[*chosen, k]].mean(0)
            right = (mean.argmax(-1) == labels_N.numpy()).mean()
            scores[k] = (right, np.log(mean[np.arange(60), labels_N.numpy()]).mean())
        best = max(scores, key=lambda k: scores[k])
        assert index == best
        assert accuracy == pytest.approx(scores[best][0])
        chosen.append(index)


def test_greedy_selection_breaks_ties_by_likelihood_then_position():
    sure, unsure = 5.0 * F.one_hot(LABELS, 3), 1.0 * F.one_hot(LABELS, 3)
    found = greedy_selection(torch.stack((unsure, sure, sure)), LABELS)
    assert [index for index, _ in found] == [1, 2, 0]
    assert all(accuracy == 1.0 for _, accuracy in found)


def test_selection_refuses_what_it_cannot_use():
    for function in (error_correlation, oracle_accuracy, greedy_selection):
        with pytest.raises(ValueError, match="labelled"):
            function(LOGITS, torch.full((4,), -1))
        with pytest.raises(ValueError, match="must be"):
            function(LOGITS, LABELS[:2])
    with pytest.raises(ValueError, match="must be"):
        agreement_matrix(LOGITS[0])
