"""What a trial is worth, which trials no other one beats, and which are stopped early; nothing here touches a cluster.

A score is a metric turned so that more is better. Epochs count from 1. Epochs can be replayed to a pruner in
any order, so that a resumed search also compares with the trials of its earlier starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raykd.config.search import COSTS, Asha, MedianRule, Scheduler
from raykd.evaluate import TaskMetrics

Scores = tuple[float, ...]
"""A number for each metric; more is better."""


def costs_of(cost: Mapping[str, Any]) -> dict[str, float | None]:
    """The costs that are compared; the latency, which is measured, in two digits so that noise does not decide."""
    found = {axis: cost.get(axis) for axis in COSTS}
    if (latency := found["latency_ms"]) is not None:
        found["latency_ms"] = float(f"{latency:.2g}")
    return found


def scores_of(
    record: Mapping[str, Any], metrics: Sequence[str], task: TaskMetrics
) -> Scores | None:
    """A trial's score in each metric; None where it has no numbers.

    Args:
        record: its result.
        metrics: of the task or of `COSTS`.
        task: knows for which of its metrics less is better.
    """
    if record["validation"] is None:
        return None
    cost = costs_of(record["cost"])
    found = []
    for metric in metrics:
        if metric in COSTS:
            price = cost[metric]
            found.append(-math.inf if price is None else -float(price))
        else:
            found.append(task.merit(record["validation"][metric], metric))
    return tuple(found)


def pareto_front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of the points that no other one equals or beats in everything; of equal ones the first.

    Args:
        points: name -> scores, the same number for each.
    """
    found: list[str] = []
    for name, own in points.items():
        beaten = any(
            all(a >= b for a, b in zip(others, own, strict=True))
            and (tuple(others) != tuple(own) or other in found)
            for other, others in points.items()
            if other != name
        )
        if not beaten:
            found.append(name)
    return found


def cost_fronts(
    scores: Mapping[str, float], costs: Mapping[str, Mapping[str, float | None]]
) -> dict[str, list[str]]:
    """For each cost the points that no other one beats in score and cost, cheapest first.

    Args:
        scores: name -> score.
        costs: name -> its costs, as of `costs_of`; a point of unknown cost is not on that front.

    Returns:
        Cost -> names. Of points that are equal in both only the first is listed.
    """
    fronts = {}
    for axis in COSTS:
        points = {}
        for name, score in scores.items():
            cost = costs[name].get(axis)
            if cost is not None and math.isfinite(score):
                points[name] = (-cost, score)
        fronts[axis] = sorted(pareto_front(points), key=lambda name: -points[name][0])
    return fronts


class Pruner(Protocol):
    """Decides after each epoch of a trial whether the trial goes on."""

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Take an epoch of a trial into account; whether the trial ends here."""
        ...


@dataclass
class SuccessiveHalving:
    """Asynchronous successive halving, the stopping variant.

    At epochs grace * reduction^k a trial goes on if it is among the best 1/reduction of those that came
    there before it (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", Algorithm 2,
    as Ray Tune has it: a trial is judged once, when it arrives).
    """

    grace_epochs: int
    reduction: int
    _scores: dict[int, dict[str, float]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Whether the trial is below the cut of the rung that it has just reached."""
        if not self._is_rung(epoch):
            return False
        others = {name: s for name, s in self._scores.get(epoch, {}).items() if name != trial}
        self._scores[epoch] = {**others, trial: score}
        if not others:
            return False
        cut = float(np.quantile(list(others.values()), 1 - 1 / self.reduction))
        return score < cut

    def _is_rung(self, epoch: int) -> bool:
        rung = self.grace_epochs
        while rung < epoch:
            rung *= self.reduction
        return rung == epoch


@dataclass
class MedianStopping:
    """Stop where a trial's best is below the median of the others' running means.

    Golovin et al. 2017, "Google Vizier", section 3.2.2.
    """

    grace_epochs: int
    least_trials: int
    _scores: dict[str, dict[int, float]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Whether the trial's best so far is below the median."""
        own = self._scores.setdefault(trial, {})
        own[epoch] = score
        if epoch < self.grace_epochs:
            return False
        means = []
        for name, scores in self._scores.items():
            if name != trial and max(scores) >= epoch:
                means.append(float(np.mean([s for e, s in scores.items() if e <= epoch])))
        return len(means) >= self.least_trials and max(own.values()) < float(np.median(means))


@dataclass
class Patience:
    """Stop a trial that has not improved for this many epochs."""

    epochs: int
    _best: dict[str, tuple[float, int]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, score: float) -> bool:
        """Whether the trial's best epoch was that long ago."""
        best, at = self._best.get(trial, (-math.inf, epoch))
        if score > best:
            best, at = score, epoch
        self._best[trial] = best, at
        return epoch - at >= self.epochs


def pruners_for(scheduler: Scheduler, patience_epochs: int | None) -> dict[str, Pruner]:
    """The rules by which a search stops trials, by name."""
    found: dict[str, Pruner] = {}
    if isinstance(scheduler, Asha):
        found["asha"] = SuccessiveHalving(scheduler.grace_epochs, scheduler.reduction)
    elif isinstance(scheduler, MedianRule):
        found["median"] = MedianStopping(scheduler.grace_epochs, scheduler.least_trials)
    if patience_epochs is not None:
        found["patience"] = Patience(patience_epochs)
    return found
