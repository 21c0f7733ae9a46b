"""What distillation adds to a training step, in milliseconds.

Rows of a table take turns, so that their ratios hold on a busy machine, too: a repeat is the median of
ten calls of one row, then of the next; median, smallest and spread are over the repeats.

Shape suffixes: N units, T teachers, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config.objective import Objective
from raykd.ensemble import WEIGHTINGS
from raykd.losses import INFO
from raykd.objective import DistillObjective, Voice, reduce_terms
from raykd.types import Batch, Dense

STEP_MS = 50.0
"""The student's step that costs are a share of."""
_CALLS = 10
_TEMPERATURE = 4.0
_ACTIVATIONS_BYTES = 2**24

Row = dict[str, str | float]
"""`name` of what was measured, and numbers."""


def objective_cost(*, units: int, classes: int, teachers: int, repeats: int) -> list[Row]:
    """Labels and soft targets of one batch, forward and backward, by soft loss and by weighting.

    All samples are labelled, and all teachers answer. The first row is the yardstick of `ratio`.

    Args:
        units: rows of the batch.
        classes: of the logits.
        teachers: how many.
        repeats: how often each row is measured.

    Returns:
        rows of `name`, `median_ms`, `min_ms`, `spread_ms`, `ratio` and `percent_of_step`.
    """
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
        total.backward()  # type: ignore[no-untyped-call]

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
    losses = [name for name, info in INFO.items() if info.kind == "logits"]
    cases = [(loss, "uniform") for loss in losses] + [("kl", name) for name in WEIGHTINGS]
    steps = {f"{loss}, {weighting}": whole(loss, weighting) for loss, weighting in cases}
    table = measured({reference: one_teacher, **steps}, repeats)
    unit_ms = float(table[0]["median_ms"])
    for row in table:
        row["ratio"] = float(row["median_ms"]) / unit_ms
        row["percent_of_step"] = 100 * float(row["median_ms"]) / STEP_MS
    return table


def _objective(loss: str, weighting: str, teachers: Sequence[str]) -> DistillObjective:
    knobs: dict[str, Any] = {"type": weighting}
    if weighting == "fixed":
        knobs["weights"] = dict.fromkeys(teachers, 1.0)
    soft = {"loss": {"type": loss}, "temperature": _TEMPERATURE}
    settings = Objective.model_validate({"soft_targets": soft, "weighting": knobs})
    voices = [Voice(name, error=0.5, accuracy=0.8) for name in teachers]
    return DistillObjective(settings, voices, student_shapes={}, teacher_shapes={})


def measured(calls: Mapping[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Milliseconds of each call, measured in turns; a first turn warms up.

    Something as large as a student's activations is allocated and freed before: the allocator then
    keeps freed memory, as it does in training, and does not fetch it page by page at every call.
    """
    torch.zeros(_ACTIVATIONS_BYTES, dtype=torch.uint8)
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            times_ms[name].append(median(_once_ms(call) for _ in range(_CALLS)))
    kept = {name: values[1:] for name, values in times_ms.items()}
    return [
        {"name": name, "median_ms": median(v), "min_ms": min(v), "spread_ms": max(v) - min(v)}
        for name, v in kept.items()
    ]


def _once_ms(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start_s)
