"""What networks that learnt together are worth: each of them, their ensemble, and how alike they are.

Shape suffixes: K peers, R replicas, N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raykd.ensemble import jensen_shannon, mean_probabilities
from raykd.evaluate.statistics import spread
from raykd.evaluate.summary import numbers_on
from raykd.evaluate.task import TaskMetrics


def peer_numbers(
    task: TaskMetrics, names: Sequence[str], answers_KRNC: Tensor, labels_N: Tensor
) -> dict[str, Any]:
    """All numbers of peers on one split, over replicas.

    Args:
        task: the metrics.
        names: of the K peers, the student first.
        answers_KRNC: their log-probabilities.
        labels_N: the labels.

    Returns:
        `each`: name -> V over replicas, None without labels; `ensemble`: the same of the mean of the peers'
        probabilities; `agreement`: how often two peers answer alike, mean over pairs; `jsd_nats`: Jensen-Shannon
        divergence of all peers.
    """
    uniform_KN = answers_KRNC.new_full((len(names), answers_KRNC.shape[2]), 1 / len(names))
    together_RNC = torch.stack(
        [mean_probabilities(one_KNC, uniform_KN) for one_KNC in answers_KRNC.unbind(1)]
    )
    return {
        "each": {
            name: _over_replicas(task, one_RNC, labels_N)
            for name, one_RNC in zip(names, answers_KRNC, strict=True)
        },
        "ensemble": _over_replicas(task, together_RNC, labels_N),
        "agreement": spread([pairs_alike(one_KNC) for one_KNC in answers_KRNC.unbind(1)]),
        "jsd_nats": spread(
            [float(jensen_shannon(one, uniform_KN).mean()) for one in answers_KRNC.unbind(1)]
        ),
    }


def pairs_alike(logits_KNC: Tensor) -> float:
    """How often two of K networks have the same most probable class, mean over all pairs and samples."""
    class_KN = logits_KNC.argmax(-1)
    first_P, second_P = torch.triu_indices(len(class_KN), len(class_KN), offset=1)
    return float((class_KN[first_P] == class_KN[second_P]).double().mean())


def _over_replicas(
    task: TaskMetrics, answers_RNC: Tensor, labels_N: Tensor
) -> dict[str, Any] | None:
    found = [numbers_on(task, answers_NC, labels_N) for answers_NC in answers_RNC]
    known = [one for one in found if one is not None]
    return {name: spread([one[name] for one in known]) for name in known[0]} if known else None
