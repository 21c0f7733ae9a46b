"""Which teachers to keep: how good each is, whose errors are alike, and what each adds to an ensemble.

Shapes: T teachers, N samples, M labelled samples. Answers are those of evaluation (log-probabilities,
values, log-odds), on data that no teacher was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.ensemble import (
    TEMPERATURE_BOUNDS,
    calibration_half,
    fit_temperature,
    labels_of_known,
    mean_of_known,
)
from raykd.ensemble.stacking import PRIOR, label_log_probs, stacked_weights
from raykd.evaluate.closeness import error_correlation
from raykd.evaluate.outputs import SplitOutputs
from raykd.evaluate.summary import json_safe
from raykd.evaluate.task import TaskMetrics
from raykd.types import is_labelled

_LEAST_LABELS = 2


def rank_teachers(task: TaskMetrics, outputs: SplitOutputs) -> dict[str, Any]:
    """Every teacher alone, every two of them, and the order in which they help an ensemble.

    Args:
        task: what the answers are for.
        outputs: the teachers' answers on one split.

    Returns:
        `metric` and `samples` (labelled ones); `teachers`: name -> V; `ensemble`: V of all together;
        `oracle`: the metric if the best teacher were asked about each sample, a ceiling for any
        weighting; `error_correlation` and `alike`: name -> name -> Pearson correlation of the errors
        (None beside a teacher that always, or never, errs alike) and how alike their answers are;
        `greedy`: steps `{"teacher", metric, second metric}`, each adding the teacher that helps the mean of answers
        most (Caruana et al. 2004, without replacement); `keep`: its teachers up to the best step; of classes also
        `weights`, see `_weights`.

    Raises:
        ValueError: no sample is labelled.
    """
    known_N = is_labelled(outputs.labels_N)
    if not bool(known_N.any()):
        raise ValueError("no sample has a label, so no teacher can be ranked")
    names, labels = list(outputs.teachers), outputs.labels_N[known_N]
    answers = {name: outputs.teachers[name][known_N] for name in names}
    scores_TM = torch.stack([task.scores(answers[name], labels).double() for name in names])
    steps = _greedy(task, answers, labels)
    best = max(range(len(steps)), key=lambda step: (*task.rank(steps[step][1]), -step))
    ranking: dict[str, Any] = {
        "metric": task.metric,
        "samples": len(labels),
        "teachers": {name: task.numbers(answers[name], labels) for name in names},
        "ensemble": task.numbers(
            _together(task, answers, names) if task.columns is None else outputs.ensemble[known_N],
            labels,
        ),
        "oracle": _oracle(task, scores_TM),
        "error_correlation": _table(names, error_correlation(scores_TM)),
        "alike": {name: _alike(task, name, answers) for name in names},
        "greedy": [
            {"teacher": name, task.metric: numbers[task.metric], task.ties: numbers[task.ties]}
            for name, numbers in steps
        ],
        "keep": [name for name, _ in steps[: best + 1]],
        **({"weights": found} if (found := _weights(task, outputs)) else {}),
    }
    clean: dict[str, Any] = json_safe(ranking)
    return clean


def _weights(task: TaskMetrics, outputs: SplitOutputs) -> dict[str, Any]:
    """Equal and learnt weights of calibrated teachers: found on the half that fits temperatures, judged on the other one.

    Returns:
        `fitted_on` and `judged_on`, labelled samples of the two halves; `prior`, n₀ of the shrinkage; `temperatures`:
        teacher -> its own; `uniform` and `stacking`: `weights` and V of the mixture on the other half. Empty where
        answers are not of classes, or a half has fewer than two labelled samples.
    """
    of_classes = task.kind == "logits" and task.calibrate is not None and task.columns is None
    if not of_classes or outputs.labels_N.ndim > 1:
        return {}
    half_N, names = calibration_half(outputs.ids_N), list(outputs.teachers)
    fits_N, judges_N = (is_labelled(outputs.labels_N) & rows_N for rows_N in (half_N, ~half_N))
    counts = int(fits_N.sum()), int(judges_N.sum())
    if min(counts) < _LEAST_LABELS:
        return {}
    labels_N = outputs.labels_N
    temperatures = [
        _temperature(outputs.teachers[name][fits_N], labels_N[fits_N]) for name in names
    ]
    fitting = [outputs.teachers[name][fits_N] for name in names]
    judging = [
        outputs.teachers[name][judges_N] / temperature
        for name, temperature in zip(names, temperatures, strict=True)
    ]
    stacked_T = stacked_weights(label_log_probs(fitting, labels_N[fits_N], temperatures), PRIOR)
    equal_T = torch.full_like(stacked_T, 1 / len(names))

    def mixed(weights_T: Tensor) -> dict[str, Any]:
        weights_TM = weights_T.float()[:, None].expand(-1, counts[1])
        answers = mean_of_known(torch.stack(judging), weights_TM)
        weights = dict(zip(names, weights_T.tolist(), strict=True))
        return {"weights": weights, **task.numbers(answers, labels_N[judges_N])}

    return {
        "fitted_on": counts[0],
        "judged_on": counts[1],
        "prior": PRIOR,
        "temperatures": dict(zip(names, temperatures, strict=True)),
        "uniform": mixed(equal_T),
        "stacking": mixed(stacked_T),
    }


def _temperature(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Of least NLL on samples of classes that the teacher knows; 1 where that is at an end of what is tried."""
    known_N = labels_of_known(logits_NC, labels_N)
    if int(is_labelled(known_N).sum()) < _LEAST_LABELS:
        return 1.0
    found = fit_temperature(logits_NC, known_N)
    return 1.0 if found in TEMPERATURE_BOUNDS else found


def _together(task: TaskMetrics, answers: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    several = [answers[name] for name in names]
    return task.ensemble(several) if task.columns is None else task.columns.together(several)


def _greedy(
    task: TaskMetrics, answers: Mapping[str, Tensor], labels: Tensor
) -> list[tuple[str, dict[str, float]]]:
    """(teacher, V of the ensemble with it) per step; equals are decided by the task's second metric."""
    chosen: list[tuple[str, dict[str, float]]] = []
    while len(chosen) < len(answers):
        had = [name for name, _ in chosen]
        found = {
            name: task.numbers(_together(task, answers, [*had, name]), labels)
            for name in answers
            if name not in had
        }
        best = max(found, key=lambda name: task.rank(found[name]))
        chosen.append((best, found[best]))
    return chosen


def _oracle(task: TaskMetrics, scores_TM: Tensor) -> float:
    if task.from_scores is None:
        return float(scores_TM.amax(dim=0).mean())
    return task.merit(float(task.from_scores(float(scores_TM.amin(dim=0).mean()))))


def _alike(task: TaskMetrics, name: str, answers: Mapping[str, Tensor]) -> dict[str, float]:
    """How alike a teacher's answers are to each one's: agreement, in regression RMSE between them."""
    compared = task.fidelity(answers[name], answers[name], answers)
    each: dict[str, float] = next(value for value in compared.values() if isinstance(value, dict))
    return each


def _table(names: Sequence[str], matrix: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    return {
        name: dict(zip(names, row.tolist(), strict=True))
        for name, row in zip(names, matrix, strict=True)
    }
