"""What the models of a run cost, in its summary: their own numbers, the ensemble's, and ratios to the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.evaluate.latency import overhead_ms

COSTS = ("parameters", "flops", "bytes", "latency_ms", "overhead_ms")
"""What is known of each model; `overhead_ms` is of one call."""
_COUNTS = COSTS[:3]
_UNKNOWN: Mapping[str, Any] = {
    **dict.fromkeys(_COUNTS),
    "latency_ms": {"1": None, "256": None},
}


def with_costs(
    summary: Mapping[str, Any], costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A run's summary with what its models cost.

    Controls are the student's network, so they cost what it costs. The ensemble costs the sum of its teachers. A
    teacher without a model (outputs from a file) costs None, and the ensemble with it.

    Args:
        summary: with `student`, `controls`, `teachers`, `ensemble` and `compare`, and `students` where there are more.
        costs: `student`, names of teachers and of other models -> what `raykd.evaluate.costs` found of it.
    """
    student = _cost(costs["student"])
    teachers = {name: _cost(costs.get(name)) for name in summary["teachers"]}
    ensemble = _summed(list(teachers.values()))
    others = {n: {**one, **_cost(costs.get(n))} for n, one in summary.get("students", {}).items()}
    return {
        **summary,
        **({"students": others} if others else {}),
        "student": {**summary["student"], **student},
        "controls": {role: {**one, **student} for role, one in summary["controls"].items()},
        "ensemble": {**summary["ensemble"], **ensemble},
        "teachers": {name: {**one, **teachers[name]} for name, one in summary["teachers"].items()},
        "compare": {
            name: {**one, **_cost(costs.get(name))} for name, one in summary["compare"].items()
        },
        "cost": _ratios(ensemble, student),
    }


def _cost(cost: Mapping[str, Any] | None) -> dict[str, Any]:
    known = _UNKNOWN if cost is None else cost
    found = {name: known[name] for name in _UNKNOWN}
    return {**found, "overhead_ms": overhead_ms(known["latency_ms"])}


def _summed(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What asking all of them one after the other costs; unknown where one is unknown."""

    def total(values: list[Any]) -> Any:
        return None if not values or None in values else sum(values)

    latencies = [cost["latency_ms"] for cost in costs]
    sizes = list(latencies[0]) if latencies else []
    latency = {size: total([one.get(size) for one in latencies]) for size in sizes}
    counts = {name: total([cost[name] for cost in costs]) for name in _COUNTS}
    return {**counts, "latency_ms": latency, "overhead_ms": overhead_ms(latency)}


def _ratios(ensemble: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, Any]:
    """How many times more the ensemble costs than the student."""

    def ratio(whole: float | None, part: float | None) -> float | None:
        return None if whole is None or not part else whole / part

    return {
        **{name: ratio(ensemble[name], student[name]) for name in _COUNTS},
        "latency": {
            size: ratio(ensemble["latency_ms"].get(size), milliseconds)
            for size, milliseconds in student["latency_ms"].items()
        },
    }
