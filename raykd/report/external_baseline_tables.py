"""Tables of the other models that the student is held against, and of the slices of test."""

from __future__ import annotations

from typing import Any

from raykd.report.comparison import p_value
from raykd.report.folder import RunData, text_of
from raykd.report.tables import Table
from raykd.report.wording import BASELINE, NONE, mean_of, role_name


def external_baselines(run: RunData) -> Table | None:
    """What sets the student apart from each other model."""
    found = {n: m for n, m in (run.summary.get("compare") or {}).items() if m.get("gain")}
    if not found:
        return None
    words = text_of(run.summary)
    signed = words.gain.signed
    rows, records = [], []
    for name, model in found.items():
        gain, odds = model["gain"], model["mcnemar"] or {}
        counts = [odds.get(key) for key in ("student_only", "model_only")]
        bounds = gain["ci95_bootstrap"]
        rows.append(
            (name, signed(gain["mean"]), f"{signed(bounds[0])} to {signed(bounds[1])}",
             *(NONE if count is None else str(count) for count in counts), p_value(odds.get("p")))
        )  # fmt: skip
        records.append((name, gain["mean"], *bounds, *counts, odds.get("p")))
    return Table(
        name="compared",
        title="Against other models",
        columns=("model", f"student: {words.gain.heading}", "95 % interval", "only student right", "only it right",
                 "p (McNemar)"),
        rows=rows,
        records=records,
        fields=("model", "gain", "low95", "high95", "student_only", "model_only", "p_mcnemar"),
        note="On test; positive: the student is better. Interval: bootstrap over replicas and test samples. Who is "
        "right where the other is wrong, and McNemar's exact test, are of replica 0, which is the student that is kept.",
    )  # fmt: skip


def slices(run: RunData) -> Table | None:
    """Student, labels alone and ensemble on each slice of test."""
    found = run.summary.get("slices") or {}
    if not found:
        return None
    words = text_of(run.summary)
    key, signed = words.metric.key, words.gain.signed
    more = [one.key for one in words.numbers if one.key != key]
    rows, records = [], []
    for name, part in found.items():
        models: list[Any] = [part["student"], part["controls"].get(BASELINE), part["ensemble"]]
        values: list[Any] = [mean_of((numbers or {}).get(key)) for numbers in models]
        gain = part["gain"] or {}
        bounds: Any = gain.get("ci95_bootstrap") or (None, None)
        shown = NONE if bounds[0] is None else f"{signed(bounds[0])} to {signed(bounds[1])}"
        change = signed(gain["mean"]) if gain else NONE
        rows.append(
            (
                name,
                f"{part['n']}{' (few)' * part['few']}",
                *map(words.value, values),
                change,
                shown,
            )
        )
        others = [mean_of((numbers or {}).get(one)) for numbers in models for one in more]
        records.append((name, part["n"], *values, gain.get("mean"), *bounds, *others))
    roles = ("student", BASELINE, "ensemble")
    return Table(
        name="slices",
        title=f"Test {words.metric.name} by slice",
        columns=("slice", "samples", *map(role_name, roles), words.gain.heading, "95 % interval"),
        rows=rows,
        records=records,
        fields=("slice", "samples", *roles, "gain", "low95", "high95",
                *(f"{role}_{one}" for role in roles for one in more)),
        note="Mean over replicas; the difference is the student's from labels alone, its interval bootstrap over "
        "replicas and the slice's samples. Labelled samples only; with fewer than 30 (few) a number says little, "
        "and of many slices some differ by chance. All other numbers are in the CSV file.",
    )  # fmt: skip
