"""Other models that the student is held against, and parts of test: in words and as tables; pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raykd.report.folder import metrics_of, text_of
from raykd.report.task import Gain, TaskText
from raykd.report.wording import BASELINE, mean_of, number, role_name, times

Summary = Mapping[str, Any]


def against_external_baselines(summary: Summary) -> Iterator[str]:
    """How the student does against each of the other models, and who is right where the other is wrong."""
    words = text_of(summary)
    for name, model in (summary.get("compare") or {}).items():
        if model["gain"] is not None:
            yield f"{_better(name, model['gain'], words.gain)}{_smaller(summary, model)}."
        if model["mcnemar"] is not None:
            yield _odds(name, model["mcnemar"])


def _better(name: str, gain: Mapping[str, Any], gains: Gain) -> str:
    low, high = gain["ci95_bootstrap"]
    sure = "better" if low > 0 else "worse" if high < 0 else "not surely different"
    return (
        f"Against {name}, which nothing was learnt from, it is {sure}: {gains.change(gain['mean'])} (95 % bootstrap "
        f"interval {gains.signed(low)} to {gains.signed(high)})"
    )


def _smaller(summary: Summary, model: Mapping[str, Any]) -> str:
    own, other = summary["student"]["parameters"], model["parameters"]
    if not own or not other:
        return ""
    ratio = other / own
    return (
        f", with {times(ratio)} fewer parameters"
        if ratio > 1
        else f", with {times(1 / ratio)} more parameters"
    )


def _odds(name: str, odds: Mapping[str, Any]) -> str:
    p = "< 0.001" if odds["p"] < 0.001 else f"= {number(odds['p'])}"
    return (
        f"Where one of the two is wrong alone, the student (replica {odds['replica']}) is right {odds['student_only']} times, "
        f"{name} {odds['model_only']} times (McNemar p {p})."
    )


def worst_slice(summary: Summary) -> Iterator[str]:
    """On which slice the student is worst, and which ones are too small to tell."""
    slices: Mapping[str, Any] = summary.get("slices") or {}
    known = {name: part for name, part in slices.items() if part["student"]}
    large = {name: part for name, part in known.items() if not part["few"]} or known
    words = text_of(summary)
    if large:
        sign = 1 if metrics_of(summary).lower else -1
        name = max(large, key=lambda one: sign * _value(large[one]["student"], words))
        yield _worst(summary, name, large[name], words)
    few = [f"{name} ({part['n']})" for name, part in slices.items() if part["few"]]
    if few:
        yield f"Too few labelled test samples to say much (fewer than 30): {', '.join(few)}."


def _worst(summary: Summary, name: str, part: Mapping[str, Any], words: TaskText) -> str:
    key = words.metric.key
    own, everywhere = _value(part["student"], words), mean_of(summary["student"]["test"][key])
    others = {role_name("ensemble"): part["ensemble"]}
    if BASELINE in part["controls"]:
        others = {role_name(BASELINE): part["controls"][BASELINE], **others}
    beside = ", ".join(f"{role} {words.value(mean_of(v[key]))}" for role, v in others.items())
    return (
        f"Worst on {name}: {words.value(own)} against {words.value(everywhere)} on all of test "
        f"({part['n']} samples; {beside})."
    )


def _value(numbers: Mapping[str, Any], words: TaskText) -> float:
    return float(mean_of(numbers[words.metric.key]) or 0.0)
