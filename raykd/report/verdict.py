"""What a run shows, in words and in one table; pure functions of its numbers.

A gain is spoken of as such only where its 95 % interval over replicas leaves 0 out; a loss likewise.
Everything else is "no difference that these n replicas can show".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raykd.report.wording import (
    BASELINE,
    count,
    mean_of,
    milliseconds,
    number,
    percent,
    points,
    role_name,
    times,
)

Outcome = Literal["win", "loss", "tie", "single"]
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One model of the result table.

    Attributes:
        name: as shown.
        role: `student`, a control's name, `teacher` or `ensemble`.
        accuracy: on test, at the epoch best on validation; mean over replicas.
        accuracy_std: over replicas; None for a single one, for teachers and for the ensemble.
        nll: nats per test sample.
        nll_std: over replicas.
        parameters: count; None where the model is not at hand.
        latency_ms: one sample, median.
        replicas: how many trainings the means are over.
    """

    name: str
    role: str
    accuracy: float | None
    accuracy_std: float | None
    nll: float | None
    nll_std: float | None
    parameters: int | None
    latency_ms: float | None
    replicas: int


def result_table(summary: Summary) -> list[Row]:
    """Student, controls, each teacher, ensemble, in this order; empty where a run got nowhere."""
    student = summary.get("student")
    if not student:
        return []
    rows = [_row(role_name("student"), "student", student)]
    rows += [_row(role_name(role), role, model) for role, model in summary["controls"].items()]
    rows += [_row(name, "teacher", model) for name, model in summary["teachers"].items()]
    return [*rows, _row(role_name("ensemble"), "ensemble", summary["ensemble"])]


def verdict(summary: Summary) -> list[str]:
    """Does distillation help here, what does the student keep, what does it cost: sentences.

    Args:
        summary: summary.json.

    Returns:
        Plain sentences, the most important first.
    """
    student = summary.get("student")
    if not student:
        return ["The run ended before a student could be evaluated, so it has no result."]
    if not student["test"]:
        return ["The test split has no labels, so whether distillation helps here is not known."]
    sentences = [_headline(summary)]
    sentences += [_against(summary, role) for role in summary["gains"] if role != BASELINE]
    sentences += [*_kept(summary), *_cost(summary), *_caveats(summary)]
    return sentences


def outcome(gain: Mapping[str, Any]) -> Outcome:
    """Whether a paired gain is a win, a loss, neither, or of a single replica."""
    if gain["ci95"] is None:
        return "single"
    low, high = gain["ci95"]
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def best_teacher_name(summary: Summary) -> str | None:
    """The teacher that is best on validation: accuracy, then NLL, then name."""
    known: dict[str, Mapping[str, Any]] = {
        name: model["validation"]
        for name, model in summary["teachers"].items()
        if model["validation"]
    }
    return min(
        known,
        key=lambda name: (-known[name]["accuracy"], _or_infinite(known[name]["nll"]), name),
        default=None,
    )


def _row(name: str, role: str, model: Mapping[str, Any]) -> Row:
    test: Mapping[str, Any] = model["test"] or {}
    accuracy, nll = test.get("accuracy"), test.get("nll")
    return Row(
        name=name,
        role=role,
        accuracy=mean_of(accuracy),
        accuracy_std=_std_of(accuracy),
        nll=mean_of(nll),
        nll_std=_std_of(nll),
        parameters=model["parameters"],
        latency_ms=model["latency_ms"].get("1"),
        replicas=accuracy["n"] if isinstance(accuracy, Mapping) else 1,
    )


def _std_of(value: Any) -> float | None:
    """Standard deviation of a number over replicas; other numbers have none."""
    std: float | None = value["std"] if isinstance(value, Mapping) else None
    return std


def _headline(summary: Summary) -> str:
    reached = percent(mean_of(summary["student"]["test"]["accuracy"]))
    if BASELINE not in summary["gains"]:
        return (
            f"Whether distillation helps here is not known, since the run has no control trained on "
            f"labels alone: the student reaches {reached} test accuracy."
        )
    gain = summary["gains"][BASELINE]
    replicas = gain["n"]
    baseline = percent(mean_of(summary["controls"][BASELINE]["test"]["accuracy"]))
    plain = (
        f"the student reaches {reached} test accuracy, the same network trained on labels alone "
        f"{baseline}"
    )
    how_much = points(gain["mean"], signed=False)
    match outcome(gain):
        case "win":
            return f"Distillation helps here: {plain}; that is {how_much} points more {_interval(gain)}."
        case "loss":
            return f"Distillation hurts here: {plain}; that is {how_much} points less {_interval(gain)}."
        case "tie":
            return (
                f"Distillation makes no difference that these {replicas} replicas can show: {plain} "
                f"(difference {points(gain['mean'])} points, 95 % interval {_bounds(gain)})."
            )
    return (
        f"One replica cannot show whether distillation helps here: {plain} (difference "
        f"{points(gain['mean'])} points). With n = 1 no interval is possible; `seeds: 5` gives one."
    )


