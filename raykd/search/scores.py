"""What a trial is worth in each metric of a search, and which trials no other one beats; pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raykd.config.search import COSTS
from raykd.evaluate import TaskMetrics

Scores = tuple[float, ...]
"""A number for each metric, of which more is better."""


def costs_of(cost: Mapping[str, Any]) -> dict[str, float | None]:
    """What is held against each other; the latency, which is measured, to two digits, lest noise decide."""
    found = {axis: cost.get(axis) for axis in COSTS}
    if (latency := found["latency_ms"]) is not None:
        found["latency_ms"] = float(f"{latency:.2g}")
    return found


def scores_of(
    record: Mapping[str, Any], metrics: Sequence[str], task: TaskMetrics
) -> Scores | None:
    """A trial's metrics; None where it has no numbers.

    Args:
        record: its result.
        metrics: of the task or of `COSTS`.
        task: knows of which of its metrics less is better.
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
        points: name -> numbers of which more is better, as many for each.
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
