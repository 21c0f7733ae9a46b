"""What distillation adds to a training step, in milliseconds.

Shape suffixes: N units, T teachers, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.measuring import Row, Sizes, against, in_turns
from raykd.config.objective import Objective
from raykd.methods import WEIGHTING_ROWS, losses_of
from raykd.objective import DistillObjective, TeacherInfo, reduce_terms
from raykd.tasks.classification.rule import RULE
from raykd.types import Batch, Dense

STEP_MS = 50.0
"""The student's step that costs are a share of."""
_TEMPERATURE = 4.0


def objective(sizes: Sizes) -> list[Row]:
    """Labels and soft targets of one batch, forward and backward, by soft loss and by weighting.

    All samples are labelled, and all teachers answer. The first row is the yardstick of `ratio`.

    The whole objective is to take at most 3 % of a student's step of 50 ms.
    """
    units, classes, teachers, repeats = sizes.units, sizes.classes, sizes.teachers, sizes.repeats
    draw = torch.Generator().manual_seed(0)
    rows, present = torch.arange(units), torch.ones(units, dtype=torch.bool)
    labels = torch.randint(classes, (units,), generator=draw)
    batch = Batch(ids=rows, rows=rows, view_B=rows, inputs={}, labels=labels, present_B=present)
    logits_TNC = 3 * torch.randn(teachers, units, classes, generator=draw)
    answers = {
        f"teacher{k}": Dense(kind="logits", values_NC=logits_NC.clone(), valid_N=present)
        for k, logits_NC in enumerate(logits_TNC)
    }
    student_NC = torch.randn(units, classes, generator=draw).requires_grad_()

    def backward(total: Tensor) -> None:
        student_NC.grad = None
        total.backward()

    def one_teacher() -> None:
        log_p_NC = F.log_softmax(answers["teacher0"].values_NC / _TEMPERATURE, dim=1)
        log_q_NC = F.log_softmax(student_NC / _TEMPERATURE, dim=1)
        loss_NC = F.kl_div(log_q_NC, log_p_NC, reduction="none", log_target=True)
        backward(loss_NC.sum(dim=1).mean() * _TEMPERATURE**2)

    def whole(loss: str, weighting: str) -> Callable[[], None]:
        taught = _objective(loss, weighting, list(answers))

        def step() -> None:
            terms, _ = taught(student_NC, {}, batch, answers)
            backward(reduce_terms(terms, lambda counts: counts, 1).total)

        return step

    reference = "log_softmax + kl_div, one teacher"
    cases = [(loss, "uniform") for loss in losses_of("logits")] + [
        ("kl", name) for name, row in WEIGHTING_ROWS.items() if row.for_all_tasks
    ]
    steps = {f"{loss}, {weighting}": whole(loss, weighting) for loss, weighting in cases}
    table = in_turns({reference: one_teacher, **steps}, repeats)
    against(table, reference)
    for row in table:
        row["percent_of_step"] = 100 * float(row["median"]) / STEP_MS
    return table


def _objective(loss: str, weighting: str, teachers: Sequence[str]) -> DistillObjective:
    knobs: dict[str, Any] = {"type": weighting}
    if weighting == "fixed":
        knobs["weights"] = dict.fromkeys(teachers, 1.0)
    soft = {"loss": {"type": loss}, "temperature": _TEMPERATURE}
    settings = Objective.model_validate({"soft_targets": soft, "weighting": knobs})
    teacher_infos = [TeacherInfo(name, error=0.5, accuracy=0.8, stacked=0.5) for name in teachers]
    return DistillObjective(
        settings, teacher_infos, rule=RULE, student_shapes={}, teacher_shapes={}
    )
