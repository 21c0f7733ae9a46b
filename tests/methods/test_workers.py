"""Two real workers find the values and gradients of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raykd.train.world import World

SCRIPT = Path(__file__).with_name("two_workers.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one worker, and each of two, wrote of three steps: 7, 1 (one worker has none) and 6 rows."""
    folder = tmp_path_factory.mktemp("workers")
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(workers), folder], stderr=subprocess.PIPE
        )
        for rank, workers in ((0, 1), (0, 2), (1, 2))
    ]
    errors = [process.communicate(timeout=100)[1].decode() for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    names = ("1-0", "2-0", "2-1")
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in names]


def test_terms_and_gradients_are_those_of_one_worker(found):
    alone, *both = found
    for number, (terms, gradients) in enumerate(alone["steps"]):
        for worker in both:
            own_terms, own_gradients = worker["steps"][number]
            for name, value in terms.items():
                torch.testing.assert_close(own_terms[name], value, rtol=2e-4, atol=2e-6, msg=name)
            for name, value in gradients.items():
                torch.testing.assert_close(
                    own_gradients[name], value, rtol=2e-3, atol=2e-5, msg=name
                )
    assert all(g.any() for g in alone["steps"][0][1].values())


def test_the_state_is_the_same_on_all_workers(found):
    alone, first, second = found
    for name, value in alone["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert int(alone["state"]["objective.features.4.statistics.batches"]) == 3


def test_one_worker_gathers_its_own_rows():
    rows = torch.randn(3, 2, requires_grad=True)
    assert World().gathering(3)(rows) is rows
