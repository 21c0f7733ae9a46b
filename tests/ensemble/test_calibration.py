"""Temperature scaling on held-out labels, and measures of which teachers to keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from raykd.ensemble import fit_temperature


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
