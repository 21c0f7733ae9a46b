"""A run's numbers as tables: shown on the page, written as CSV at full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raykd.disks import write_whole
from raykd.evaluate.latency import overhead_ms
from raykd.report.cost import OVERHEAD_NOTE, latency_note, trust
from raykd.report.folder import RunData, text_of
from raykd.report.task import TaskText
from raykd.report.verdicts import p_values, result_table, with_std
from raykd.report.wording import (
    NONE,
    OTHER,
    RIVAL,
    ROLES,
    count,
    duration,
    mean_of,
    milliseconds,
    number,
    percent,
    role_name,
)
from raykd.shown import for_spreadsheet

_GAIN_NOTES = {
    "difference": "Percentage points",
    "reduction": "How much lower the student's RMSE is (positive: it is better)",
    "saving": "How many bits per byte fewer the student needs (positive: it is better)",
}
_COSTED = ("student", OTHER, RIVAL, "teacher", "ensemble")
_KINDS = {"teacher": "teacher", RIVAL: "compared", OTHER: "student"}
Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        name: file name without suffix.
        title: heading.
        columns: headings; the first column holds names, the others numbers unless `wordy`.
        rows: cells as shown.
        records: the same at full precision, for CSV, under `fields`.
        fields: column names of the CSV file.
        note: what to know of it.
        dots: colour class of each row; empty for none.
        wordy: columns are text.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Sequence[Cell]]
    fields: Sequence[str]
    note: str = ""
    dots: Sequence[str] = ()
    wordy: bool = False

    def write(self, folder: Path) -> None:
        """`<name>.csv` in a folder."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        for cells in (self.fields, *self.records):
            writer.writerow([for_spreadsheet(cell) for cell in cells])
        write_whole(folder / f"{self.name}.csv", [text.getvalue().encode()], durable=False)


def results(run: RunData) -> Table | None:
    """Every model: the task's metric, a second number, size, latency."""
    rows = result_table(run.summary)
    if not rows:
        return None
    words = text_of(run.summary)
    metric, second = words.metric, words.second
    unit = "_nats" if second.key == "nll" else ""
    replicas = rows[0].replicas
    of = "folds" if run.summary.get("kind") == "folds" else "replicas"
    several = f"± is the standard deviation over {replicas} {of}. " if replicas > 1 else ""
    return Table(
        name="results",
        title="Results on test",
        columns=("model", metric.name, second.name, "parameters", "latency, 1 sample"),
        rows=[
            (
                _shown(row.name, row.role),
                with_std(metric.form(row.value), row.value_std and words.spread(row.value_std)),
                with_std(second.form(row.second), row.second_std and second.spread(row.second_std)),
                count(row.parameters),
                milliseconds(row.latency_ms),
            )
            for row in rows
        ],
        fields=(
            [
                "model",
                "role",
                metric.key,
                f"{metric.key}_std",
                f"{second.key}{unit}",
                f"{second.key}_std",
                "parameters",
                "latency_ms",
                "replicas",
            ]
        ),
        records=[
            (
                row.name,
                row.role,
                row.value,
                row.value_std,
                row.second,
                row.second_std,
                row.parameters,
                row.latency_ms,
                row.replicas,
            )
            for row in rows
        ],
        note=f"At the epoch that is best on validation. {several}{latency_note(run.summary)}",
        dots=[dot(row.role) for row in rows],
    )


def gains(run: RunData) -> Table | None:
    """Paired gains with intervals and corrected p-values."""
    found: Mapping[str, Any] = run.summary.get("gains") or {}
    if not found:
        return None
    corrected, rows, records = p_values(run.summary), [], []
    words = text_of(run.summary)
    signed = words.gain.signed
    for role, gain in found.items():
        p_value = corrected.get(role)
        rows.append(
            (
                f"against {role_name(role)}",
                signed(gain["mean"]),
                _bounds(gain["ci95"], signed),
                _bounds(gain["ci95_bootstrap"], signed),
                NONE if p_value is None else "< 0.001" if p_value < 0.001 else number(p_value),
                str(gain["n"]),
            )
        )
        bounds = [*(gain["ci95"] or (None, None)), *(gain["ci95_bootstrap"] or (None, None))]
        records.append((role, gain["mean"], *bounds, p_value, gain["n"]))
    return Table(
        name="gains",
        title=f"Gains in test {words.metric.name}",
        columns=(
            "control",
            words.gain.heading,
            "95 % interval",
            "bootstrap",
            "p",
            "replicas",
        ),
        rows=rows,
        records=records,
        fields=[
            "control",
            "mean",
            "low95",
            "high95",
            "bootstrap_low95",
            "bootstrap_high95",
            "p",
            "replicas",
        ],
        note=f"{_GAIN_NOTES[words.gain.name]}, paired by replica. Interval: t over replicas; bootstrap: over replicas "
        f"and test samples; p: paired t test; the comparison with {role_name(words.baseline)} is the primary one, the "
        "others are corrected for their number (Holm).",
        dots=[dot(role) for role in found],
    )


