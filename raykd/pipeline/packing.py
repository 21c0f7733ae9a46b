"""What is kept of each teacher's answers, and at which temperature a student reads them."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.config import Config
from raykd.config.check_objective import needed_temperatures, top_k_problems
from raykd.config.models import Teacher
from raykd.config.objective import Objective, values_of
from raykd.data import Samples
from raykd.errors import Problem
from raykd.targets.packing import PLAIN, Packing
from raykd.tasks import find_task
from raykd.train import Fit


def keeps_largest(config: Config, samples: Samples) -> bool:
    """Whether only the largest logits of a training view are kept."""
    classes, targets = samples.class_count, config.targets
    logits = find_task(samples.task).metrics.kind == "logits"
    return logits and classes > max(targets.full_up_to, targets.top_k)


def packing_problems(recipes: Sequence[Config], samples: Samples) -> list[Problem]:
    """What the recipes cannot learn from that which is kept."""
    return [
        problem
        for config in recipes
        if keeps_largest(config, samples)
        for problem in top_k_problems(config, samples.class_count)
    ]


def packing_of(
    config: Config,
    objectives: Sequence[Objective],
    teacher: Teacher,
    taps: Sequence[str],
    samples: Samples,
) -> Packing:
    """What is kept of one teacher's answers.

    Args:
        config: the recipe, without `packing_problems`.
        objectives: its objective, and those of its variants.
        teacher: the teacher.
        taps: its features that are wanted.
        samples: the data.
    """
    targets = config.targets
    features = targets.features if taps else PLAIN.features
    if not keeps_largest(config, samples):
        return Packing(features=features)
    listed = targets.temperatures
    if listed is None:
        listed = tuple(needed_temperatures(config, objectives, teacher))
    return Packing(targets.top_k, tuple(sorted({1.0, *listed})), features)


def known_by(fingerprint: str, packing: Packing) -> str:
    """What a student knows a teacher by: another packing of its answers makes another student."""
    if packing == PLAIN:
        return fingerprint
    return f"{fingerprint}-{packing.of_classes}-{packing.of_features}"


def reading_temperatures(fit: Fit) -> dict[str, float]:
    """Teacher -> temperature at which the student of a fit hears it; to begin with, where that changes."""
    soft = fit.objective.soft_targets
    temperature = 1.0 if soft is None else values_of(soft.temperature)[0]
    return {teacher.name: temperature * teacher.temperature for teacher in fit.teacher_infos}
