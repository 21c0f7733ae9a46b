"""`train.deterministic` sets what torch has for it, and puts it back; what has no such algorithm ends the fit with the key."""

from __future__ import annotations

import os

import pytest
import torch

from raykd.errors import TrainingError
from raykd.train.determinism import WORKSPACE, determinism


def settings():
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


@pytest.fixture
def searching(monkeypatch):
    """A process that looks for the fastest algorithms."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    return settings()


def test_it_is_so_inside_and_as_before_outside(searching):
    with determinism(True):
        assert settings() == (True, False, True, False, ":4096:8")
        with determinism(False):
            assert settings()[0]
        with determinism(True):
            pass
        assert settings() == (True, False, True, False, ":4096:8")
    assert settings() == searching
    with pytest.raises(ValueError, match="else"), determinism(True):
        raise ValueError("something else")
    assert settings() == searching


def test_a_workspace_that_somebody_chose_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with determinism(True):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def test_what_has_no_such_algorithm_is_told_with_the_key(searching):
    with pytest.raises(TrainingError, match=r"train\.deterministic.*put_"), determinism(True):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert settings() == searching


def test_a_fit_is_trained_so_where_the_recipe_says_it(runs, samples, make_fit, equal, searching):
    seen = []

    def leaving():
        seen.append(settings()[0])
        return False

    plain = make_fit(samples, train={"epochs": 1})
    fixed = make_fit(samples, train={"epochs": 1, "deterministic": True})
    runs(plain, "plain", leaving=leaving)
    assert not any(seen)
    seen.clear()
    runs(fixed, "fixed", leaving=leaving)
    assert seen
    assert all(seen)
    assert settings() == searching
    assert equal(runs.weights(plain, "plain"), runs.weights(fixed, "fixed")), "so it is on a CPU"
    assert fixed.identity != plain.identity
    assert "deterministic" not in plain.training.identity()