def quality(run: RunData) -> Table | None:
    """Every number on test, and the task's metric on validation and at the last epoch."""
    rows, records = [], []
    words = text_of(run.summary)
    key, name_of_it, value = words.metric.key, words.metric.name, words.value
    models = list(_models(run))
    for name, role, model in models:
        means = [mean_of((model["test"] or {}).get(one.key)) for one in words.numbers]
        last, validation = (
            mean_of((model[split] or {}).get(key)) for split in ("test_last", "validation")
        )
        cells = [one.form(mean) for one, mean in zip(words.numbers, means, strict=True)]
        rows.append((_shown(name, role), value(validation), *cells, value(last)))
        records.append((name, validation, *means, last))
    if not rows:
        return None
    fields = [one.key for one in words.numbers]
    return Table(
        name="quality",
        title="All quality numbers",
        columns=("model", "validation", *(one.name for one in words.numbers), "last epoch"),
        rows=rows,
        records=records,
        fields=("model", f"validation_{key}", *fields, f"{key}_last_epoch"),
        note=f"Test, but for the column “validation” ({name_of_it} on all of it). {words.numbers_note}; “last epoch” "
        f"is test {name_of_it} without choosing the epoch on validation.",
        dots=[dot(role) for _, role, _ in models],
    )


def choice(run: RunData) -> Table | None:
    """The menu of targets: what validation says of each, what it cost, and which was chosen."""
    chosen = run.summary.get("choice")
    if not chosen:
        return None
    words, menu = text_of(run.summary), chosen["menu"]
    metric = words.metric
    rows, records = [], []
    for target, one in menu.items():
        reached, nll = one[metric.key], one["nll_calibrated"]
        temperature = sum(one["temperature"]) / len(one["temperature"])
        verdict = "chosen" if target == chosen["target"] else "equal" if one["equal"] else "worse"
        rows.append((
            target, words.value(reached["mean"]), f"{words.spread(one['behind'])} ± {words.spread(one['standard_error'])}",
            number(nll["mean"]), number(temperature), duration(one["seconds"]), verdict,
        ))  # fmt: skip
        records.append((target, reached["mean"], one["behind"], one["standard_error"], nll["mean"], temperature,
                        one["seconds"], verdict))  # fmt: skip
    students = f"{chosen['replicas']} student{'s' * (chosen['replicas'] != 1)} of each target"
    return Table(
        name="choice",
        title="The menu of targets",
        columns=(
            "target",
            metric.name,
            "behind the best",
            "NLL at its own T",
            "own T",
            "training",
            "verdict",
        ),
        rows=rows,
        records=records,
        fields=[
            "target",
            metric.key,
            "behind",
            "standard_error",
            "nll_calibrated",
            "temperature",
            "seconds",
            "verdict",
        ],
        note=f"Means over {students}, on {chosen['n']:,} labelled validation samples; their own temperatures were fitted on "
        "the other half. Equal: behind the best by at most one standard error of the paired difference; of these the "
        "least NLL was chosen. Students that are replicas of the student or of a control were not trained twice.",
    )


def costs(run: RunData) -> Table | None:
    """Parameters, operations, bytes and latency of student, teachers and ensemble."""
    models = [entry for entry in _models(run) if entry[1] in _COSTED]
    if not models:
        return None
    rows, records = [], []
    for name, role, model in models:
        latency = [model["latency_ms"].get(size) for size in ("1", "256")]
        raw = [model["parameters"], model["flops"], model["bytes"]]
        size = NONE if raw[2] is None else f"{count(raw[2])}B"
        times = [*latency, overhead_ms(model["latency_ms"])]
        rows.append(
            (_shown(name, role), count(raw[0]), count(raw[1]), size, *map(milliseconds, times))
        )
        records.append((name, *raw, *times))
    return Table(
        name="costs",
        title="What each model costs",
        columns=("model", "parameters", "FLOPs", "size", "1 sample", "256 samples", "overhead"),
        rows=rows,
        records=records,
        fields=[
            "model",
            "parameters",
            "flops",
            "bytes",
            "latency_ms_1",
            "latency_ms_256",
            "overhead_ms",
        ],
        note=" ".join(
            [
                "FLOPs of one sample, 2 per multiply-add. Controls are the student's network. The ensemble is the sum of "
                f"its teachers. {latency_note(run.summary)} {OVERHEAD_NOTE}",
                *trust(run.summary),
            ]
        ),
        dots=[dot(role) for _, role, _ in models],
    )


