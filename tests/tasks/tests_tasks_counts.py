"""A task of somebody's own, whole in this file: counts, learnt by Poisson regression, as claims or clicks are.

A model puts out the logarithm of the expected count, [N, 1]. Labels are counts, NaN where unlabelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.objective import Labels, SoftTargets
from raykd.config.roles import Expect
from raykd.config.tasks import CONTROLS, GIVEN_WEIGHTINGS, NO_VECTORS, TaskSettings
from raykd.data import Dataset
from raykd.ensemble import mean_logits
from raykd.errors import TeacherError
from raykd.evaluate.task import TaskMetrics, mean_by, unchanged
from raykd.export.task import Predicted, TaskExport
from raykd.objective.rule import LearningRule, stacked
from raykd.objective.teacher_batch import TeacherBatch
from raykd.report.task import Measure, TaskFigures
from raykd.report.wording import number
from raykd.tasks import CustomTask, find_task
from raykd.types import is_labelled


def _known(outputs_N1: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    known_N = is_labelled(labels_N)
    return outputs_N1[known_N, 0].double(), labels_N[known_N].double()


def _deviances(outputs_N1: Tensor, labels_N: Tensor) -> Tensor:
    """Poisson deviance of each labelled sample (McCullagh & Nelder 1989, section 2.3), [M] ≥ 0."""
    log_rate, count = _known(outputs_N1, labels_N)
    return 2 * (torch.xlogy(count, count) - count * log_rate - count + log_rate.exp())


def _numbers(outputs_N1: Tensor, labels_N: Tensor) -> dict[str, float]:
    log_rate, count = _known(outputs_N1, labels_N)
    return {
        "deviance": float(_deviances(outputs_N1, labels_N).mean()),
        "mae": float((log_rate.exp() - count).abs().mean()),
    }


def _tally(outputs_N1: Tensor, labels_N: Tensor) -> Tensor:
    deviance = _deviances(outputs_N1, labels_N)
    log_rate, count = _known(outputs_N1, labels_N)
    sums = (deviance, (log_rate.exp() - count).abs(), torch.ones_like(deviance))
    return torch.stack([one.sum() for one in sums])


def _total(sums: Tensor) -> dict[str, float]:
    deviance, error, count = sums.tolist()
    return {"deviance": deviance / count, "mae": error / count}


def _fidelity(
    student_N1: Tensor, ensemble_N1: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    def distance(other_N1: Tensor) -> float:
        return float((student_N1.double() - other_N1.double()).abs().mean())

    return {
        "log_rate_ensemble": distance(ensemble_N1),
        "log_rate": {name: distance(values) for name, values in teachers.items()},
    }


METRICS = TaskMetrics(
    kind="value",
    metric="deviance",
    ties="mae",
    lower_is_better=frozenset({"deviance", "mae"}),
    answer=unchanged,
    ensemble=mean_by(mean_logits),
    numbers=_numbers,
    tally=_tally,
    tallied=3,
    total=_total,
    scores=_deviances,
    from_scores=lambda mean: -mean,
    comparable=unchanged,
    fidelity=_fidelity,
    difference=lambda one_N1, other_N1: (one_N1 - other_N1).abs()[:, 0],
    error=lambda numbers: numbers["deviance"],
    smallest_gap=lambda _: 1e-4,
    calibrate=None,
    right_or_wrong=False,
)


def _label_loss(_settings: Labels, outputs_N1: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    known_N = is_labelled(labels_N)
    safe_N = torch.where(known_N, labels_N, 0.0)
    loss_N = nn.functional.poisson_nll_loss(outputs_N1[:, 0], safe_N, reduction="none")
    return loss_N, known_N.to(loss_N.dtype)


def _soft_loss(
    _settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    _own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    """KL of the ensemble's Poisson distribution from the student's, [N] nats."""
    mean_N = mean_logits(stacked(teacher_batch), weights_TN)[:, 0]
    student_N = teacher_batch.student_NC[:, 0]
    loss_N = mean_N.exp() * (mean_N - student_N) - mean_N.exp() + student_N.exp()
    return loss_N, teacher_batch.available_TN.any(dim=0)


def _expected_count(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    mean_N = mean_logits(stacked(teacher_batch), weights_TN)[:, 0].exp()
    return torch.where(weights_TN.sum(dim=0) > 0, mean_N, torch.nan)


def check_counts(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,
) -> float:
    deviance = _numbers(outputs_NC, labels_N)["deviance"]
    mean = labels_N[is_labelled(labels_N)].double().mean().log()
    constant = _numbers(torch.full_like(outputs_NC, float(mean)), labels_N)["deviance"]
    if deviance >= constant:
        raise TeacherError(f"teacher {name!r} is no better than the mean count: {deviance:.3f}")
    return deviance


def _clean(array: np.ndarray, count: int) -> np.ndarray | str:
    if array.shape != (count,):
        return f"found shape {list(array.shape)}; needs [{count}]"
    values = array.astype(np.float32)
    return "found negative counts" if (values < 0).any() else values


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    rate_N = outputs_NC[:, 0].exp()
    return Predicted(names, tuple(f"{rate:.4g}" for rate in rate_N.tolist()), rate_N.numpy(), None)


def _worst(answers_N1: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    return f"The largest deviance on test is {float(_deviances(answers_N1, labels_N).max()):.3g}."


_REGRESSION = find_task("regression")
_DEVIANCE = Measure(key="deviance", name="Poisson deviance", form=number)
_FOLLOWS = Measure(key="log_rate_ensemble", name="log rate to the ensemble's", form=number)

COUNTS = CustomTask(
    settings=TaskSettings(
        select=("deviance", "mae"),
        label_losses=(),
        soft_losses=("mse",),
        combine=("values",),
        weightings=GIVEN_WEIGHTINGS,
        expect=(),
        controls=CONTROLS,
        unused={**NO_VECTORS, "objective.soft_targets.temperature": 1.0},
        defaults={
            "objective": {
                "soft_targets": {"loss": {"type": "mse"}, "temperature": 1.0, "combine": "values"}
            }
        },
        has_classes=False,
    ),
    labels=replace(
        _REGRESSION.labels,
        clean=_clean,
        measured=False,
        counted=lambda names: f"counts of {names[0]}",
    ),
    rule=LearningRule(label_loss=_label_loss, soft_loss=_soft_loss, pseudo_labels=_expected_count),
    metrics=METRICS,
    selftest=check_counts,
    text=replace(
        _REGRESSION.text,
        metric=_DEVIANCE,
        second=Measure(key="mae", name="MAE", form=number),
        numbers=(_DEVIANCE, Measure(key="mae", name="MAE", form=number)),
        numbers_note="Deviance per sample; MAE in counts",
        panels=(_DEVIANCE,),
        reached=lambda value: f"a Poisson deviance of {number(value)} on test",
        kept=lambda own, whole: f"Its deviance is {number(own)}, the ensemble's {number(whole)}",
        follows=lambda fidelity: (
            f"differs from the ensemble by {number(fidelity['log_rate_ensemble']['mean'])} in log rate"
            if isinstance(fidelity["log_rate_ensemble"], dict)
            else "differs"
        ),
        fidelity=(_FOLLOWS,),
        by_teacher=Measure(key="log_rate", name="log rate to", form=number),
        tile=lambda own, whole: (number(own / whole), "of the ensemble's deviance"),
    ),
    figures=TaskFigures(lost=lambda _: ["Counts above ten are rare in it."]),
    export=TaskExport(
        outputs={"log_rates": "[batch, 1], logarithm of the expected count"},
        of_network=lambda outputs_B1, _: (outputs_B1,),
        predict=_predict,
        weak_spots=_worst,
    ),
)


def count_data(count: int = 400) -> Dataset:
    """Counts that depend on five numbers; importable by recipes as a factory."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, 5)).astype(np.float32)
    rate = np.exp(0.8 + 0.6 * inputs[:, 0] - 0.5 * inputs[:, 1])
    labels = generator.poisson(rate).astype(np.float32)
    return Dataset(inputs, labels, task="tests_tasks_counts:COUNTS", classes=("clicks",))
