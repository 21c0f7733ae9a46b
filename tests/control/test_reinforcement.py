"""The student's own network trained by rewards: it learns, the same way each time, and nothing else is left of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raykd.config.environments import Environment
from raykd.control import spaces
from raykd.control.reinforcement import reinforce

pytest.importorskip("stable_baselines3")
LIMIT = {"type": "time_limit", "steps": 12}


def walk(**kwargs):
    return Environment(id="raykd_test_environments:Walk", kwargs=kwargs, wrappers=(LIMIT,))


def trained(environments, outputs, steps=2000):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs))
    before = [one.detach().clone() for one in network.parameters()]
    taken = reinforce(network, environments, spaces(environments[0]), steps=steps, seed=3)
    return network, before, taken


@pytest.mark.parametrize(("kind", "outputs"), [("discrete", 2), ("box", 2)])
def test_the_students_own_network_learns_and_again_the_same(kind, outputs):
    environments = [walk(actions=kind), walk(actions=kind)]
    network, before, taken = trained(environments, outputs)
    assert 2000 <= taken <= 2004
    assert any((one != old).any() for one, old in zip(network.parameters(), before, strict=True))
    again, _, _ = trained(environments, outputs)
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not network.training
    assert all(one.requires_grad for one in network.parameters())


def test_rewards_teach_it_to_go_home():
    network, _, _ = trained([walk()], 2, steps=6000)
    right, left = network(torch.tensor([[-2.0, 0.5], [2.0, 0.5]])).argmax(dim=1).tolist()
    assert (right, left) == (1, 0)
