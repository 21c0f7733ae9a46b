"""Which trials to stop early: pure rules over what trials have reported; none touches a cluster.

A merit is a metric turned so that more is better. Epochs count from 1. What a rule has heard can be told
to it again in any order, so that a resumed search judges by the trials before it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from raykd.config.search import Asha, MedianRule, Scheduler


class Pruner(Protocol):
    """Says after each epoch of a trial whether it goes on."""

    def stops(self, trial: str, epoch: int, merit: float) -> bool:
        """Take a trial's epoch into account; whether the trial ends here."""
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
    _merits: dict[int, dict[str, float]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, merit: float) -> bool:
        """Whether the trial is below the cut of the rung that it has just reached."""
        if not self._is_rung(epoch):
            return False
        others = {name: m for name, m in self._merits.get(epoch, {}).items() if name != trial}
        self._merits[epoch] = {**others, trial: merit}
        if not others:
            return False
        cut = float(np.quantile(list(others.values()), 1 - 1 / self.reduction))
        return merit < cut

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
    _merits: dict[str, dict[int, float]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, merit: float) -> bool:
        """Whether the trial's best so far is below the median."""
        own = self._merits.setdefault(trial, {})
        own[epoch] = merit
        if epoch < self.grace_epochs:
            return False
        means = []
        for name, merits in self._merits.items():
            if name != trial and max(merits) >= epoch:
                means.append(float(np.mean([m for e, m in merits.items() if e <= epoch])))
        return len(means) >= self.least_trials and max(own.values()) < float(np.median(means))


@dataclass
class Patience:
    """Stop a trial that was not better for so many epochs."""

    epochs: int
    _best: dict[str, tuple[float, int]] = field(default_factory=dict)

    def stops(self, trial: str, epoch: int, merit: float) -> bool:
        """Whether its best epoch is that long ago."""
        best, at = self._best.get(trial, (-math.inf, epoch))
        if merit > best:
            best, at = merit, epoch
        self._best[trial] = best, at
        return epoch - at >= self.epochs


def pruners_for(scheduler: Scheduler, patience_epochs: int | None) -> dict[str, Pruner]:
    """What a search stops trials by: name -> rule."""
    found: dict[str, Pruner] = {}
    if isinstance(scheduler, Asha):
        found["asha"] = SuccessiveHalving(scheduler.grace_epochs, scheduler.reduction)
    elif isinstance(scheduler, MedianRule):
        found["median"] = MedianStopping(scheduler.grace_epochs, scheduler.least_trials)
    if patience_epochs is not None:
        found["patience"] = Patience(patience_epochs)
    return found
