"""Debiased CKA against the formula, and its identities."""

import numpy as np
import pytest
import torch

from raykd.evaluate.representation import debiased_cka


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(k, m):
    """Song et al. 2012: the unbiased estimator, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    trace = np.trace(k @ m)
    means = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (trace + means - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize("samples", [4, 5, 40])
def test_it_equals_the_formula(samples):
    x, y = noise(0, samples, 6) + 3.0, noise(1, samples, 3)
    y = y + x[:, :3]
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert debiased_cka(x, y) == pytest.approx(expected, rel=1e-9)
    assert debiased_cka(y, x) == pytest.approx(expected, rel=1e-9)


def test_rotations_factors_and_shifts_change_nothing():
    x, y = noise(2, 64, 8), noise(3, 64, 5)
    rotation = torch.linalg.qr(noise(4, 8, 8)).Q
    assert debiased_cka(x, 0.3 * x @ rotation) == pytest.approx(1, abs=1e-12)
    moved = 7.0 * x @ rotation - 100.0
    assert debiased_cka(moved, y) == pytest.approx(debiased_cka(x, y), abs=1e-9)


def test_independent_features_are_not_alike_even_of_few_samples():
    found = [debiased_cka(noise(s, 64, 128), noise(100 + s, 64, 128)) for s in range(20)]
    assert abs(np.mean(found)) < 0.02
    assert max(map(abs, found)) < 0.1

    def biased(x, y):
        x, y = (one - one.mean(0) for one in (x, y))
        return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))

    assert biased(noise(0, 64, 128), noise(100, 64, 128)) > 0.3  # what it is mended of


def test_maps_count_with_all_their_positions_and_order_of_samples_does_not_matter():
    x, y = noise(5, 30, 2, 3, 3).float(), noise(6, 30, 4).float()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    flat = debiased_cka(x.flatten(1), y)
    assert debiased_cka(x, y) == pytest.approx(flat, abs=1e-12)
    assert debiased_cka(x[order], y[order]) == pytest.approx(flat, abs=1e-12)


def test_too_few_samples_constant_features_and_other_samples():
    x = noise(7, 9, 3)
    assert debiased_cka(x[:3], x[:3]) is None
    assert debiased_cka(x, torch.full((9, 2), 0.1)) is None
    with pytest.raises(ValueError, match="same samples"):
        debiased_cka(x, x[:8])