def _against(summary: Summary, role: str) -> str:
    gain = summary["gains"][role]
    other = _control(summary, role)
    how_much = points(gain["mean"], signed=False)
    match outcome(gain):
        case "win":
            return f"It beats {other} by {how_much} points {_interval(gain)}."
        case "loss":
            return f"It loses to {other} by {how_much} points {_interval(gain)}."
        case "tie":
            return (
                f"Against {other} there is no difference that these {gain['n']} replicas can show "
                f"({points(gain['mean'])} points, 95 % interval {_bounds(gain)})."
            )
    return f"Against {other} the difference is {points(gain['mean'])} points, without an interval."


def _control(summary: Summary, role: str) -> str:
    if role == "best_teacher":
        name = best_teacher_name(summary)
        taught = f"the best single teacher ({name})" if name else "the best single teacher"
        return f"the same network taught by {taught}"
    if role == "hard":
        return "the same network taught the ensemble's hard labels"
    return f"the control {role}"


def _interval(gain: Mapping[str, Any]) -> str:
    return f"(95 % interval of the difference {_bounds(gain)}, {gain['n']} paired replicas)"


def _bounds(gain: Mapping[str, Any]) -> str:
    low, high = gain["ci95"]
    return f"{points(low)} to {points(high)}"


def _kept(summary: Summary) -> list[str]:
    """What the student has of the ensemble: accuracy, answers, and part of the gap."""
    own = mean_of(summary["student"]["test"]["accuracy"])
    whole = summary["ensemble"]["test"]["accuracy"]
    fidelity = summary["fidelity"]
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    kl = number(mean_of(fidelity["kl_ensemble_nats"]))
    same = f"gives the ensemble's answer on {agreement} of the test samples (KL {kl} nats)"
    if own is None or not whole:
        return [f"It {same}."]
    if own >= whole:
        kept = f"It reaches the ensemble's accuracy ({percent(own)} against {percent(whole)})"
    else:
        kept = (
            f"It keeps {percent(own / whole)} of the ensemble's accuracy ({percent(own)} of "
            f"{percent(whole)}, {points(whole - own, signed=False)} points short)"
        )
    return [f"{kept} and {same}.", *_gap(summary)]


def _gap(summary: Summary) -> list[str]:
    if BASELINE not in summary["controls"]:
        return []
    gap = summary["fidelity"]["gap_recovered"]
    whole, best = (mean_of(gap[reference]) for reference in ("ensemble", "best_teacher"))
    if whole is None:
        return [
            "What share of the distance from labels alone to the ensemble it recovers is not defined: "
            "the ensemble is not clearly better than labels alone in every replica."
        ]
    if whole <= 0:
        return [
            f"It recovers nothing of the distance from labels alone to the ensemble "
            f"({percent(whole, 0)})."
        ]
    name = best_teacher_name(summary)
    also = "" if best is None else f" (of that to the best teacher, {name}: {percent(best, 0)})"
    return [
        f"It recovers {percent(whole, 0)} of the distance from labels alone to the ensemble{also}."
    ]


def _cost(summary: Summary) -> list[str]:
    ratio, student, ensemble = summary["cost"], summary["student"], summary["ensemble"]
    parts = []
    if ratio["parameters"]:
        sizes = f"{count(student['parameters'])} instead of {count(ensemble['parameters'])}"
        parts.append(f"has {_fewer(ratio['parameters'])} parameters ({sizes})")
    if ratio["flops"]:
        parts.append(f"needs {_fewer(ratio['flops'])} FLOPs")
    if ratio["latency"].get("1"):
        one, all_of_them = student["latency_ms"]["1"], ensemble["latency_ms"]["1"]
        took = f"{milliseconds(one)} instead of {milliseconds(all_of_them)}"
        parts.append(f"answers one sample {_faster(ratio['latency']['1'])} ({took}, one thread)")
    if not parts:
        return []
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return [f"Set against the whole ensemble it {listed}."]


def _fewer(ratio: float) -> str:
    return f"{times(ratio)} fewer" if ratio >= 1 else f"{times(1 / ratio)} more"


def _faster(ratio: float) -> str:
    return f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"


def _caveats(summary: Summary) -> list[str]:
    found = []
    scored = summary["test_scored_times"]
    if scored > 1:
        found.append(
            f"Test was scored {scored} times in this folder; what was chosen by looking at it is "
            f"flattered by it."
        )
    if summary["status"] == "degraded":
        found.append("The run is degraded: not everything it was to use was there, see the events.")
    if summary["status"] == "failed":
        found.append("The run failed; these numbers are of what was finished before.")
    return found


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value
