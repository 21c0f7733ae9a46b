"""How good predicted classes are; answers are log-probabilities at temperature 1, in nats.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble import fit_temperature, mean_of_known
from raykd.evaluate.closeness import fidelity
from raykd.evaluate.kept import decisions_of
from raykd.evaluate.metrics import classification_metrics, labelled
from raykd.evaluate.task import TaskMetrics, mean_by, nll_of, one_sample


def _tally(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    nll = F.cross_entropy(logits_NC, labels_N, reduction="sum")
    correct = (logits_NC.argmax(dim=1) == labels_N).sum()
    return torch.tensor([float(correct), float(nll), float(len(labels_N))], dtype=torch.float64)


def _total(sums: Tensor) -> dict[str, float]:
    correct, nll, count = sums.tolist()
    return {"accuracy": correct / count, "nll": nll / count}


def _correct(log_probs_NC: Tensor, labels_N: Tensor) -> Tensor:
    log_probs, labels = labelled(log_probs_NC, labels_N)
    return log_probs.argmax(dim=1) == labels


def _difference(one_NC: Tensor, other_NC: Tensor) -> Tensor:
    (one_sure, one_top), (other_sure, other_top) = one_NC.max(dim=1), other_NC.max(dim=1)
    return torch.where(one_top != other_top, one_sure + other_sure, -torch.inf)


METRICS = TaskMetrics(
    kind="logits",
    metric="accuracy",
    ties="nll",
    lower_is_better=frozenset({"nll", "ece", "brier"}),
    answer=lambda logits_NC: F.log_softmax(logits_NC, dim=1),
    ensemble=mean_by(mean_of_known),
    numbers=classification_metrics,
    tally=_tally,
    tallied=3,
    total=_total,
    scores=_correct,
    from_scores=None,
    comparable=lambda logits_NC: logits_NC.softmax(dim=1),
    fidelity=fidelity,
    difference=_difference,
    error=nll_of,
    smallest_gap=one_sample,
    calibrate=fit_temperature,
    decisions=lambda split: decisions_of(split, labels_N=split.labels_N, groups_N=split.labels_N),
)
