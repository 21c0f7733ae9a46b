"""Trials ready to train: the fit of a proposal, and what its student costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from raykd.config import Config
from raykd.config.roles import Limits
from raykd.errors import InputError, Problem
from raykd.evaluate.costs import costs
from raykd.evaluate.latency import Conditions
from raykd.objective import training_role
from raykd.pipeline.fits import student_fit
from raykd.pipeline.preparation import Prepared, vary
from raykd.pipeline.target_stage import TargetStage
from raykd.search.ledger import BuiltTrial
from raykd.search.space import TRIAL_FIT, Proposal
from raykd.train import Fit
from raykd.train.fit import build_network
from raykd.types import ORIGINAL_VIEW

_LIMITS = "student.limits."
_MEASURED_ROWS = 16
_ONE = (1,)


@dataclass
class TrialBuilder:
    """Makes trials of one prepared recipe; students of the same architecture are measured once.

    Attributes:
        prepared: the recipe, with the data and teachers of all trials.
        targets: of the teachers.
    """

    prepared: Prepared
    targets: TargetStage
    _costs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, proposal: Proposal) -> BuiltTrial:
        """The trial, ready to train.

        Raises:
            InputError: its student or its feature terms cannot be built.
        """
        varied, over = varied_within_limits(self.prepared, proposal.config)
        fit = replace(self.fit(varied), fit_id=f"{TRIAL_FIT}{proposal.name}", stage="search")
        return BuiltTrial(fit, self.cost(varied), [str(problem) for problem in over])

    def fit(self, varied: Prepared, replica: int = 0, name: str | None = None) -> Fit:
        """The fit of one replica of the student."""
        objective, teachers = varied.config.objective, list(varied.teachers)
        known = self.targets.teachers
        role = training_role("student", objective, teachers, known.best_teacher)
        return student_fit(varied, known, role, replica, name=name)

    def cost(self, varied: Prepared) -> Mapping[str, Any]:
        """Parameters, FLOPs, bytes and latency of the student, with fresh weights, on one CPU thread."""
        key = _architecture(varied)
        if key not in self._costs:
            network = build_network(self.fit(varied), varied.samples)
            found, _ = costs({key: network}, self._inputs, batch_sizes=_ONE)
            self._costs[key] = _flat(found[key])
        return self._costs[key]

    def measure_again(
        self, recipes: Mapping[str, Config]
    ) -> tuple[dict[str, float | None], Conditions]:
        """Latency of one sample of each recipe's student, all in turns: what was measured beside training trials is not compared.

        Args:
            recipes: name -> a trial's recipe.

        Returns:
            Name -> milliseconds or None; what else went on meanwhile.
        """
        varied = {
            name: varied_within_limits(self.prepared, one)[0] for name, one in recipes.items()
        }
        keys = {name: _architecture(one) for name, one in varied.items()}
        first = {keys[name]: one for name, one in reversed(varied.items())}
        networks = {key: build_network(self.fit(one), one.samples) for key, one in first.items()}
        found, conditions = costs(networks, self._inputs, batch_sizes=_ONE)
        self._costs |= {key: _flat(cost) for key, cost in found.items()}
        return {name: self._costs[key]["latency_ms"] for name, key in keys.items()}, conditions

    @property
    def _inputs(self) -> Mapping[str, Tensor]:
        samples = self.prepared.samples
        rows = samples.splits["train"][:_MEASURED_ROWS]
        return samples.batch(rows, ORIGINAL_VIEW).inputs


def _architecture(varied: Prepared) -> str:
    """Equal for students that cost the same."""
    model = varied.config.student.model.model_dump(mode="json")
    return json.dumps([model, varied.preprocessing.describe()])


def _flat(cost: Mapping[str, Any]) -> dict[str, Any]:
    """With the latency of one sample alone."""
    return {**cost, "latency_ms": cost["latency_ms"]["1"]}


def varied_within_limits(prepared: Prepared, config: Config) -> tuple[Prepared, list[Problem]]:
    """A trial's recipe on the data and teachers of all, and the limits that its student exceeds.

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
