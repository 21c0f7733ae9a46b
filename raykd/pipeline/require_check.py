"""What a run's summary will hold, known before it starts: one made of empty answers of two samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raykd.evaluate import Evaluation, check_requirements, summarise
from raykd.evaluate.folds import over_folds
from raykd.evaluate.outputs import Split, SplitOutputs
from raykd.pipeline.evaluation import labels_used
from raykd.pipeline.fits import roles
from raykd.pipeline.preparation import Prepared, student_outputs
from raykd.tasks import find_task
from raykd.types import is_labelled

STAGES = ("teachers", "targets", "student", "evaluate", "report")
_TARGETS = (
    "teacher_samples_scored",
    "retries",
    "store_bytes",
    "hit_rate",
    "teacher_wait_fraction",
)


def no_time() -> dict[str, float]:
    """Seconds by stage, before any has run; a stage that has nothing to do takes none."""
    return {f"{stage}_s": 0.0 for stage in STAGES}


def check_required(prepared: Prepared) -> None:
    """Hold every `evaluate.require` against the summary that this run will have.

    Raises:
        InputError: a condition is malformed or names what the summary will not have; all of them.
    """
    if required := prepared.config.evaluate.require:
        check_requirements(empty_summary(prepared), required)


def check_required_folds(prepared: Prepared, folds: int, required: Sequence[str]) -> None:
    """Hold the requirements of a cross-validation against the summary that it will have.

    Args:
        prepared: its first fold.
        folds: how many there are.
        required: `evaluate.require`.

    Raises:
        InputError: as of `rehearse`.
    """
    if required:
        sizes = {name: len(rows) for name, rows in prepared.samples.splits.items()}
        check_requirements(over_folds([empty_summary(prepared)] * folds, [sizes] * folds), required)


def empty_summary(prepared: Prepared) -> dict[str, Any]:
    """A summary of empty answers."""
    names: tuple[Split, Split] = ("validation", "test")
    evaluation = Evaluation(
        splits={name: _silent(prepared, name) for name in names}, task=prepared.samples.task
    )
    costs = {
        name: {"parameters": 1, "flops": 1, "bytes": 1, "latency_ms": {"1": 1.0, "256": 1.0}}
        for name in ("student", *prepared.teachers, *prepared.external_baselines)
    }
    return summarise(
        evaluation,
        costs,
        task=prepared.config.task,
        status="complete",
        labels_used=labels_used(prepared),
        test_scored_times=1,
        timing={**no_time(), "total_s": 0.0},
        targets={"mode": "stored", **dict.fromkeys(_TARGETS, 0)},
    )


def _silent(prepared: Prepared, split: Split) -> SplitOutputs:
    """Answers of all models to two samples of a split, labelled ones if there are any."""
    samples = prepared.samples
    rows = samples.splits[split]
    known = is_labelled(torch.from_numpy(samples.labels[rows])).numpy()
    rows = rows[known][:2] if known.any() else rows[:2]
    if samples.task == "embedding":  # of one class, so that there is something to find
        rows = np.repeat(rows[:1], 2)
    zeros_NC = torch.zeros(len(rows), student_outputs(prepared.config, samples))
    answers_NC = find_task(samples.task).metrics.answer(zeros_NC)
    replicas = prepared.config.seeds
    students = {role: answers_NC.repeat(replicas, 1, 1) for role in roles(prepared.config)}
    return SplitOutputs(
        labels_N=torch.from_numpy(samples.labels[rows].copy()),
        ids_N=torch.from_numpy(samples.ids[rows].copy()),
        teachers=dict.fromkeys(prepared.teachers, answers_NC),
        ensemble=answers_NC,
        students=students,
        students_last=students,
        rivals=dict.fromkeys(prepared.external_baselines, answers_NC),
        task=samples.task,
    )
