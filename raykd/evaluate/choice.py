"""Which target of a menu taught the students best, judged on validation.

Shapes: R replicas, N validation samples, C classes, M labelled samples of the half that chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from raykd.ensemble import TEMPERATURE_BOUNDS, calibration_half
from raykd.evaluate.statistics import spread
from raykd.evaluate.task import TaskMetrics
from raykd.types import is_labelled


def own_temperature(task: TaskMetrics, answers_NC: Tensor, labels_N: Tensor) -> float:
    """The temperature of least NLL of a student's answers to labelled samples; 1 where the NLL has no minimum.

    Guo et al. 2017 (On Calibration of Modern Neural Networks), Sec. 4.
    """
    assert task.calibrate is not None, "only where answers have a temperature"
    found = task.calibrate(answers_NC, labels_N)
    return 1.0 if found in TEMPERATURE_BOUNDS else found


def choose_target(
    task: TaskMetrics, answers: Mapping[str, Tensor], labels_N: Tensor, ids_N: Tensor
) -> dict[str, Any]:
    """The target whose students are best on the half of validation that fits no temperature.

    The best by the task's metric and all within one standard error of it are equals (the one-standard-error rule,
    Breiman et al. 1984, Sec. 3.4.3, on paired differences: those of a sample's score, mean over replicas, between
    two targets). Among equals the least NLL decides, at the temperature that suits each student best on the other
    half: a student that is confident to another degree is not worse for it.

    Args:
        task: what "better" means.
        answers: target -> answers of its replicas [R, N, C].
        labels_N: −1 where unlabelled.
        ids_N: of the samples.

    Returns:
        `target`; `n`, the labelled samples that chose; `menu`: target -> the metric and `nll_calibrated` over replicas,
        `temperature` of each, `behind` the best in the mean with its `standard_error`, and whether it is an `equal`.
    """
    fits_N = calibration_half(ids_N)
    known_N = is_labelled(labels_N)
    fitting_N, choosing_N = fits_N & known_N, ~fits_N & known_N
    labels_M = labels_N[choosing_N]
    menu: dict[str, dict[str, Any]] = {}
    scores: dict[str, Tensor] = {}
    for target, answers_RNC in answers.items():
        temperatures = [
            own_temperature(task, one_NC[fitting_N], labels_N[fitting_N]) for one_NC in answers_RNC
        ]
        judged = [one_NC[choosing_N] for one_NC in answers_RNC]
        calibrated = [
            task.numbers(task.answer(one_MC / temperature), labels_M)["nll"]
            for one_MC, temperature in zip(judged, temperatures, strict=True)
        ]
        menu[target] = {
            task.metric: spread([task.numbers(one_MC, labels_M)[task.metric] for one_MC in judged]),
            "nll_calibrated": spread(calibrated),
            "temperature": temperatures,
        }
        scores[target] = torch.stack([task.scores(one, labels_M).double() for one in judged]).mean(
            0
        )
    best = max(menu, key=lambda name: float(scores[name].mean()))
    for target, numbers in menu.items():
        behind_M = scores[best] - scores[target]
        error = float(behind_M.std()) / math.sqrt(len(behind_M)) if len(behind_M) > 1 else 0.0
        behind = float(behind_M.mean())
        numbers |= {"behind": behind, "standard_error": error, "equal": behind <= error}
    equals = [target for target, numbers in menu.items() if numbers["equal"]]
    chosen = min(equals, key=lambda name: fmean(menu[name]["nll_calibrated"]["values"]))
    return {"target": chosen, "n": len(labels_M), "menu": menu}
