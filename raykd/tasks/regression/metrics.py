"""How good predicted values are, and how closely they follow others.

Shapes: N samples. Values are [N, 1], labels [N]; samples whose label is NaN are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raykd.ensemble import mean_logits
from raykd.evaluate.task import TaskMetrics, mean_by, unchanged
from raykd.types import is_labelled

_GAP = 1e-3


def value_metrics(values_N1: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Every number of one model on one split.

    Args:
        values_N1: predictions [N, 1] in original units.
        labels_N: true values [N] in the same units, NaN where unlabelled.

    Returns:
        `mae` and `rmse` in the unit of the values, ≥ 0; `r2` in (−∞, 1], the share of the variance
        that is explained: 0 is what the mean of these samples reaches. NaN for less than two samples.

    Raises:
        ValueError: shapes differ, or no sample is labelled.
    """
    values, labels = _known(values_N1, labels_N)
    error = values - labels
    return {
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "r2": _explained(error, labels) if len(labels) > 1 else float("nan"),
    }


def _explained(error_M: Tensor, labels_M: Tensor) -> float:
    """R²; of labels that are all the same 1 where these are met, else 0, as scikit-learn has it."""
    left, all_ = error_M.square().sum(), (labels_M - labels_M.mean()).square().sum()
    return float(1 - left / all_) if all_ > 0 else float(left == 0)


def squared_errors(values_N1: Tensor, labels_N: Tensor) -> Tensor:
    """(prediction − truth)² of each labelled sample, float64 [M], in squared units."""
    values, labels = _known(values_N1, labels_N)
    return (values - labels).square()


def value_tally(values_N1: Tensor, labels_N: Tensor) -> Tensor:
    """Sums [5] over the labelled samples, from which `value_total` makes metrics; float64."""
    known_N = is_labelled(labels_N)
    labels = labels_N[known_N].double()
    error = values_N1[known_N, 0].double() - labels
    sums = (error.abs(), error.square(), labels, labels.square(), torch.ones_like(labels))
    return torch.stack([one.sum() for one in sums])


def value_total(sums: Tensor) -> dict[str, float]:
    """`rmse`, `mae` and `r2` from the sums over all workers."""
    absolute, square, total, total_square, count = sums.tolist()
    variation = max(total_square - total * total / count, 0.0)
    return {
        "rmse": (square / count) ** 0.5,
        "mae": absolute / count,
        "r2": 1 - square / variation if variation > 0 else 0.0,
    }


def value_fidelity(
    student_N1: Tensor, ensemble_N1: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    """How closely one student follows its teachers, labels aside.

    Returns:
        `rmse_ensemble`: root mean squared difference to the ensemble, in the unit of the values;
        `correlation_ensemble`: Pearson's, NaN where one of them is constant; `rmse`: teacher -> root
        mean squared difference.
    """
    return {
        "rmse_ensemble": _distance(student_N1, ensemble_N1),
        "correlation_ensemble": _correlation(student_N1, ensemble_N1),
        "rmse": {name: _distance(student_N1, values) for name, values in teachers.items()},
    }


def smallest_value_gap(labels_N: Tensor) -> float:
    """A difference of RMSE that is none: a thousandth of the spread of the labels."""
    known = labels_N[is_labelled(labels_N)].double()
    return _GAP * float(known.std()) if len(known) > 1 else 0.0


def _known(values_N1: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Values and labels [M] of the labelled samples, float64 on the CPU."""
    if values_N1.ndim != 2 or values_N1.shape != (len(labels_N), 1) or labels_N.ndim != 1:
        raise ValueError(
            f"values [N, 1] and labels [N] are needed, "
            f"found {tuple(values_N1.shape)} and {tuple(labels_N.shape)}"
        )
    known_N = is_labelled(labels_N)
    if not bool(known_N.any()):
        raise ValueError("none of the samples has a label, so there is nothing to measure against")
    return values_N1[known_N, 0].double().cpu(), labels_N[known_N].double().cpu()


def _distance(one_N1: Tensor, other_N1: Tensor) -> float:
    return float((one_N1.double() - other_N1.double()).square().mean().sqrt())


def _correlation(one_N1: Tensor, other_N1: Tensor) -> float:
    one, other = (values[:, 0].double() - values.double().mean() for values in (one_N1, other_N1))
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else float("nan")


def _difference(one_N1: Tensor, other_N1: Tensor) -> Tensor:
    return (one_N1 - other_N1).abs()[:, 0]


METRICS = TaskMetrics(
    kind="value",
    metric="rmse",
    ties="mae",
    lower_is_better=frozenset({"mae", "rmse"}),
    answer=unchanged,
    ensemble=mean_by(mean_logits),
    numbers=value_metrics,
    tally=value_tally,
    tallied=5,
    total=value_total,
    scores=squared_errors,
    from_scores=lambda mean: -(mean**0.5),
    comparable=unchanged,
    fidelity=value_fidelity,
    difference=_difference,
    error=lambda numbers: numbers["rmse"] ** 2,
    smallest_gap=smallest_value_gap,
    calibrate=None,
    right_or_wrong=False,
)
