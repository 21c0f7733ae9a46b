"""How far the means of a policy are from the actions that were taken when the states were recorded.

What a policy is worth is its return, which is measured by rolling it. Shapes: N units, A numbers of an action; answers are
[N, 2A], means and logarithms of standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raykd.evaluate.task import TaskMetrics, unchanged
from raykd.losses.gaussians import gaussian_kl
from raykd.types import is_labelled

_GAP = 1e-3


def action_metrics(outputs_NC: Tensor, labels_NA: Tensor) -> dict[str, float]:
    """`rmse` and `mae` of the means, in the unit of the actions.

    Raises:
        ValueError: shapes differ, or no action is known.
    """
    return action_total(action_tally(outputs_NC, labels_NA))


def action_tally(outputs_NC: Tensor, labels_NA: Tensor) -> Tensor:
    """Sums [3] over the states whose action is known, float64."""
    error_NA = _errors(outputs_NC, labels_NA)
    sums = (error_NA.abs().mean(1).sum(), error_NA.square().mean(1).sum())
    return torch.tensor([*map(float, sums), float(len(error_NA))], dtype=torch.float64)


def action_total(sums: Tensor) -> dict[str, float]:
    """`rmse` and `mae` from the sums over all workers."""
    absolute, square, count = sums.tolist()
    if not count:
        raise ValueError("no action is known, so there is nothing to measure against")
    return {"rmse": (square / count) ** 0.5, "mae": absolute / count}


def _errors(outputs_NC: Tensor, labels_NA: Tensor) -> Tensor:
    """Means less actions [M, A], float64 on the CPU, where these are known."""
    actions = labels_NA.shape[1] if labels_NA.ndim == 2 else -1
    if outputs_NC.ndim != 2 or outputs_NC.shape != (len(labels_NA), 2 * actions):
        raise ValueError(f"outputs [N, 2A] and actions [N, A] are needed, found {list(outputs_NC.shape)} and {list(labels_NA.shape)}")  # fmt: skip
    known_N = is_labelled(labels_NA)
    return (outputs_NC[known_N, :actions].double() - labels_NA[known_N].double()).cpu()


def _medoid(outputs: Sequence[Tensor]) -> Tensor:
    """Of teachers that count the same, in each state the one that the others differ least from: never their mean."""
    stacked_TNC = torch.stack(tuple(outputs))
    means_TNA = stacked_TNC.chunk(2, dim=2)[0].double()
    said_N = torch.cdist(means_TNA.transpose(0, 1), means_TNA.transpose(0, 1)).square().sum(2).argmin(1)  # fmt: skip
    return stacked_TNC[said_N, torch.arange(len(said_N))]


def _fidelity(student: Tensor, ensemble: Tensor, teachers: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "rmse_ensemble": _distance(student, ensemble),
        "kl_ensemble_nats": float(gaussian_kl(student.double(), ensemble.double()).mean()),
        "rmse": {name: _distance(student, one) for name, one in teachers.items()},
    }


def _distance(one_NC: Tensor, other_NC: Tensor) -> float:
    means = one_NC.chunk(2, dim=1)[0].double() - other_NC.chunk(2, dim=1)[0].double()
    return float(means.square().mean().sqrt())


METRICS = TaskMetrics(
    kind="value",
    metric="rmse",
    ties="mae",
    lower_is_better=frozenset({"mae", "rmse"}),
    answer=unchanged,
    ensemble=_medoid,
    numbers=action_metrics,
    tally=action_tally,
    tallied=3,
    total=action_total,
    scores=lambda outputs, labels: _errors(outputs, labels).square().mean(1),
    from_scores=lambda mean: -(mean**0.5),
    comparable=unchanged,
    fidelity=_fidelity,
    difference=lambda one, other: (one.chunk(2, dim=1)[0] - other.chunk(2, dim=1)[0]).abs().sum(1),
    error=lambda numbers: numbers["rmse"] ** 2,
    smallest_gap=lambda labels: _GAP * float(labels[is_labelled(labels)].double().std()),
    calibrate=None,
    right_or_wrong=False,
)
