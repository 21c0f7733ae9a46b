"""What is told of an epoch, from what its steps have added up: means over steps and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raykd.objective import DistillObjective, ensemble_values
from raykd.objective.peers import agreement_values
from raykd.targets import TargetSource
from raykd.targets.source import Measured
from raykd.train.epoch_accumulator import EpochAccumulator
from raykd.train.world import World

_TINY_S = 1e-9


def epoch_values(
    sums: EpochAccumulator,
    objective: DistillObjective,
    classes: Sequence[str],
    source: TargetSource,
    world: World,
    elsewhere_s: float = 0.0,
) -> dict[str, Any]:
    """Loss, terms, how the teachers were weighed, how alike peers are, and speed; every worker takes part.

    Args:
        sums: of this worker.
        objective: of the student.
        classes: names of the data's classes.
        source: where the teachers' answers come from.
        world: this worker and the others.
        elsewhere_s: how long this process has trained other fits within the epoch.
    """
    names, seconds = sorted(sums.terms), max(sums.seconds, _TINY_S)
    whole_s = max(sums.seconds + elsewhere_s, _TINY_S)
    means = torch.stack([sums.loss, *(sums.terms[name] for name in names)]) / sums.steps
    loss, *terms = world.all_sum(means).tolist()
    counts = torch.tensor([float(sums.samples)], device=world.device)
    count = float(world.all_sum(counts))
    teachers = [teacher.name for teacher in objective.teacher_infos]
    found: dict[str, Any] = {
        "train_loss": loss,
        "terms": dict(zip(names, terms, strict=True)),
        "samples_per_s": count / seconds,
        "teacher_wait_fraction": sums.wait_s / whole_s,
        "input_wait_fraction": sums.input_wait_s / whole_s,
    }
    if sums.ensemble is not None:
        found |= ensemble_values(world.all_sum(sums.ensemble), teachers)
    measures = objective.rule.measures
    if measures is not None and sums.measured is not None:
        found |= measures.values(world.all_sum(sums.measured).cpu(), teachers, classes)
    if sums.peers is not None:
        found["peers"] = agreement_values(world.all_sum(sums.peers))
    return found | _of_live(source, sums, world, whole_s)


def _of_live(
    source: TargetSource, sums: EpochAccumulator, world: World, seconds: float
) -> dict[str, Any]:
    """How busy live teachers were, and the student (with those trained with it) beside them."""
    if not isinstance(source, Measured):
        return {}
    counters = torch.tensor(source.counters(), device=world.device)
    total = world.all_sum(counters).tolist()
    own_s = (seconds - sums.wait_s) / sums.steps
    return {"student_s_per_step": own_s, **source.describe(total, seconds)}
