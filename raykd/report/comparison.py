"""A comparison of methods in words and as a table; pure functions of its summary."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from raykd.report.folder import RunData, text_of
from raykd.report.tables import Table
from raykd.report.verdicts import with_std
from raykd.report.wording import NONE, number, role_name, sure

Summary = Mapping[str, Any]
LEVEL = 0.05


def comparison_cells(summary: Summary) -> list[dict[str, str | float | None]]:
    """Every method with its numbers, best on validation first: column -> cell."""
    words = text_of(summary)
    signed = words.gain.signed
    cells: list[dict[str, str | float | None]] = []
    for name in summary["ranking"]:
        method = summary["methods"][name]
        gain = method.get("gain")
        cells.append(
            {
                "method": role_name(name),
                "validation": mean_in(summary, method["validation"]),
                "test": mean_in(summary, method["test"]),
                words.gain.heading: "reference" if gain is None else signed(gain["mean"]),
                "95 % interval": interval_of(gain, signed),
                "p (Holm)": p_value(method.get("p_holm")),
                "time": _times(summary, name),
            }
        )
    return cells


def comparison_verdict(summary: Summary) -> list[str]:
    """What the comparison shows, and what it does not: sentences."""
    words, reference = text_of(summary), role_name(summary["reference"])
    methods, best = summary["methods"], summary["ranking"][0]
    gains = {name: m["gain"] for name, m in methods.items() if m.get("gain") is not None}
    if not gains:
        return ["There is nothing to hold against the reference: one method, or no labels on test."]
    replicas = next(iter(gains.values()))["n"]
    shown = {name for name, m in methods.items() if (m.get("p_holm") or 1.0) < LEVEL}
    better = [name for name in gains if name in shown and gains[name]["mean"] > 0]
    worse = [name for name in gains if name in shown and gains[name]["mean"] < 0]
    first = f"Best on validation is {role_name(best)}"
    if best in gains:
        gain = gains[best]
        interval = interval_of(gain, words.gain.signed)
        first += f": {words.gain.change(gain['mean'])} on test against {reference} (95 % interval {interval})"
    else:
        first += ", the reference itself"
    sentences = [f"{first}."]
    for names, how in ((better, "better"), (worse, "worse")):
        if names:
            listed = ", ".join(role_name(name) for name in names)
            sentences.append(
                f"{sure(how, replicas).capitalize()} than {reference} on test (Holm-corrected p < {LEVEL}): {listed}."
            )
    rest = len(gains) - len(better) - len(worse)
    if rest:
        sentences.append(
            f"Of {rest} other{'s' * (rest > 1)} these {replicas} replicas can show no difference from {reference}."
        )
    return sentences


def comparison_tables(run: RunData) -> dict[str, Table]:
    """The results, for page and CSV."""
    summary = run.summary
    cells, words = comparison_cells(summary), text_of(summary)
    key = words.metric.key
    records = []
    for name in summary["ranking"]:
        method = summary["methods"][name]
        gain = method.get("gain") or {}
        numbers = [(method[split] or {}).get(key) or {} for split in ("validation", "test")]
        spreads = [value.get(part) for value in numbers for part in ("mean", "std")]
        bounds = gain.get("ci95") or (None, None)
        records.append(
            (name, *spreads, gain.get("mean"), *bounds, method.get("p"), method.get("p_holm"),
             method["seconds"]["mean"])
        )  # fmt: skip
    count = next(iter(summary["methods"].values()))["seconds"]["n"]
    return {
        "results": Table(
            name="results",
            title=f"{words.metric.name[0].upper()}{words.metric.name[1:]}, best on validation first",
            columns=list(cells[0]),
            rows=[[NONE if cell is None else str(cell) for cell in row.values()] for row in cells],
            fields=["method", f"validation_{key}", "validation_std", f"test_{key}", "test_std", "gain",
                    "low95", "high95", "p", "p_holm", "fit_s"],
            records=records,
            note=f"± is the standard deviation over {count} replicas. Differences on test from "
            f"{role_name(summary['reference'])}, paired; p of the paired t test, corrected for their number "
            "(Holm). Time to train one student, as a multiple of the reference's (median over replicas).",
        )
    }  # fmt: skip


def mean_in(summary: Summary, numbers: Mapping[str, Any] | None) -> str:
    """The task's metric of a set of numbers, with its deviation over replicas."""
    words = text_of(summary)
    if numbers is None:
        return NONE
    value = numbers[words.metric.key]
    return with_std(words.value(value["mean"]), value["std"] and words.spread(value["std"]))


def interval_of(gain: Mapping[str, Any] | None, signed: Any) -> str:
    """The bounds of a difference; none of a single replica."""
    if gain is None or gain["ci95"] is None:
        return NONE
    return " to ".join(signed(bound) for bound in gain["ci95"])


def p_value(value: float | None) -> str:
    """A p-value as text."""
    return NONE if value is None else "< 0.001" if value < 0.001 else number(value)


def time_ratio(summary: Summary, name: str) -> float | None:
    """Training time as a multiple of the reference's: the median over replicas, which run side by side."""
    methods = summary["methods"]
    pairs = zip(
        *(methods[n]["seconds"]["values"] for n in (name, summary["reference"])), strict=True
    )
    ratios = [own / base for own, base in pairs if own and base]
    return median(ratios) if ratios else None


def _times(summary: Summary, name: str) -> str:
    ratio = time_ratio(summary, name)
    return NONE if ratio is None else f"{ratio:.2f} ×"
