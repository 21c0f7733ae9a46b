"""What a run shows, in words and in one table; pure functions of its numbers.

One comparison is the primary one: the student against labels alone (or the task's own baseline). It is spoken of as a
gain or a loss where its 95 % interval over replicas leaves 0 out. Comparisons with other controls are corrected
together (Holm 1979), here as in the table. Everything else is "no difference that these n replicas can show".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raykd.evaluate import holm, paired_t_pvalue
from raykd.evaluate.statistics import LEVEL, t_interval
from raykd.report.cost import cost_words
from raykd.report.external_baselines import against_external_baselines, worst_slice
from raykd.report.folder import metrics_of, text_of
from raykd.report.return_words import return_words
from raykd.report.task import Gain, TaskText
from raykd.report.wording import (
    OTHER,
    RIVAL,
    listed,
    mean_of,
    number,
    percent,
    role_name,
)

_SHORT, _FAR_SHORT = 0.02, 0.1
"""So far below the ensemble's score a student's on its own training samples is suspicious: where the best epoch is
the last, and in any case."""
Outcome = Literal["win", "loss", "tie", "single"]
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One model of the result table.

    Attributes:
        name: as shown.
        role: `student`, `other student`, a control's name, `compared`, `teacher` or `ensemble`.
        value: of the task's metric on test, at the epoch best on validation; mean over replicas.
        value_std: over replicas; None for a single one, for teachers and for the ensemble.
        second: the second number (NLL, in regression R²).
        second_std: over replicas.
        parameters: count; None where the model is not at hand.
        latency_ms: one sample, the shortest call.
        replicas: how many trainings the means are over.
    """

    name: str
    role: str
    value: float | None
    value_std: float | None
    second: float | None
    second_std: float | None
    parameters: int | None
    latency_ms: float | None
    replicas: int


def result_table(summary: Summary) -> list[Row]:
    """Student, other students, controls, each teacher, ensemble, in this order; empty where a run got nowhere."""
    student = summary.get("student")
    if not student:
        return []
    words = text_of(summary)
    models = [(role_name("student"), "student", student)]
    models += [(name, OTHER, model) for name, model in (summary.get("students") or {}).items()]
    models += [(role_name(role), role, model) for role, model in summary["controls"].items()]
    models += [(name, RIVAL, model) for name, model in (summary.get("compare") or {}).items()]
    models += [(name, "teacher", model) for name, model in summary["teachers"].items()]
    models += [(role_name("ensemble"), "ensemble", summary["ensemble"])]
    return [_row(words, name, role, model) for name, role, model in models]


def result_cells(summary: Summary) -> list[dict[str, str | float | None]]:
    """The result table in the words and forms of the task, for a console: column -> cell."""
    words = text_of(summary)
    return [
        {
            "model": row.name,
            words.metric.name: with_std(
                words.value(row.value), row.value_std and words.spread(row.value_std)
            ),
            words.second.name: with_std(
                words.second.form(row.second),
                row.second_std and words.second.spread(row.second_std),
            ),
            "parameters": row.parameters,
            "ms per sample": None if row.latency_ms is None else round(row.latency_ms, 2),
        }
        for row in result_table(summary)
    ]


def with_std(mean: str, std: str | float | None) -> str:
    """A mean with its standard deviation, where it has one."""
    return mean if std is None else f"{mean} ± {std}"


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
    words = text_of(summary)
    earned = return_words(summary)
    if earned and words.baseline not in summary["gains"]:
        return [*earned, *cost_words(summary), *_caveats(summary)]
    if not student["test"]:
        unknown = "The test split has no labels, so whether distillation helps here is not known."
        if not words.without_labels:
            return [unknown]
        return [unknown, f"The student {words.follows(summary['fidelity'])}.", *cost_words(summary)]
    sentences = [*earned, _headline(summary), *_training(summary)]
    others = [role for role in summary["gains"] if role != words.baseline]
    sentences += [_against(summary, role) for role in others]
    sentences += [*against_external_baselines(summary), *worst_slice(summary)]
    sentences += [*_kept(summary), *_confidence(summary), *cost_words(summary), *_caveats(summary)]
    return sentences


def p_values(summary: Summary) -> dict[str, float]:
    """The p-value of each gain that has one: of the primary comparison as it is, of all others corrected together."""
    found = {role: paired_t_pvalue(gain["values"]) for role, gain in summary["gains"].items()}
    known = {role: value for role, value in found.items() if value is not None}
    primary = text_of(summary).baseline
    others = {role: value for role, value in known.items() if role != primary}
    return {**known, **dict(zip(others, holm(list(others.values())), strict=True))}


def outcome(gain: Mapping[str, Any], p_value: float | None = None) -> Outcome:
    """Whether a paired gain is a win, a loss, neither, or of a single replica.

    Args:
        gain: with its interval.
        p_value: corrected, where it is one of several.
    """
    if gain["ci95"] is None:
        return "single"
    if p_value is not None and p_value >= 1 - LEVEL:
        return "tie"
    low, high = gain["ci95"]
    return "win" if low > 0 else "loss" if high < 0 else "tie"


