import numpy as np
import pytest
import torch
from scipy.stats import entropy

from raykd.evaluate.closeness import (
    agreement_matrix,
    error_correlation,
    fidelity,
    gap_recovered,
)


def log_probs(seed, samples=50, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, classes, generator=generator).log_softmax(1)


def test_fidelity_equals_its_definitions():
    student, ensemble, teacher = log_probs(0), log_probs(1), log_probs(2)
    found = fidelity(student, ensemble, {"wide": teacher, "same": student})
    kl = entropy(ensemble.double().exp().numpy(), student.double().exp().numpy(), axis=1).mean()
    assert found["kl_ensemble_nats"] == pytest.approx(kl, rel=1e-5)
    same = (student.argmax(1) == ensemble.argmax(1)).float().mean()
    assert found["agreement_ensemble"] == pytest.approx(float(same))
    assert found["agreement"]["same"] == 1.0
    assert list(found["agreement"]) == ["wide", "same"]


def test_kl_of_a_class_the_ensemble_rules_out_adds_nothing():
    ensemble = torch.tensor([[0.0, -torch.inf]])
    student = torch.tensor([[0.5, 0.5]]).log()
    assert fidelity(student, ensemble, {})["kl_ensemble_nats"] == pytest.approx(np.log(2))
    assert fidelity(ensemble, ensemble, {})["kl_ensemble_nats"] == 0.0


@pytest.mark.parametrize(
    ("reference", "expected"),
    [(0.9, 0.5), (0.8, None), (0.7, None), (0.8005, None), (float("nan"), None)],
)
def test_gap_recovered(reference, expected):
    assert gap_recovered(0.85, 0.8, reference) == (expected and pytest.approx(expected))


def test_gap_recovered_may_leave_the_unit_interval():
    assert gap_recovered(0.95, 0.8, 0.9) == pytest.approx(1.5)
    assert gap_recovered(0.7, 0.8, 0.9) == pytest.approx(-1.0)


def test_agreement_matrix():
    models = [log_probs(seed) for seed in range(3)]
    matrix = agreement_matrix(models)
    assert matrix.shape == (3, 3)
    assert (np.diag(matrix) == 1).all()
    assert (matrix == matrix.T).all()
    same = (models[0].argmax(1) == models[2].argmax(1)).double().mean()
    assert matrix[0, 2] == pytest.approx(float(same))


def test_error_correlation_equals_numpy():
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(5))
    assert error_correlation(scores) == pytest.approx(np.corrcoef(scores.double().numpy()))
    right = scores > 0.3
    assert error_correlation(right) == pytest.approx(np.corrcoef(right.double().numpy()))


def test_error_correlation_of_a_perfect_model_is_undefined():
    matrix = error_correlation(torch.tensor([[True, True, True], [True, False, True]]))
    assert np.isnan(matrix[0, 1])
    assert matrix[0, 0] == 1
