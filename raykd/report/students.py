"""A run of several students as a table; a pure function of its summary."""

from __future__ import annotations

from raykd.report.folder import RunData, text_of
from raykd.report.tables import Table
from raykd.report.verdicts import with_std
from raykd.report.wording import NONE, count, milliseconds

_FIELDS = ("student", "parameters", "validation", "validation_std", "test", "test_std", "difference", "difference_low95",
           "difference_high95", "latency_ms", "replicas")  # fmt: skip


def students(run: RunData) -> Table | None:
    """Every student of a run that has several: size, quality, and how far it is from the first one."""
    others = run.summary.get("students") or {}
    if not others:
        return None
    words = text_of(run.summary)
    key, metric, signed = words.metric.key, words.metric, words.gain.signed
    rows, records = [], []
    for name, one in {"student": run.summary["student"], **others}.items():
        spreads = [(one[split] or {}).get(key) for split in ("validation", "test")]
        shown = [
            NONE
            if value is None
            else with_std(
                metric.form(value["mean"]),
                None if value["std"] is None else words.spread(value["std"]),
            )
            for value in spreads
        ]
        gain = one.get("gain") or {"mean": None, "ci95": None}
        low, high = gain["ci95"] or (None, None)
        difference = NONE if gain["mean"] is None else signed(gain["mean"])
        interval = NONE if low is None or high is None else f"{signed(low)} to {signed(high)}"
        latency = one["latency_ms"].get("1")
        rows.append((name, count(one["parameters"]), *shown, difference, interval, milliseconds(latency)))  # fmt: skip
        numbers = [value and value[part] for value in spreads for part in ("mean", "std")]
        replicas = spreads[1]["n"] if spreads[1] else None
        records.append((name, one["parameters"], *numbers, gain["mean"], low, high, latency, replicas))  # fmt: skip
    return Table(
        name="students",
        title=f"The students, {metric.name}",
        columns=("student", "parameters", "validation", "test", "against the first", "95 % interval", "1 sample"),
        rows=rows,
        records=records,
        fields=_FIELDS,
        note="Means over replicas ± standard deviation. All students saw the same batches and learnt from the same answers "
        f"of the teachers. Against the first one: {words.gain.heading}, replica by replica; controls are of the first one "
        "alone. Each has a folder of its own, `students/NAME`, for `raykd export`, `predict` and `report`.",
    )  # fmt: skip
