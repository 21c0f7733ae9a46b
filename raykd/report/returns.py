"""What students and teachers earn where they act, as tables; pure functions of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.evaluate.returns import NOMINAL, RANDOM
from raykd.report.folder import RunData, text_of
from raykd.report.return_words import plain, signed
from raykd.report.tables import Cell, Table, dot
from raykd.report.task import Measure
from raykd.report.wording import (
    NONE,
    listed,
    mean_of,
    number,
    percent,
    role_name,
    significant,
)

Summary = Mapping[str, Any]
Numbers = Mapping[str, Any]
RETURN = Measure(key="return", name="return", form=significant, spread=significant)
_DIFFERENCE = (
    "Intervals: bootstrap over replicas × seeds; of teachers, which are one model each, over seeds."
)


def chain_measure(summary: Summary) -> Measure:
    """What the stages of a run are held against each other by: the return where their students act, else the task's metric."""
    stages = summary.get("generations") or []
    acts = any("return" in (one["validation"] or {}) for one in stages)
    return RETURN if acts else text_of(summary).metric


def role_of(summary: Summary, model: str) -> str:
    """What a model of the returns is: `student`, a control, `ensemble`, `teacher` or `random`."""
    if model in ("student", "ensemble", RANDOM) or model in (summary.get("controls") or {}):
        return model
    return "teacher"


def returns(run: RunData) -> Table | None:
    """Every model's return in every variant."""
    found = run.summary.get("returns") or {}
    if not found:
        return None
    models = list(dict.fromkeys(model for one in found.values() for model in one))
    rows, records = [], []
    for model in models:
        rows.append((role_name(model), _iqm(run.summary, model), *(_cell(one.get(model)) for one in found.values())))  # fmt: skip
        records += [(model, role_of(run.summary, model), variant, *_record(one[model])) for variant, one in found.items() if model in one]  # fmt: skip
    overall = run.summary["returns_overall"]
    best = {variant: one["student"]["against_teacher"]["teacher"] for variant, one in found.items()}
    told = listed([f"{teacher} on {variant}" for variant, teacher in best.items()])
    return Table(
        name="returns",
        title="Mean return by variant",
        columns=("model", "normalised", *found),
        rows=rows,
        records=records,
        fields=("model", "role", "variant", "return", "low95", "high95", "success", "length", "normalised", "agreement",
                "disagreement"),
        note=f"{overall['episodes']} episodes of each model, whose seeds all models share and none was trained or chosen on. "
        f"In brackets the 95 % interval. {_DIFFERENCE} Normalised: (R − random) / (best teacher − random), interquartile mean "
        f"over variants and replicas. Best teachers, chosen on other seeds: {told}.{_unseen(overall, found)}",
        dots=[dot(role_of(run.summary, model)) for model in models],
    )  # fmt: skip


def _unseen(overall: Mapping[str, Any], variants: Mapping[str, Any]) -> str:
    new = [name for name in variants if name not in overall["trained_on"]]
    return f" Nobody's training saw {listed(new)}." if new else ""


def differences(run: RunData) -> Table | None:
    """How much more the student earns than the best teacher and each control, in every variant."""
    found = run.summary.get("returns") or {}
    rows, records = [], []
    for variant, models in found.items():
        student = models["student"]
        against = {student["against_teacher"]["teacher"]: student["against_teacher"], **student["against"]}  # fmt: skip
        for index, (other, gain) in enumerate(against.items()):
            what = f"best teacher, {other}" if index == 0 else role_name(other)
            rows.append((f"{variant}, against {what}", signed(gain["mean"]), _bounds(gain["ci95_bootstrap"]),
                         _p(gain["p"]), _p(gain["p_holm"]), str(gain["n"])))  # fmt: skip
            bounds = gain["ci95_bootstrap"] or (None, None)
            records.append((variant, other, gain["mean"], *bounds, gain["p"], gain["p_holm"], gain["n"]))  # fmt: skip
    if not rows:
        return None
    return Table(
        name="return_differences",
        title="The student's return less that of others",
        columns=("variant", "difference", "95 % interval", "p", "p, corrected", "replicas"),
        rows=rows,
        records=records,
        fields=("variant", "against", "mean", "low95", "high95", "p", "p_holm", "replicas"),
        note="Paired episode by episode on common seeds. Interval and p: bootstrap over replicas × seeds. Corrected (Holm): "
        "against the teacher for student and controls together, against controls for their number, within a variant.",
    )


def return_tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Value, what it is and how sure, of the numbers that stand at the top of a page."""
    student = (summary.get("returns") or {}).get(NOMINAL, {}).get("student")
    if student is None:
        return []
    low, high = (plain(bound) for bound in student["ci95_bootstrap"])
    gain = student["against_teacher"]
    return [
        (plain(mean_of(student["return"])), "mean return", f"{low} to {high}"),
        (signed(gain["mean"]), f"against the best teacher, {gain['teacher']}", _bounds(gain["ci95_bootstrap"])),
    ]  # fmt: skip


def along_the_way(run: RunData) -> Table | None:
    """How often each model succeeds, for how long it acts, and how it agrees with the teachers on its own way."""
    found = run.summary.get("returns") or {}
    rows, records = [], []
    for variant, models in found.items():
        for model, one in models.items():
            values = [
                mean_of(one[key]) for key in ("success", "length", "agreement", "disagreement")
            ]
            rows.append((f"{variant}, {role_name(model)}", percent(values[0], 0), number(values[1], 0), percent(values[2]), number(values[3])))  # fmt: skip
            records.append((variant, model, *values))
    if not rows:
        return None
    return Table(
        name="along_the_way",
        title="Along the way",
        columns=("variant, model", "success", "steps", "agreement", "disagreement"),
        rows=rows,
        records=records,
        fields=("variant", "model", "success", "steps", "agreement", "disagreement"),
        note="Success: share of episodes that end as they should, where the recipe says what that is. Agreement: share of steps "
        "at which the action is the ensemble's. Disagreement: how far the teachers are from each other in the states that the "
        "model comes to, mean over steps: Jensen-Shannon divergence in nats, of continuous actions the standard deviation of "
        "their means.",
    )


def return_cells(summary: Summary) -> list[dict[str, str]]:
    """The returns for a terminal: a mapping of headings and cells for each model."""
    found = summary.get("returns") or {}
    models = list(dict.fromkeys(model for one in found.values() for model in one))
    return [
        {
            "model": role_name(model),
            **{variant: _cell(one.get(model)) for variant, one in found.items()},
        }
        for model in models
    ]


def _cell(one: Numbers | None) -> str:
    if one is None:
        return NONE
    low, high = (plain(bound) for bound in one["ci95_bootstrap"])
    return f"{plain(mean_of(one['return']))} ({low} to {high})"


def _record(one: Numbers) -> tuple[Cell, ...]:
    rest = ("success", "length", "normalised", "agreement", "disagreement")
    return (mean_of(one["return"]), *one["ci95_bootstrap"], *(mean_of(one[key]) for key in rest))


def _iqm(summary: Summary, model: str) -> str:
    one = summary["returns_overall"]["models"].get(model)
    return NONE if one is None else number(one["iqm"], 2)


def _bounds(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def _p(value: float | None) -> str:
    return NONE if value is None else "< 0.002" if value < 0.002 else number(value)
