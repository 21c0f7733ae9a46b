"""The finalists: the best trials and the recipe itself over paired replicas, tested once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from raykd.config import Config
from raykd.disks import copy_folder
from raykd.evaluate import Evaluation
from raykd.evaluate.comparison import compare
from raykd.evaluate.statistics import holm, paired_t_pvalue
from raykd.evaluate.summary import json_safe, replica_gain
from raykd.pipeline.job import Job
from raykd.pipeline.preparation import vary
from raykd.pipeline.target_stage import TargetStage
from raykd.search.builder import TrialBuilder
from raykd.search.ledger import Ledger
from raykd.search.space import CHECKPOINT, FINALIST, plain_recipe
from raykd.tasks import find_task

DEFAULT = "default"


@dataclass(frozen=True)
class FinalResult:
    """The result of the finals.

    Attributes:
        numbers: those of `raykd.evaluate.comparison` with the recipe itself as the reference, and `pairs` and
            `lead` (see `lead_of`).
        best: the trial that is best on validation by more than noise; None = the recipe itself.
    """

    numbers: Mapping[str, Any]
    best: str | None


def run_finals(
    job: Job,
    targets: TargetStage,
    builder: TrialBuilder,
    ledger: Ledger,
    recipes: Mapping[str, Config],
) -> FinalResult:
    """Train the finalists and the recipe itself, score them on validation and test, and compare them.

    Args:
        job: the sweep.
        targets: of the teachers.
        builder: makes the fits.
        ledger: the trials; each is already replica 0 of its recipe.
        recipes: trial -> its recipe, best first.
    """
    search = job.config.search
    assert search is not None, "only for recipes with a search"
    assert search.finalists is not None, "only for a search with finalists"
    replicas = search.finalists.seeds
    configs = {DEFAULT: plain_recipe(job.config)}
    configs |= {f"{FINALIST}{name}": config for name, config in recipes.items()}
    students = {
        name: vary(job.prepared, config.model_copy(update={"seeds": replicas}))
        for name, config in configs.items()
    }
    for name in recipes:
        _reuse_trial(job, ledger, name)
    fits = [
        builder.fit(varied, replica, name)
        for replica in range(replicas)
        for name, varied in students.items()
    ]
    trained = job.train(fits, targets)
    evaluation = job.evaluate(targets, students)
    seconds = {
        name: [float(trained[f"{name}/replica{r}"]["seconds"]) for r in range(replicas)]
        for name in students
    }
    numbers = compare(evaluation, DEFAULT, seconds)
    numbers["ranking"] = _ranking(numbers["methods"], job.config, ledger.metric)
    numbers["pairs"] = _pairs(evaluation, numbers["ranking"])
    numbers["lead"] = lead_of(numbers["ranking"], numbers["methods"], job.config, ledger.metric)
    lead = numbers["lead"]
    beyond_noise = lead is not None and lead["mean"] > lead["standard_error"]
    return FinalResult(numbers, lead["trial"] if beyond_noise else None)


def lead_of(
    ranking: Sequence[str], methods: Mapping[str, Any], config: Config, metric: str
) -> dict[str, Any] | None:
    """How far the first of the ranking is ahead of the recipe itself on validation; None if the recipe is first.

    A lead of at most one standard error is not distinguishable from none, so the recipe stays as it was (the
    one-standard-error rule, Breiman et al. 1984, section 3.4.3, on paired differences).

    Args:
        ranking: names of the finalists, best on validation first.
        methods: name -> its numbers, each over the same replicas.
        config: the recipe.
        metric: of the search.

    Returns:
        `trial`, and `mean` and `standard_error` of the paired differences over replicas, in units of the
        metric, positive = better.
    """
    first = ranking[0]
    if first == DEFAULT:
        return None
    task = find_task(config.task).metrics
    own, reference = (
        [task.merit(value, metric) for value in methods[name]["validation"][metric]["values"]]
        for name in (first, DEFAULT)
    )
    ahead = [a - b for a, b in zip(own, reference, strict=True)]
    return {
        "trial": first.removeprefix(FINALIST),
        "mean": fmean(ahead),
        "standard_error": stdev(ahead) / math.sqrt(len(ahead)),
    }


def _reuse_trial(job: Job, ledger: Ledger, name: str) -> None:
    """A trial that was trained to its end is replica 0 of its recipe: the same fit, so the same weights."""
    replica = job.folder.checkpoints(f"{FINALIST}{name}/replica0")
    if ledger.records[name]["state"] == "finished" and not replica.exists():
        copy_folder(ledger.folder / name / CHECKPOINT, replica)


def _ranking(methods: Mapping[str, Any], config: Config, metric: str) -> list[str]:
    """Best validation mean first, by the search's metric and then by the task's other one; never by test."""
    task = find_task(config.task).metrics

    def rank(name: str) -> tuple[float, float]:
        numbers = methods[name]["validation"]
        return task.rank({key: spread["mean"] for key, spread in numbers.items()}, metric)

    return sorted(methods, key=rank, reverse=True)


def _pairs(evaluation: Evaluation, ranking: list[str]) -> list[dict[str, Any]]:
    """Paired differences on test of every two finalists, the better on validation first; p-values by Holm."""
    found: list[dict[str, Any]] = []
    for better, worse in combinations(ranking, 2):
        gain = replica_gain(evaluation, "test", better, worse)
        if gain is not None:
            found.append({"better": better, "worse": worse, "gain": gain})
    p_values = [paired_t_pvalue(pair["gain"]["values"]) for pair in found]
    known = [p for p in p_values if p is not None]  # all or none: all have the same replicas
    for pair, p, corrected in zip(found, known, holm(known), strict=True):
        pair.update(p=p, p_holm=corrected)
    clean: list[dict[str, Any]] = json_safe(found)
    return clean
