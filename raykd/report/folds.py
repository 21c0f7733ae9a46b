"""A cross-validation in words and as tables; pure functions of its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.comparison import LEVEL, interval_of, p_value
from raykd.report.cost import trust
from raykd.report.folder import RunData, text_of
from raykd.report.tables import Table
from raykd.report.task import Gain
from raykd.report.verdicts import outcome
from raykd.report.wording import mean_of, role_name

Summary = Mapping[str, Any]
_CORRECTED = (
    "Folds share most of their training samples, so that the plain t interval is too narrow; these are of the "
    "corrected resampled t test (Nadeau & Bengio 2003)."
)


def folds_verdict(summary: Summary) -> list[str]:
    """Whether distillation helps over the folds, and what to keep in mind: sentences."""
    student = summary["student"]
    if not student["test"]:
        return ["The test parts have no labels, so whether distillation helps here is not known."]
    words = text_of(summary)
    value = student["test"][words.metric.key]
    reached = f"{words.reached(value['mean'])} ± {words.spread(value['std'])} over {summary['folds']} folds"
    gains, baseline = summary["gains"], words.baseline
    if baseline not in gains:
        sentences = [f"The student reaches {reached}."]
    else:
        gain = gains[baseline]
        own = {"win": "Distillation helps here", "loss": "Distillation hurts here"}.get(
            outcome(gain),
            f"Distillation makes no difference that {summary['folds']} folds can show",
        )
        base = words.value(mean_of(summary["controls"][baseline]["test"][words.metric.key]))
        sentences = [
            f"{own}: the student reaches {reached}, the same network {words.untaught} {base}; "
            f"{_change(gain, words.gain)}."
        ]
    sentences += [
        f"Against {role_name(role)}: {_change(gain, words.gain)}."
        for role, gain in gains.items()
        if role != baseline
    ]
    if gains:
        sentences.append(_CORRECTED)
    return [*sentences, *_caveats(summary)]


def _change(gain: Mapping[str, Any], gains: Gain) -> str:
    return (
        f"{gains.change(gain['mean'])} (95 % interval {interval_of(gain, gains.signed)}, "
        f"p {_equal(p_value(gain['p_holm']))})"
    )


def _equal(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def _caveats(summary: Summary) -> list[str]:
    found = []
    if brought := summary["brought"]:
        found.append(
            f"Not fitted here: {', '.join(brought)}. Where such a teacher was made with these samples, it has seen "
            "the test part of every fold."
        )
    if summary["status"] == "degraded":
        found.append("A fold is degraded: not everything that it was to use was there.")
    return found + trust(summary, "a run")


def folds_tables(run: RunData) -> dict[str, Table]:
    """Gains over the folds, and every fold by itself."""
    made = [_gains(run.summary), _per_fold(run.summary)]
    return {table.name: table for table in made if table is not None}


def _gains(summary: Summary) -> Table | None:
    gains, words = summary["gains"], text_of(summary)
    if not gains:
        return None
    signed = words.gain.signed
    rows, records = [], []
    for role, gain in gains.items():
        plain = {"ci95": gain["ci95_uncorrected"]}
        rows.append(
            (f"against {role_name(role)}", signed(gain["mean"]), interval_of(gain, signed),
             interval_of(plain, signed), p_value(gain["p_holm"]), str(gain["n"]))
        )  # fmt: skip
        bounds = (*gain["ci95"], *gain["ci95_uncorrected"])
        records.append((role, gain["mean"], *bounds, gain["p"], gain["p_holm"], gain["n"]))
    return Table(
        name="gains",
        title=f"Gains in test {words.metric.name} over the folds",
        columns=("control", words.gain.heading, "95 % interval", "uncorrected", "p (Holm)", "folds"),
        rows=rows,
        records=records,
        fields=("control", "mean", "low95", "high95", "uncorrected_low95", "uncorrected_high95", "p", "p_holm",
                "folds"),
        note=f"{_CORRECTED} The column “uncorrected” takes the folds for independent. p corrected for the number of "
        f"controls (Holm); below {LEVEL} counts as sure.",
    )  # fmt: skip


def _per_fold(summary: Summary) -> Table | None:
    words = text_of(summary)
    models = {"student": summary["student"], **summary["controls"], "ensemble": summary["ensemble"]}
    known = {name: model["test"] for name, model in models.items() if model["test"]}
    if not known:
        return None
    rows, records = [], []
    for fold in summary["per_fold"]:
        index, samples = fold["fold"], fold["samples"]
        values = [numbers[words.metric.key]["values"][index] for numbers in known.values()]
        counts = [samples[part] for part in ("train", "validation", "test")]
        rows.append((fold["path"], *map(str, counts), *(words.value(value) for value in values)))
        records.append((index, *counts, *values))
    return Table(
        name="folds",
        title="Every fold",
        columns=("fold", "train", "validation", "test", *map(role_name, known)),
        rows=rows,
        records=records,
        fields=("fold", "train", "validation", "test", *known),
        note=f"Test {words.metric.name}, mean over replicas. Each fold's own report lies in its folder.",
    )
