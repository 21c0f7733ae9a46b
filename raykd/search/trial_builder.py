"""A trial before it runs: its fit, what its student costs, and whether that breaks a limit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raykd.config import Config
from raykd.config.models import Limits
from raykd.errors import InputError, Problem
from raykd.evaluate.costs import cost
from raykd.objective import training_role
from raykd.pipeline.fits import student_fit
from raykd.pipeline.preparation import Prepared, vary
from raykd.pipeline.target_stage import TargetStage
from raykd.search.ledger import BuiltTrial
from raykd.search.space import Proposal
from raykd.search.tracked import PREFIX
from raykd.train import Fit
from raykd.train.fit import build_network
from raykd.types import ORIGINAL_VIEW

_LIMITS = "student.limits."
_COST_ROWS = 16


@dataclass
class TrialBuilder:
    """Makes trials of one prepared recipe; students that are alike are measured once.

    Attributes:
        prepared: the recipe, with the data and teachers of all trials.
        served: what the teachers say.
    """

    prepared: Prepared
    served: TargetStage
    _costs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, proposal: Proposal) -> BuiltTrial:
        """The trial, ready to train.

        Raises:
            InputError: its student or its feature terms cannot be built.
        """
        varied, over = varied_within_limits(self.prepared, proposal.config)
        fit = replace(self.fit(varied), fit_id=f"{PREFIX}{proposal.name}", stage="search")
        return BuiltTrial(fit, self.cost(varied), [str(problem) for problem in over])

    def fit(self, varied: Prepared, replica: int = 0, name: str | None = None) -> Fit:
        """One replica of the student that a recipe makes."""
        objective, teachers = varied.config.objective, list(varied.teachers)
        known = self.served.teachers
        taught = training_role("student", objective, teachers, known.best_teacher)
        return student_fit(varied, known, taught, replica, name=name)

    def cost(self, varied: Prepared) -> Mapping[str, Any]:
        """Parameters, FLOPs, bytes and latency of the student, with fresh weights, on one CPU thread."""
        student = varied.config.student
        alike = json.dumps([student.model.model_dump(mode="json"), varied.preprocessing.describe()])
        if alike not in self._costs:
            samples = varied.samples
            rows = samples.splits["train"][:_COST_ROWS]
            inputs = samples.batch(rows, ORIGINAL_VIEW).inputs
            network = build_network(self.fit(varied), samples)
            found = cost(network, inputs, batch_sizes=(1,))
            self._costs[alike] = {**found, "latency_ms": found["latency_ms"]["1"]}
        return self._costs[alike]


def varied_within_limits(prepared: Prepared, config: Config) -> tuple[Prepared, list[Problem]]:
    """The recipe of a trial on the data and teachers of all, and the limits that its student breaks.

    Raises:
        InputError: anything else is wrong with it.
    """
    try:
        return vary(prepared, config), []
    except InputError as error:
        if not all(problem.key.startswith(_LIMITS) for problem in error.problems):
            raise
        free = config.student.model_copy(update={"limits": Limits()})
        return vary(prepared, config.model_copy(update={"student": free})), list(error.problems)