def best_teacher_name(summary: Summary) -> str | None:
    """The teacher that is best on validation: by the task's metric, then the second, then name."""
    metrics = metrics_of(summary)
    known: dict[str, Mapping[str, Any]] = {
        name: model["validation"]
        for name, model in summary["teachers"].items()
        if model["validation"]
    }

    def rank(name: str) -> tuple[float, float, str]:
        first, then = known[name][metrics.metric], known[name][metrics.ties]
        worst = math.inf if metrics.ties in metrics.lower_is_better else -math.inf
        return (
            -metrics.merit(first),
            -metrics.merit(worst if then is None else then, metrics.ties),
            name,
        )

    return min(known, key=rank, default=None)


def _row(words: TaskText, name: str, role: str, model: Mapping[str, Any]) -> Row:
    test: Mapping[str, Any] = model["test"] or {}
    value, second = test.get(words.metric.key), test.get(words.second.key)
    return Row(
        name=name,
        role=role,
        value=mean_of(value),
        value_std=_std_of(value),
        second=mean_of(second),
        second_std=_std_of(second),
        parameters=model["parameters"],
        latency_ms=model["latency_ms"].get("1"),
        replicas=value["n"] if isinstance(value, Mapping) else 1,
    )


def _std_of(value: Any) -> float | None:
    """Standard deviation of a number over replicas; other numbers have none."""
    std: float | None = value["std"] if isinstance(value, Mapping) else None
    return std


def _headline(summary: Summary) -> str:
    words = text_of(summary)
    key, gains = words.metric.key, words.gain
    reached = words.reached(mean_of(summary["student"]["test"][key]))
    if words.baseline not in summary["gains"]:
        return (
            f"Whether distillation helps here is not known, since the run has no control {words.untaught}: "
            f"the student reaches {reached}."
        )
    gain = summary["gains"][words.baseline]
    replicas = gain["n"]
    baseline = words.value(mean_of(summary["controls"][words.baseline]["test"][key]))
    plain = f"the student reaches {reached}, the same network {words.untaught} {baseline}"
    how_much = gains.size(gain["mean"])
    match outcome(gain):
        case "win":
            much = f"{how_much} {gains.better} {_interval(gain, gains)}"
            return f"Distillation helps here: {plain}; that is {much}{_of_gap(summary)}."
        case "loss":
            much = f"{how_much} {gains.worse} {_interval(gain, gains)}"
            better = summary.get("overrides", {}).get(words.baseline)
            instead = f" This teaches it labels alone: `{better}`." if better else ""
            return f"Distillation hurts here: {plain}; that is {much}.{instead}"
        case "tie":
            return (
                f"Distillation makes no difference that these {replicas} replicas can show: {plain} "
                f"({gains.name} {gains.change(gain['mean'])}, 95 % interval {_bounds(gain, gains)})."
            )
    return (
        f"One replica cannot show whether distillation helps here: {plain} ({gains.name} "
        f"{gains.change(gain['mean'])}). With n = 1 no interval is possible; `seeds: 5` gives one."
    )


def _of_gap(summary: Summary) -> str:
    """The share of the gap to the ensemble that is recovered, with its interval over replicas."""
    shares = summary["fidelity"]["gap_recovered"]["ensemble"]["values"]
    if None in shares or len(shares) < 2 or sum(shares) <= 0:
        return ""
    low, high = (percent(bound, 0) for bound in t_interval(shares))
    mean = percent(sum(shares) / len(shares), 0)
    base = text_of(summary).base
    return f", {mean} of the distance from {base} to the ensemble (95 % interval {low} to {high})"


def _training(summary: Summary) -> list[str]:
    """Whether the student was trained for too short a time, or too slowly, and what to try."""
    training, metrics = summary.get("training"), metrics_of(summary)
    if not training or not training["train"] or not metrics.right_or_wrong or "returns" in summary:
        return []
    words = text_of(summary)
    own, whole = mean_of(training["train"]), summary["ensemble"]["test"][metrics.metric]
    pairs = list(zip(training["best_epoch"], training["epochs"], strict=True))
    late = sum(best == epochs for best, epochs in pairs)
    if own is None or whole - own < (_SHORT if 2 * late > len(pairs) else _FAR_SHORT):
        return []
    last = (
        f"the best epoch is the last one in {late} of {len(pairs)} replicas, and " if late else ""
    )
    return [
        f"The student looks under-trained: {last}it reaches {words.value(own)} on labelled training samples "
        f"themselves, where the ensemble reaches {words.value(whole)} on new ones. Before this verdict counts, try more "
        "train.epochs, train.optimizer.type=adamw with another train.optimizer.lr, or a larger student."
    ]


