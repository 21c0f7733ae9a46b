"""Models that the student is held against: built before anything starts, asked when all else is done."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.evaluate.costs import one_thread
from raykd.pipeline.candidates import resolve_teacher
from raykd.pipeline.preparation import Prepared, collect
from raykd.pipeline.serving import Specs, make_specs
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers import Recorded, Spec
from raykd.teachers.model import host
from raykd.types import ORIGINAL_VIEW


def with_external_baselines(prepared: Prepared) -> Prepared:
    """The recipe with the models of `evaluate.compare`, each built once and tried.

    Raises:
        InputError: with the problems of all of them.
    """
    problems: list[Problem] = []
    external_baselines = {}
    for one in prepared.config.evaluate.compare:
        make = partial(
            resolve_teacher,
            prepared.config,
            one.as_teacher(),
            prepared.samples,
            (),
            key=f"evaluate.compare.{one.name}",
        )
        external_baselines[one.name] = collect(problems, make)
    if problems:
        raise InputError(problems)
    return replace(prepared, external_baselines=external_baselines)


def external_baseline_specs(prepared: Prepared) -> Specs:
    """What it takes to ask each of them."""
    weights = {name: one.weights or {} for name, one in prepared.external_baselines.items()}
    return make_specs(replace(prepared, teachers=prepared.external_baselines), weights)


def external_baseline_answers(spec: Spec | Recorded, samples: Samples, rows: np.ndarray) -> Tensor:
    """What a model says of untransformed samples [N, C], as evaluation keeps it."""
    with one_thread():  # another runtime takes its threads when it is opened
        scorer = host(spec)
    arrays = scorer.score(samples, rows, np.full(len(rows), ORIGINAL_VIEW))
    return find_task(samples.task).metrics.answer(decode(arrays).values_NC)
