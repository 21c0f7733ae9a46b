"""How much an ensemble is at home on samples without labels: how sure it is there, and how far its teachers disagree.

Shapes: N samples (or decisions), C alternatives, T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raykd.evaluate.outputs import SplitOutputs
from raykd.tasks import find_task

REFERENCE = "validation"


def at_home(of: Mapping[str, SplitOutputs]) -> dict[str, dict[str, float]]:
    """Numbers of each set of samples, held against validation, whose samples are real.

    Args:
        of: name of each set, and `validation` -> what teachers and ensemble answer; `students` is not looked at.

    Returns:
        Name -> `n`, samples, and where answers are choices (of a class, of yes or no):
        `entropy_nats`: mean entropy of the ensemble's probabilities;
        `confidence`: mean of its largest one;
        `as_sure`: share of decisions that it is as sure of as of the median one on validation, which has half;
        `jsd_nats`: mean H(Σ p_t / T) − Σ H(p_t) / T, how far the teachers disagree (Lin 1991, equation 5.1);
        `unanimous`: share of decisions in which all teachers choose the same;
        `alternatives`: exp of the entropy of what the ensemble chooses: as many equally frequent ones are as even;
        `shift`: half of Σ_c |share of c here − on validation| of what it chooses, 0 to 1.
        Of values: `disagreement`, mean standard deviation of the teachers' values, in their unit; `inside`, share of
        samples whose ensemble value lies within those on validation. Nothing but n of embeddings.
    """
    reference = of[REFERENCE]
    metrics = find_task(reference.task).metrics
    if metrics.decisions is not None:
        usual = _decided(reference)
        found = {name: _of_choices(_decided(split), usual) for name, split in of.items()}
    elif metrics.kind == "value":
        found = {name: _of_values(split, reference) for name, split in of.items()}
    else:
        found = {name: {} for name in of}
    return {name: {"n": float(len(split.labels_N)), **found[name]} for name, split in of.items()}


def _decided(split: SplitOutputs) -> tuple[Tensor, Tensor]:
    """Probabilities of ensemble [N, C] and teachers [T, N, C]."""
    decisions = find_task(split.task).metrics.decisions
    assert decisions is not None, "only for tasks of choices"
    found = decisions(split)
    each = torch.stack([answers.double().exp() for answers in found.teachers.values()])
    return found.ensemble_NC.double().exp(), each


def _of_choices(decided: tuple[Tensor, Tensor], usual: tuple[Tensor, Tensor]) -> dict[str, float]:
    whole_NC, each_TNC = decided
    sure_N, chosen_N = whole_NC.max(dim=1)
    usual_sure_N, usual_chosen_N = usual[0].max(dim=1)
    top_TN = each_TNC.argmax(dim=2)
    share_C, usual_C = (
        torch.bincount(one_N, minlength=whole_NC.shape[1]).double() / len(one_N)
        for one_N in (chosen_N, usual_chosen_N)
    )
    apart_N = entropy(each_TNC.mean(dim=0)) - entropy(each_TNC).mean(dim=0)
    return {
        "entropy_nats": float(entropy(whole_NC).mean()),
        "confidence": float(sure_N.mean()),
        "as_sure": float((sure_N >= usual_sure_N.quantile(0.5)).double().mean()),
        "jsd_nats": float(apart_N.mean()),
        "unanimous": float((top_TN == top_TN[0]).all(dim=0).double().mean()),
        "alternatives": float(entropy(share_C).exp()),
        "shift": float((share_C - usual_C).abs().sum() / 2),
    }


def _of_values(split: SplitOutputs, reference: SplitOutputs) -> dict[str, float]:
    each_TN = torch.stack([answers.double().flatten() for answers in split.teachers.values()])
    whole_N, usual_N = split.ensemble.double().flatten(), reference.ensemble.double().flatten()
    inside_N = (whole_N >= usual_N.min()) & (whole_N <= usual_N.max())
    return {
        "disagreement": float(each_TN.std(dim=0, correction=0).mean()),
        "inside": float(inside_N.double().mean()),
    }


def entropy(probs: Tensor) -> Tensor:
    """−Σ p ln p over the last axis, in nats."""
    return -torch.xlogy(probs, probs).sum(dim=-1)
