"""Optuna shell: draws that learn from the trials before. Only this module imports the extra `optuna`."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raykd.config.check_search import override, values_of
from raykd.config.search import Choice, LogUniform, OptunaSearcher, RandInt, Search, Space, Uniform
from raykd.search.scores import Scores
from raykd.search.space import Values
from raykd.seeding import derive


class OptunaSampler:
    """Tree-structured Parzen estimators over the trials so far, those of an earlier start included.

    With several metrics they learn what leads to the Pareto front (Ozaki et al. 2022). Of a finite set of
    values, whatever they are, Optuna sees the index.
    """

    def __init__(self, search: Search, searcher: OptunaSearcher, seed: int) -> None:
        metrics = len(search.metric) if isinstance(search.metric, tuple) else 1
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spaces = search.parameters
        self._kinds = {key: _distribution(space) for key, space in search.parameters.items()}
        self._seed, self._startup = seed, searcher.startup_trials
        self._study = optuna.create_study(
            directions=["maximize"] * metrics, sampler=self._sampler(0)
        )
        self._open: dict[int, optuna.trial.Trial] = {}

    def ask(self, index: int) -> Values:
        """What the model proposes; each trial has its own seed, so that a resumed search draws new values."""
        self._study.sampler = self._sampler(index)
        trial = self._open[index] = self._study.ask(self._kinds)
        return {key: _value(self._spaces[key], drawn) for key, drawn in trial.params.items()}

    def tell(self, index: int, values: Values, scores: Scores | None) -> None:
        """Add an outcome to the model."""
        state = optuna.trial.TrialState.FAIL if scores is None else optuna.trial.TrialState.COMPLETE
        if (trial := self._open.pop(index, None)) is not None:
            self._study.tell(trial, scores, state=state)
            return
        params = {key: _drawn(self._spaces[key], value) for key, value in values.items()}
        past = optuna.trial.create_trial(
            params=params, distributions=self._kinds, values=scores, state=state
        )
        self._study.add_trial(past)

    def _sampler(self, index: int) -> optuna.samplers.BaseSampler:
        seed = derive(self._seed, "optuna", index) % 2**32
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self._startup, constant_liar=True
        )


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Uniform | LogUniform):
        return FloatDistribution(space.lower, space.upper, log=isinstance(space, LogUniform))
    if isinstance(space, RandInt):
        return IntDistribution(space.lower, space.upper)
    values = values_of(space)
    assert values is not None, "all other spaces are finite"
    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(values)))
    return IntDistribution(0, len(values) - 1)


def _value(space: Space, drawn: Any) -> Any:
    """The recipe's value for what Optuna drew."""
    values = values_of(space)
    return drawn if values is None or isinstance(space, RandInt) else values[drawn]


def _drawn(space: Space, value: Any) -> Any:
    """What Optuna would have drawn for a value of the recipe."""
    values = values_of(space)
    if values is None or isinstance(space, RandInt):
        return value
    texts = [override("x", one) for one in values]
    return texts.index(override("x", value))
