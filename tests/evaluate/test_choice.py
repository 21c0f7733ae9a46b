"""Choosing a target on validation: against a reference in numpy, and its rule at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.ensemble import calibration_half
from raykd.evaluate.choice import choose_target
from raykd.tasks import find_task

TASK = find_task("classification").metrics
N, CLASSES, REPLICAS = 400, 5, 2


def answers(rng, labels_N, sharpness, share):
    """Log-probabilities [R, N, C] that are right on about a share of the samples."""
    logits = rng.normal(size=(REPLICAS, N, CLASSES))
    right = rng.random((REPLICAS, N)) < share
    logits[..., np.arange(N), labels_N] += np.where(right, 3.0, -1.0)
    return torch.log_softmax(torch.from_numpy(sharpness * logits), dim=-1)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, CLASSES, N)
    return rng, labels_N, torch.from_numpy(labels_N), torch.arange(N)


def reference(answers_RNC, best_RNC, labels_N, chooses_N):
    """Accuracy, distance to the best and its standard error, in numpy and float64."""

    def right(one_RNC):
        top = one_RNC.numpy().argmax(-1)[:, chooses_N]
        return (top == labels_N[chooses_N]).astype(float).mean(0)

    behind_M = right(best_RNC) - right(answers_RNC)
    return right(answers_RNC).mean(), behind_M.mean(), behind_M.std(ddof=1) / len(behind_M) ** 0.5


def test_the_numbers_are_those_of_the_half_that_fits_nothing(data):
    rng, labels_N, tensor_N, ids_N = data
    menu = {"soft": answers(rng, labels_N, 1.0, 0.8), "hard": answers(rng, labels_N, 1.0, 0.6)}
    found = choose_target(TASK, menu, tensor_N, ids_N)
    chooses_N = ~calibration_half(ids_N).numpy()
    assert found["n"] == chooses_N.sum()
    for name, one in menu.items():
        accuracy, behind, error = reference(one, menu["soft"], labels_N, chooses_N)
        numbers = found["menu"][name]
        assert numbers["accuracy"]["mean"] == pytest.approx(accuracy, abs=1e-12)
        assert numbers["behind"] == pytest.approx(behind, abs=1e-12)
        assert numbers["standard_error"] == pytest.approx(error, abs=1e-12)
    assert found["target"] == "soft"
    assert found["menu"]["soft"]["equal"]
    assert not found["menu"]["hard"]["equal"]


def test_confidence_alone_decides_nothing(data):
    rng, labels_N, tensor_N, ids_N = data
    sound = answers(rng, labels_N, 1.0, 0.8)
    sharp = torch.log_softmax(7.0 * sound, dim=-1)
    found = choose_target(TASK, {"sound": sound, "sharp": sharp}, tensor_N, ids_N)
    one, other = (found["menu"][name] for name in ("sound", "sharp"))
    assert one["nll_calibrated"]["values"] == pytest.approx(
        other["nll_calibrated"]["values"], rel=1e-6
    )
    assert [7.0 * t for t in one["temperature"]] == pytest.approx(other["temperature"], rel=1e-6)


def test_among_equals_the_least_nll_decides_and_not_the_order(data):
    rng, labels_N, tensor_N, ids_N = data
    better = answers(rng, labels_N, 1.0, 0.8)
    noise = torch.from_numpy(rng.normal(size=better.shape))
    top = better.argmax(-1, keepdim=True)
    worse = torch.log_softmax(better + noise, dim=-1)
    worse = torch.log_softmax(worse.scatter(-1, top, worse.amax(-1, keepdim=True) + 0.01), dim=-1)
    for menu in ({"better": better, "worse": worse}, {"worse": worse, "better": better}):
        found = choose_target(TASK, menu, tensor_N, ids_N)
        assert found["target"] == "better"
        assert all(one["equal"] for one in found["menu"].values()), "all answer the same classes"


def test_samples_without_a_label_choose_nothing(data):
    rng, labels_N, tensor_N, ids_N = data
    menu = {"soft": answers(rng, labels_N, 1.0, 0.8), "hard": answers(rng, labels_N, 1.0, 0.7)}
    known_N = torch.arange(N) % 3 > 0
    found = choose_target(TASK, menu, torch.where(known_N, tensor_N, -1), ids_N)
    kept = {name: one[:, known_N] for name, one in menu.items()}
    assert found == choose_target(TASK, kept, tensor_N[known_N], ids_N[known_N])


def test_students_that_are_always_right_keep_temperature_1(data):
    rng, labels_N, tensor_N, ids_N = data
    menu = {"soft": answers(rng, labels_N, 3.0, 1.1), "hard": answers(rng, labels_N, 1.0, 1.1)}
    right = {
        name: one + 9.0 * torch.nn.functional.one_hot(tensor_N, CLASSES)
        for name, one in menu.items()
    }
    found = choose_target(
        TASK, {n: one.log_softmax(-1) for n, one in right.items()}, tensor_N, ids_N
    )
    assert [one["temperature"] for one in found["menu"].values()] == [[1.0, 1.0], [1.0, 1.0]]
    assert all(one["behind"] == 0 == one["standard_error"] for one in found["menu"].values())
