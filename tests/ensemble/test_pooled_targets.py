"""Targets made of the mixture of the teachers, against values of the published formulas in float64."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from raykd.ensemble import (
    SHARPENING_BOUNDS,
    calibration_half,
    fit_temperature,
    jensen_shannon,
    mean_probabilities,
    sharpened,
)


@pytest.fixture(scope="module")
def given():
    read = json.loads((Path(__file__).parent / "pooled_targets.json").read_text())
    teachers = torch.tensor(read["teachers"], dtype=torch.float64)
    weights = torch.full(teachers.shape[:2], 1 / len(teachers), dtype=torch.float64)
    return SimpleNamespace(
        student=torch.tensor(read["student"], dtype=torch.float64),
        teachers=teachers,
        labels=torch.tensor(read["labels"]),
        weights=weights,
        pooled=mean_probabilities(teachers, weights),
        expected=read["expected"],
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_pooled_then_sharpened(given, temperature):
    target = sharpened(given.pooled, temperature=temperature)
    found = F.kl_div(given.student.log_softmax(1), target, reduction="batchmean")
    expected = given.expected[f"pooled_then_sharpened_kl_T{temperature}"]
    assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mixture_of_hard_and_soft(given, share):
    target = sharpened(given.pooled, hard_share=share)
    found = -(target * given.student.log_softmax(1)).sum(1).mean()
    assert float(found) == pytest.approx(
        given.expected[f"hard_soft_mix_ce_lambda{share}"], abs=1e-9
    )
    assert target.sum(1).numpy() == pytest.approx(1, abs=1e-12)


def test_entropy_and_divergence_of_the_teachers(given):
    probs = given.pooled.exp()
    entropy = -(probs * given.pooled).sum(1)
    assert entropy.numpy() == pytest.approx(np.array(given.expected["ensemble_entropy"]), abs=1e-9)
    found = jensen_shannon(given.teachers, given.weights)
    assert found.numpy() == pytest.approx(np.array(given.expected["ensemble_jsd"]), abs=1e-9)


def test_pool_then_calibrate(given):
    found = fit_temperature(given.pooled, given.labels, SHARPENING_BOUNDS)
    expected = given.expected["pool_then_calibrate_T"]
    assert found == pytest.approx(expected["T"], rel=1e-6)

    def nll(temperature):
        return float(F.cross_entropy(given.pooled / temperature, given.labels))

    assert nll(found) == pytest.approx(expected["nll"], abs=1e-9)
    assert nll(1.0) == pytest.approx(expected["nll_before"], abs=1e-9)
    other = minimize_scalar(
        nll, bounds=SHARPENING_BOUNDS, method="bounded", options={"xatol": 1e-9}
    )
    assert found == pytest.approx(other.x, abs=1e-4)


def test_the_ends_of_the_bracket(given):
    right = given.pooled.argmax(1)
    assert fit_temperature(given.pooled, right, SHARPENING_BOUNDS) == pytest.approx(0.05)
    wrong = given.pooled.argmin(1)
    assert fit_temperature(given.pooled, wrong, SHARPENING_BOUNDS) == pytest.approx(20.0)


def test_at_the_extremes():
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=torch.float64)
    target = sharpened(logits.log_softmax(1), temperature=0.05, hard_share=0.5)
    assert target.isfinite().all()
    assert target.sum(1).numpy() == pytest.approx(1)


def test_halves_of_validation_go_by_the_id_alone():
    ids = torch.arange(-500, 4000)
    half = calibration_half(ids)
    assert 0.47 < float(half.float().mean()) < 0.53
    few = ids[[3, 1700, 44]]
    assert torch.equal(calibration_half(few), half[[3, 1700, 44]])
    assert calibration_half(torch.arange(8)).tolist() == [
        False,
        False,
        False,
        True,
        True,
        True,
        False,
        True,
    ]
