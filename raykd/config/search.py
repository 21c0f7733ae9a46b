"""`search:`: what `raykd sweep` varies, how it judges a trial, when it stops, and what it retrains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import Count, Json, Positive, Real, Replicas, Settings, Whole

HIGHER_IS_BETTER = frozenset({"accuracy"})
"""Of the metrics that a search can take; of all others less is better."""

COSTS = ("parameters", "flops", "latency_ms")
"""What a student costs, known before it is trained; less is better."""


class Choice(Settings):
    """One of several values."""

    space: Literal["choice"] = "choice"
    """Kind of space."""
    categories: Annotated[tuple[Json, ...], Field(min_length=1)]
    """The values, each as it would stand in the recipe."""


class Grid(Settings):
    """One of several numbers at even distances."""

    space: Literal["grid"] = "grid"
    """Kind of space."""
    lower: Real
    """The first."""
    upper: Real
    """The last."""
    points: Annotated[Count, Field(ge=2, le=1000)]
    """How many there are, both ends counted."""
    log: bool = False
    """Even ratios instead of even differences."""


class Uniform(Settings):
    """A number, every one as likely."""

    space: Literal["uniform"] = "uniform"
    """Kind of space."""
    lower: Real
    """Least value."""
    upper: Real
    """Largest value."""


class LogUniform(Settings):
    """A positive number, every order of magnitude as likely."""

    space: Literal["loguniform"] = "loguniform"
    """Kind of space."""
    lower: Real
    """Least value."""
    upper: Real
    """Largest value."""


class QUniform(Settings):
    """`lower` and a whole number of steps: every one as likely."""

    space: Literal["quniform"] = "quniform"
    """Kind of space."""
    lower: Real
    """Least value."""
    upper: Real
    """Largest value."""
    step: Positive
    """Distance between two values."""


class RandInt(Settings):
    """A whole number, both bounds among them."""

    space: Literal["randint"] = "randint"
    """Kind of space."""
    lower: Whole
    """Least value."""
    upper: Whole
    """Largest value."""


Space = Annotated[
    Choice | Grid | Uniform | LogUniform | QUniform | RandInt, Field(discriminator="space")
]


class Asha(Settings):
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best part goes on."""

    type: Literal["asha"] = "asha"
    grace_epochs: Count = 5
    """The first rung, in epochs; each further one is `reduction` times later."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One trial in so many goes on from a rung."""


class MedianRule(Settings):
    """Stop a trial whose best is below the median of the others' means so far (Golovin et al. 2017)."""

    type: Literal["median"] = "median"
    grace_epochs: Count = 5
    """Epochs before a trial may be stopped."""
    least_trials: Annotated[int, Field(ge=2)] = 3
    """Others that must have come as far."""


class NoScheduler(Settings):
    """Every trial trains to its end."""

    type: Literal["none"] = "none"


class RandomSearcher(Settings):
    """Independent draws from the recipe's seed; no configuration twice."""

    type: Literal["random"] = "random"


class GridSearcher(Settings):
    """Every combination of the values of `choice`, `grid`, `quniform` and `randint`."""

    type: Literal["grid"] = "grid"


class OptunaSearcher(Settings):
    """Draws that learn from the trials before (Akiba et al. 2019); needs the extra `optuna`."""

    type: Literal["optuna"] = "optuna"
    startup_trials: Count = 8
    """Random draws before the model of good values is used."""


Scheduler = Annotated[Asha | MedianRule | NoScheduler, Field(discriminator="type")]
Searcher = Annotated[RandomSearcher | GridSearcher | OptunaSearcher, Field(discriminator="type")]


class Stop(Settings):
    """When to end a trial, or the search, besides the scheduler."""

    patience_epochs: Count | None = None
    """End a trial that was not better for so many epochs in the metric, of several the first."""
    time_s: Positive | None = None
    """End all trials after so many seconds, counted from the first of this start."""
    target: Real | None = None
    """End all trials once one has reached this value of the metric, of several the first."""


class Finalists(Settings):
    """The best trials, trained again over paired replicas beside the recipe itself, and tested once."""

    top: Count = 3
    """How many of the best trials on validation."""
    seeds: Annotated[Replicas, Field(ge=2)] = 5
    """Paired replicas of each."""


class Search(Settings):
    """What `raykd sweep` does; every other command leaves it aside."""

    parameters: Annotated[dict[str, Space], Field(min_length=1)]
    """Dotted key under objective, peers, student or train -> values to try."""
    metric: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Validation metric to judge by; null = the task's own. Never the objective, whose scale changes. Several,
    as in `[accuracy, parameters]`, are weighed by their common Pareto front: the first is a metric of the task
    and ranks the trials on the front, the others are metrics or costs (parameters, flops, latency_ms)."""
    mode: Literal["max", "min"] | None = None
    """What is better; follows from the metric, of which there must be one."""
    trials: Count | None = None
    """How many configurations; null = 20, with the grid searcher all."""
    max_concurrent: Count | None = None
    """Trials at the same time; null = as many as the cluster has CPUs and GPUs for."""
    scheduler: Scheduler = Asha()
    """Which trials are stopped early; with several metrics none, since it would judge by the first alone."""
    searcher: Searcher = RandomSearcher()
    """Which configurations are tried."""
    stop: Stop = Stop()
    """Further ends."""
    finalists: Finalists | None = Finalists()
    """What is trained again and tested; null = nothing, and test stays unseen."""

    def judged_by(self, own: str) -> tuple[str, ...]:
        """The metrics, the one that ranks first; `own` is the task's."""
        if self.metric is None:
            return (own,)
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def count(self) -> int:
        """Trials of a searcher that draws."""
        return 20 if self.trials is None else self.trials
