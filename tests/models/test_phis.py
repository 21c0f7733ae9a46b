"""PHI-S against published values, and what holds whatever the eigenvectors' signs and order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd.models.phis import balancing, fit_phis, hadamard, phis_of

HERE = Path(__file__).parent
EXPECTED = {k: v["value"] for k, v in json.loads((HERE / "phis.json").read_text()).items()}
with np.load(HERE / "phis.npz") as arrays:
    INPUTS = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
SIZES = pytest.mark.parametrize("size", [2, 4, 8, 16])


def mixed(size, seed=0, rows=400):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(size, size, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-3, 1, size, dtype=torch.float64)
    rows_ND = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return (rows_ND * scales) @ basis + 5


@SIZES
def test_the_matrix_is_the_published_one(size):
    found = fit_phis(INPUTS[f"phis_x{size}"])
    torch.testing.assert_close(found.matrix_DD, INPUTS[f"phis_matrix{size}"], rtol=1e-9, atol=1e-12)
    if f"phis_{size}" in EXPECTED:
        expected = EXPECTED[f"phis_{size}"]
        assert found.phi == pytest.approx(expected["phi"], rel=1e-9)
        product = found.matrix_DD @ found.matrix_DD.T
        assert product.diagonal().tolist() == pytest.approx([expected["WWt_diag"]] * size)


@SIZES
def test_its_squared_error_is_the_raw_one_over_phi_squared_and_not_that_per_channel(size):
    features, student = INPUTS[f"phis_x{size}"], INPUTS[f"phis_student{size}"]
    scale = fit_phis(features)
    balanced = (student - scale(features)).square().mean()
    raw = (scale.undo(student) - features).square().mean() / scale.phi**2
    assert float(balanced) == pytest.approx(float(raw), rel=1e-9)
    if f"phis_mse_{size}" in EXPECTED:
        expected = EXPECTED[f"phis_mse_{size}"]
        assert float(balanced) == pytest.approx(expected["phis"], rel=1e-9)
        assert float(balanced) != pytest.approx(expected["per_channel"], rel=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 12, 20, 24, 28, 36, 50])
def test_every_channel_has_variance_one_and_no_direction_is_blown_up(size):
    """Also where there is no Hadamard matrix: random signs, as in published code, are not orthogonal there."""
    features = mixed(size)
    scale = fit_phis(features)
    balanced = scale(features)
    torch.testing.assert_close(balanced.var(0), torch.ones(size).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        scale.matrix_DD @ scale.matrix_DD.T * scale.phi**2, torch.eye(size).double()
    )
    assert scale.phi**2 == pytest.approx(float(features.var(0).mean()))
    torch.testing.assert_close(scale.undo(balanced), features)


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 28, 36, 384])
def test_hadamard_matrices(size):
    matrix = hadamard(size)
    assert torch.equal(matrix.abs(), torch.ones_like(matrix))
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size).double())


@pytest.mark.parametrize("size", [3, 5, 6, 7, 10, 92])
def test_sizes_without_one(size):
    assert hadamard(size) is None


def test_equal_and_absent_variances_are_balanced_too():
    for values in ([1.0] * 5, [0.0, 0.0, 0.0, 0.0, 10.0], [0.0, 0.0, 3.0]):
        given = torch.tensor(values, dtype=torch.float64)
        rotation = balancing(given)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(len(values)).double())
        diagonal = (rotation @ torch.diag(given) @ rotation.T).diagonal()
        torch.testing.assert_close(diagonal, given.mean().expand(len(values)))


def test_a_dead_channel_stays_as_small_as_it_is():
    features = mixed(4)
    features[:, 2] = 7.0
    noisy = features.clone()
    noisy[:, 2] += 1e-6 * torch.randn(len(noisy), generator=torch.Generator().manual_seed(1))
    scale = fit_phis(features)
    assert (scale(noisy) - scale(features)).norm(dim=1).max() < 1e-5 / scale.phi


def test_precision_is_that_of_the_features_and_a_refit_gives_the_same_bits():
    features = mixed(6).float()
    scale, again = fit_phis(features), fit_phis(features.clone())
    assert scale(features).dtype == torch.float32
    assert torch.equal(scale.matrix_DD, again.matrix_DD)
    torch.testing.assert_close(scale(features).var(0), torch.ones(6), rtol=1e-4, atol=0)
    maps = scale(features.reshape(20, 20, 6))
    torch.testing.assert_close(maps.reshape(400, 6), scale(features))


@pytest.mark.parametrize(
    ("features", "said"),
    [(torch.zeros(3), r"\[N, D\]"), (torch.zeros(1, 3), "N >= 2"), (torch.zeros(4, 3), "vary"),
     (torch.full((4, 3), torch.nan), "finite")],
)  # fmt: skip
def test_what_has_no_scale_is_refused(features, said):
    with pytest.raises(ValueError, match=said):
        fit_phis(features)
    with pytest.raises(ValueError, match="vary"):
        phis_of(torch.zeros(3), torch.zeros(3, 3))
