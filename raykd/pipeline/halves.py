"""The halves of validation: one fits temperatures, the other chooses epochs and targets; what is done where they are small."""

from __future__ import annotations

import torch

from raykd.config import Config
from raykd.config.training import LEAST_IN_A_HALF, ChoosingSamples
from raykd.data import Samples
from raykd.ensemble import calibration_half
from raykd.errors import Problem
from raykd.tasks import find_task

_LEAST_CHOOSING = 10
"""Labelled samples without which half of validation cannot tell targets apart."""


def validation_halves(samples: Samples) -> tuple[int, int]:
    """Labelled samples in the half of validation that fits temperatures, and in the half that chooses."""
    rows = samples.labelled_rows("validation")
    half_N = calibration_half(torch.from_numpy(samples.ids[rows].copy()))
    return int(half_N.sum()), int((~half_N).sum())


def choosing_samples(config: Config, samples: Samples) -> ChoosingSamples:
    """Which samples of validation choose the best epoch, where the recipe leaves it to the data."""
    if find_task(config.task).metrics.calibrate is None:
        return "all"
    return "half" if min(validation_halves(samples)) >= LEAST_IN_A_HALF else "all"


def choosing_in_words(config: Config, samples: Samples) -> str:
    """How many samples of validation choose the best epoch of the student, and what the others do."""
    fitting, choosing = validation_halves(samples)
    if config.train.select_on == "half":
        return (
            f"{choosing:,} labelled samples of validation; the other {fitting:,} fit temperatures"
        )
    return f"all {fitting + choosing:,} labelled samples of validation"


def not_halved(config: Config, samples: Samples) -> list[str]:
    """That the same samples choose the best epoch and are calibrated on, where there are too few for both."""
    found = validation_halves(samples)
    if (
        find_task(config.task).metrics.calibrate is None
        or config.train.select_on != "all"
        or not sum(found)
        or min(found) >= LEAST_IN_A_HALF
    ):
        return []
    return [
        f"the halves of validation hold {found[0]} and {found[1]} labelled samples: with fewer than {LEAST_IN_A_HALF} in either, "
        "all of them choose the best epoch, also those that fit temperatures"
    ]


def epoch_problems(config: Config, samples: Samples) -> list[Problem]:
    """What is wrong with half of validation choosing the best epoch: the task has no temperature, or it has no sample."""
    fits = {f"teachers.{one.name}.fit": one.fit for one in config.teachers}
    asking = [
        key
        for key, fit in {**fits, "train": config.train}.items()
        if fit and fit.select_on == "half"
    ]
    if not asking:
        return []
    if find_task(config.task).metrics.calibrate is None:
        why = f"found half, but `task: {config.task}` fits no temperatures, for which the other half would be; write all"
        return [Problem(f"{key}.select_on", why) for key in asking]
    if validation_halves(samples)[1]:
        return []
    why = (
        "found half, but no labelled sample of validation is in the half that chooses; write all, or raise "
        "data.splits.validation"
    )
    return [Problem(f"{key}.select_on", why) for key in asking]


def choice_problems(config: Config, samples: Samples) -> list[Problem]:
    """Whether validation can choose what `objective.choose` leaves to it."""
    if config.objective.choose is None:
        return []
    parts = validation_halves(samples)
    if min(parts) >= _LEAST_CHOOSING:
        return []
    return [
        Problem(
            "objective.choose",
            f"found {parts[0]} and {parts[1]} labelled samples in the halves of validation that fit temperatures and "
            f"choose, at least {_LEAST_CHOOSING} in each are needed; raise data.splits.validation, or leave it out",
        )
    ]