def _apart(
    words: TaskText, found: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Callable[[float | None], str]]]:
    """What else is known of each teacher; runs of earlier versions have none of it."""
    if words.apart is not None:
        for name, value in found.get(words.apart.key, {}).items():
            yield f"{words.apart.name} {name}", value, words.apart.form


def fidelity(run: RunData) -> Table | None:
    """How closely the student follows its teachers."""
    found = run.summary.get("fidelity")
    if not found:
        return None
    gap, words = found["gap_recovered"], text_of(run.summary)
    first, *others = ((one.name, found[one.key], one.form) for one in words.fidelity)
    each = words.by_teacher
    entries = [
        first,
        *((f"{each.name} {name}", value, each.form) for name, value in found[each.key].items()),
        *others,
        *_apart(words, found),
        ("gap to the ensemble recovered", gap["ensemble"], percent),
        ("gap to the best teacher recovered", gap["best_teacher"], percent),
    ]
    return Table(
        name="fidelity",
        title="Fidelity on test",
        columns=("", "mean", "standard deviation"),
        rows=[(name, form(value["mean"]), form(value["std"])) for name, value, form in entries],
        records=[(name, value["mean"], value["std"]) for name, value, _ in entries],
        fields=("measure", "mean", "std"),
        note=f"Over replicas. The gap is the distance from {words.base}; – where it is not defined.",
    )


def context(run: RunData) -> Table | None:
    """Labels, targets, how often test was scored, time."""
    summary = run.summary
    flat = {
        "labels used": summary.get("labels_used"),
        "test scored (times)": summary.get("test_scored_times"),
        "targets": summary.get("targets"),
        "timing": summary.get("timing"),
    }
    entries = [entry for name, value in flat.items() for entry in _flatten(name, value)]
    if not entries:
        return None
    return Table(
        name="context",
        title="Data, targets and time",
        columns=("", "value"),
        rows=[(name, _value(name, value)) for name, value in entries],
        records=entries,
        fields=("name", "value"),
    )


def events(run: RunData) -> Table | None:
    """Failures, retries and degradations."""
    if not run.events:
        return None
    rows = [
        (
            _time(event.get("time")),
            str(event.get("fit") or event.get("stage") or ""),
            str(event.get("message") or event.get("text") or event.get("kind") or ""),
            str(event.get("decision") or ""),
        )
        for event in run.events
    ]
    return Table(
        name="events",
        title="Events",
        columns=("time (UTC)", "where", "what happened", "decision"),
        rows=rows,
        records=rows,
        fields=("time_utc", "where", "what", "decision"),
        wordy=True,
    )


def _models(run: RunData) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, role and numbers of every model, in the order of the result table."""
    summary = run.summary
    if not summary.get("student"):
        return
    yield role_name("student"), "student", summary["student"]
    for name, model in (summary.get("students") or {}).items():
        yield name, OTHER, model
    for role, model in summary["controls"].items():
        yield role_name(role), role, model
    for name, model in (summary.get("compare") or {}).items():
        yield name, RIVAL, model
    for name, model in summary["teachers"].items():
        yield name, "teacher", model
    yield role_name("ensemble"), "ensemble", summary["ensemble"]


def _shown(name: str, role: str) -> str:
    """A model's name with what it is, where the name alone does not say it."""
    if role in ("student", "ensemble"):
        return name
    return f"{_KINDS.get(role, 'control')}: {name}"


def dot(role: str) -> str:
    """Colour class of a model in a table."""
    return (role if role in ROLES else "teacher").replace("_", "-")


def _bounds(interval: Sequence[float] | None, signed: Callable[[float], str]) -> str:
    return NONE if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Cell]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{name}: {key}", item)
    elif isinstance(value, str | int | float):
        yield name, value


def _value(name: str, value: Cell) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        if name.endswith("_s"):
            return duration(value)
        if name.endswith("_bytes"):
            return f"{count(value)}B"
        if name.endswith(("_rate", "_fraction")):
            return percent(value)
        return f"{value:,}".replace(",", " ")
    return str(value)


def _time(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return str(seconds or "")
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
