"""Networks that learnt together: their ensemble and how alike they are, over replicas."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.evaluate.peers import pairs_alike, peer_numbers
from raykd.tasks import find_task

TASK = find_task("classification").metrics


def log_probs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_the_ensemble_is_the_mean_of_probabilities_of_each_replica():
    first_NC = log_probs([0.9, 0.1], [0.4, 0.6])
    second_NC = log_probs([0.2, 0.8], [0.8, 0.2])
    answers_KRNC = torch.stack(
        [torch.stack([first_NC, first_NC]), torch.stack([second_NC, first_NC])]
    )
    found = peer_numbers(TASK, ("peer0", "peer1"), answers_KRNC, torch.tensor([0, 0]))
    assert found["each"]["peer0"]["accuracy"]["values"] == [0.5, 0.5]
    assert found["each"]["peer1"]["accuracy"]["values"] == [0.5, 0.5]
    assert found["ensemble"]["accuracy"]["values"] == [1.0, 0.5]
    nll = -(math.log(0.55) + math.log(0.6)) / 2
    assert found["ensemble"]["nll"]["values"][0] == pytest.approx(nll, rel=1e-6)
    assert found["agreement"]["values"] == [0.0, 1.0]
    assert found["jsd_nats"]["values"][1] == pytest.approx(0, abs=1e-9)
    assert 0 < found["jsd_nats"]["values"][0] < math.log(2)


def test_agreement_does_not_depend_on_the_order_of_peers():
    logits_KNC = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    expected = pairs_alike(logits_KNC)
    assert pairs_alike(logits_KNC[[2, 0, 3, 1]]) == pytest.approx(expected)
    classes = logits_KNC.argmax(-1)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    one_by_one = sum(float((classes[i] == classes[j]).double().mean()) for i, j in pairs)
    assert expected == pytest.approx(one_by_one / len(pairs))


def test_without_labels_there_is_agreement_alone():
    answers_KRNC = torch.zeros(2, 1, 3, 2)
    found = peer_numbers(TASK, ("peer0", "peer1"), answers_KRNC, torch.full((3,), -1))
    assert found["ensemble"] is None
    assert found["agreement"]["mean"] == 1.0
