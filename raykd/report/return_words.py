"""What students and teachers earn where they act, in words; pure functions of the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raykd.evaluate.returns import NOMINAL
from raykd.evaluate.statistics import LEVEL
from raykd.report.wording import listed, mean_of, number, percent, role_name, significant

Summary = Mapping[str, Any]
Numbers = Mapping[str, Any]


def return_words(summary: Summary) -> list[str]:
    """The outcome by return, the most important first; nothing of a run whose students do not act."""
    found = summary.get("returns") or {}
    if "student" not in found.get(NOMINAL, {}):
        return []
    shifts = [name for name in found if name != NOMINAL]
    return [
        _headline(found[NOMINAL]["student"], summary["returns_overall"]["episodes"]),
        *_on_shifts(summary, shifts),
        *_against_controls(found, shifts),
        *_overall(summary),
        *_alike(found[NOMINAL]["student"]),
    ]


def _headline(student: Numbers, episodes: int) -> str:
    gain = student["against_teacher"]
    low, high = gain["ci95_bootstrap"]
    own, best = mean_of(student["return"]), mean_of(student["return"]) or 0.0
    best -= gain["mean"]
    seeds = f"{episodes} common seeds and {gain['n']} replica{'s' * (gain['n'] != 1)}"
    start = f"The student earns {plain(own)}, the best teacher, {gain['teacher']}, {plain(best)}"
    bounds = f"95 % interval {signed(low)} to {signed(high)}, {seeds}"
    if low > 0:
        return f"{start}: {plain(gain['mean'])} more ({bounds})."
    if high < 0:
        return f"{start}: {plain(-gain['mean'])} less ({bounds})."
    bounds = f"{signed(gain['mean'])}, 95 % interval {signed(low)} to {signed(high)}"
    return f"{start}: no difference that {seeds} can show ({bounds})."


def _on_shifts(summary: Summary, shifts: Sequence[str]) -> Iterator[str]:
    if not shifts:
        return
    found, seen = summary["returns"], summary["returns_overall"]["trained_on"]
    told = []
    for name in shifts:
        gain = found[name]["student"]["against_teacher"]
        low, high = gain["ci95_bootstrap"]
        new = "" if name in seen else ", never seen in training"
        told.append(f"{signed(gain['mean'])} on {name} ({signed(low)} to {signed(high)}; {gain['teacher']}{new})")  # fmt: skip
    yield f"Against the best teacher of each shift it earns {listed(told)}."


def _against_controls(found: Mapping[str, Any], shifts: Sequence[str]) -> Iterator[str]:
    for control, gain in (found[NOMINAL]["student"].get("against") or {}).items():
        other, mean = f"“{role_name(control)}”", signed(gain["mean"])
        if gain["ci95_bootstrap"] is None:
            yield f"Against {other} the difference of returns is {mean}, without an interval."
            continue
        low, high = gain["ci95_bootstrap"]
        size = f"{mean}, 95 % interval {signed(low)} to {signed(high)}"
        result = _outcome(gain)
        start = f"It earns {result} than {other} ({size})" if result else f"Against {other} no difference in return can be shown ({size})"  # fmt: skip
        yield f"{start}{_elsewhere(found, shifts, control)}."


def _elsewhere(found: Mapping[str, Any], shifts: Sequence[str], control: str) -> str:
    """On which shifts it earns more, and on which less, than a control."""
    by_result: dict[str, list[str]] = {"more": [], "less": []}
    for name in shifts:
        result = _outcome(found[name]["student"]["against"][control])
        if result:
            by_result[result].append(name)
    told = [f"{result} on {listed(names)}" for result, names in by_result.items() if names]
    return f"; on shifts: {', '.join(told)}" if told else ""


def _outcome(gain: Numbers) -> str:
    """`more`, `less`, or nothing where the corrected p-value or the interval shows no difference."""
    interval, p_value = gain["ci95_bootstrap"], gain["p_holm"]
    if interval is None or p_value is None or p_value >= 1 - LEVEL:
        return ""
    return "more" if interval[0] > 0 else "less" if interval[1] < 0 else ""


def _overall(summary: Summary) -> Iterator[str]:
    overall = summary["returns_overall"]
    own = overall["models"].get("student")
    if own is None or len(overall["variants"]) < 2:
        return
    low, high = own["ci95_bootstrap"]
    yield (
        f"Over {len(overall['variants'])} variants the interquartile mean of its normalised return (0 is chance, 1 the best "
        f"teacher) is {number(own['iqm'], 2)} (95 % interval {number(low, 2)} to {number(high, 2)})."
    )


def _alike(student: Numbers) -> Iterator[str]:
    parts = []
    if student["success"] is not None:
        parts.append(f"ends {percent(mean_of(student['success']), 0)} of its episodes as it should")
    if student["agreement"] is not None:
        parts.append(f"takes the ensemble's action in {percent(mean_of(student['agreement']), 0)} of its steps")  # fmt: skip
    if parts:
        yield f"It {' and '.join(parts)}."


def plain(value: float | None) -> str:
    """A return."""
    return significant(value, 3)


def signed(value: float) -> str:
    """A difference of returns."""
    return significant(value, 3, signed=True)