def _against(summary: Summary, role: str) -> str:
    gain, gains = summary["gains"][role], text_of(summary).gain
    other, p_value = _control(summary, role), p_values(summary).get(role)
    how_much = gains.size(gain["mean"])
    if (
        role == "hard"
        and (summary.get("choice") or {}).get("target") == role
        and not any(gain["values"])
    ):
        return f"It is {other}: validation chose this target."
    match outcome(gain, p_value):
        case "win":
            return f"It beats {other} by {how_much} {_interval(gain, gains)}."
        case "loss":
            better = summary.get("overrides", {}).get(role)
            instead = f" This would have taught it so: `{better}`." if better else ""
            return f"It loses to {other} by {how_much} {_interval(gain, gains)}.{instead}"
        case "tie":
            return (
                f"Against {other} there is no difference that these {gain['n']} replicas can show "
                f"({gains.change(gain['mean'])}, 95 % interval {_bounds(gain, gains)}{_corrected(gain, p_value)})."
            )
    return f"Against {other} the {gains.name} is {gains.change(gain['mean'])}, without an interval."


def _corrected(gain: Mapping[str, Any], p_value: float | None) -> str:
    """The corrected p-value, where it and the interval say different things."""
    if p_value is None or outcome(gain) == "tie":
        return ""
    return f", p = {number(p_value)} corrected for the number of controls"


def _control(summary: Summary, role: str) -> str:
    if role == "best_teacher":
        name = best_teacher_name(summary)
        taught = f"the best single teacher ({name})" if name else "the best single teacher"
        return f"the same network taught by {taught}"
    if role == "hard":
        return f"the same network taught {text_of(summary).hard}"
    if role == "without_peers":
        return "the same network taught by the teachers alone, without peers"
    if role == "all_labels":
        return "the same network with the labels of all training samples"
    if role == "direct":
        return "the same network without the earlier stages"
    if role == "longer":
        return "the same network without the earlier stages, given the updates of all stages"
    return f"the control {role}"


def _interval(gain: Mapping[str, Any], gains: Gain) -> str:
    bounds = _bounds(gain, gains)
    return f"(95 % interval of the {gains.name} {bounds}, {gain['n']} paired replicas)"


def _bounds(gain: Mapping[str, Any], gains: Gain) -> str:
    low, high = gain["ci95"]
    return f"{gains.signed(low)} to {gains.signed(high)}"


def _kept(summary: Summary) -> list[str]:
    """What the student has of the ensemble: quality, answers, and part of the gap."""
    words = text_of(summary)
    own = mean_of(summary["student"]["test"][words.metric.key])
    whole = summary["ensemble"]["test"][words.metric.key]
    follows = words.follows(summary["fidelity"])
    if own is None or not whole:
        return [f"It {follows}."]
    joint = " and it " if metrics_of(summary).lower else " and "
    return [f"{words.kept(own, whole)}{joint}{follows}.", *_gap(summary)]


def _gap(summary: Summary) -> list[str]:
    words = text_of(summary)
    if words.baseline not in summary["controls"]:
        return []
    gap = summary["fidelity"]["gap_recovered"]
    whole, best = (mean_of(gap[reference]) for reference in ("ensemble", "best_teacher"))
    if whole is None:
        return [
            f"What share of the distance from {words.base} to the ensemble it recovers is not defined: "
            f"the ensemble is not clearly better than {words.base} in every replica."
        ]
    if whole <= 0:
        return [
            f"It recovers nothing of the distance from {words.base} to the ensemble "
            f"({percent(whole, 0)})."
        ]
    name = best_teacher_name(summary)
    if outcome(summary["gains"][words.baseline]) == "win" and _of_gap(summary):  # it says the rest
        return (
            [] if best is None
            else [f"Of the distance from {words.base} to the best teacher, {name}, it recovers {percent(best, 0)}."]
        )  # fmt: skip
    also = "" if best is None else f" (of that to the best teacher, {name}: {percent(best, 0)})"
    return [
        f"It recovers {percent(whole, 0)} of the distance from {words.base} to the ensemble{also}."
    ]


def _choice(summary: Summary) -> list[str]:
    """Which target validation chose for the student, and what that cost."""
    choice = summary.get("choice")
    if not choice:
        return []
    menu, target = choice["menu"], choice["target"]
    equals = [name for name, numbers in menu.items() if numbers["equal"]]
    why = f"on {choice['n']:,} samples it is better than every other one by more than a standard error"
    if len(equals) > 1:
        why = f"{choice['n']:,} samples cannot tell {listed(equals)} apart, and {target} has the least NLL of them"
    return [f"Validation chose its target from {listed(list(menu))}: {target}; {why}."]


def _confidence(summary: Summary) -> list[str]:
    """How the ensemble's confidence was set right before training, and the student's after it."""
    found = [*_choice(summary)]
    if fitted := (summary["targets"].get("sharpen") or {}).get("student"):
        found.append(
            f"Its target, the mixture of the teachers, was {'sharpened' if fitted < 1 else 'smoothed'} at "
            f"T = {fitted:.3g}, fitted on half of validation."
        )
    test = summary["student"]["test"]
    if "nll_calibrated" in test and set(test["temperature"]["values"]) != {1.0}:
        before, after = (
            ", ".join(f"{name.upper()} {mean_of(test[name + end]):.3g}" for name in ("nll", "ece"))
            for end in ("", "_calibrated")
        )
        found.append(
            f"At a temperature of its own ({mean_of(test['temperature']):.3g}, from half of validation), which its "
            f"export has, it comes to {after} (before: {before})."
        )
    return found


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
