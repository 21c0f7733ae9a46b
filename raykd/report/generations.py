"""A run with stages in words and as a table; pure functions of its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.report.folder import RunData, text_of
from raykd.report.returns import chain_measure
from raykd.report.tables import Table
from raykd.report.verdicts import with_std
from raykd.report.wording import NONE, count, duration, listed, mean_of

Summary = Mapping[str, Any]
Generation = Mapping[str, Any]
_KEYS = ("stage", "teachers", "parameters", "validation", "validation_std", "ensemble_validation", "test", "test_std",
         "epochs", "teacher_samples_scored", "seconds")  # fmt: skip


def generations(run: RunData) -> Table | None:
    """Every stage: who taught it, how large it is, what it reaches, and what it cost."""
    return _table(run.summary)


def _table(summary: Summary) -> Table | None:
    found = summary.get("generations") or []
    if not found:
        return None
    words = text_of(summary)
    metric = chain_measure(summary)
    key = metric.key
    deviation = words.spread if metric is words.metric else metric.spread
    rows, records = [], []
    for one in found:
        spreads = [(one[split] or {}).get(key) for split in ("validation", "test")]
        ensemble = mean_of((one["ensemble"]["validation"] or {}).get(key))
        shown = [
            NONE
            if value is None
            else with_std(
                metric.form(value["mean"]),
                None if value["std"] is None else deviation(value["std"]),
            )
            for value in spreads
        ]
        rows.append(
            (one["stage"], ", ".join(_named(found, one)), count(one["parameters"]), shown[0], metric.form(ensemble), shown[1],
             str(one["epochs"]), count(one["teacher_samples_scored"]), duration(one["seconds"]))
        )  # fmt: skip
        numbers = [value and value[part] for value in spreads for part in ("mean", "std")]
        records.append(
            (one["stage"], " ".join(one["teachers"]), one["parameters"], *numbers[:2], ensemble, *numbers[2:], one["epochs"],
             one["teacher_samples_scored"], one["seconds"])
        )  # fmt: skip
    searched = summary.get("kind") == "sweep"
    scored = f"{found[-1]['stage']} is searched: what it reaches stands with its trials." if searched else "Only the last stage is scored on test."  # fmt: skip
    return Table(
        name="generations",
        title=f"The stages, {metric.name}",
        columns=("stage", "taught by", "parameters", "validation", "its teachers", "test", "epochs", "teacher passes",
                 "time"),
        rows=rows,
        records=records,
        fields=_KEYS,
        note=" ".join(["Means over replicas ± standard deviation; “its teachers” is their ensemble on validation.", scored,
                       "Teacher passes are of teachers that no earlier stage has asked.", *_taught(summary)]),
    )  # fmt: skip


def stage_cells(summary: Summary) -> list[dict[str, str]]:
    """The same for a terminal: a mapping of headings and cells for each stage; none where there are no stages."""
    found = _table(summary)
    return (
        [] if found is None else [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    )


def _named(found: Sequence[Generation], stage: Generation) -> list[str]:
    """Who taught a stage; of an earlier stage whose replicas teach together, or each its own, how many they are."""
    counts = {one["stage"]: _teaching(one) for one in found}
    return [f"{name}{counts.get(name, '')}" for name in _teachers(stage)]


def _teachers(stage: Generation) -> list[str]:
    """The teachers and stages that taught a stage; a summary of an earlier version has but the names of the former."""
    names: list[str] = stage.get("taught_by") or stage["teachers"]
    return names


def _teaching(stage: Generation) -> str:
    return {"each": " (each replica its own)", "ensemble": " (all replicas)"}.get(
        stage.get("teach", "best"), ""
    )


def _taught(summary: Summary) -> list[str]:
    """Which replicas of each stage teach."""
    found = summary["generations"]
    taught = {name for one in found for name in _teachers(one)}
    teaching = [one for one in found[:-1] if one["stage"] in taught]
    said = []
    if best := [one for one in teaching if one.get("teach", "best") == "best"]:
        who = listed([f"replica {one['replica']} of {one['stage']}" for one in best])
        one = len(best) == 1
        said.append(
            f"{who} {'is' if one else 'are'} best on validation and {'teaches' if one else 'teach'} all replicas of later "
            "stages, whose spread therefore does not hold that of their teacher."
        )
    if each := [one["stage"] for one in teaching if one.get("teach") == "each"]:
        said.append(
            f"Of {listed(each)} each replica teaches the replica of its number, so that the spread of later stages holds that of "
            "their teachers; the ensemble of their teachers is that of all replicas."
        )
    if every := [one["stage"] for one in teaching if one.get("teach") == "ensemble"]:
        said.append(f"Of {listed(every)} all replicas teach together.")
    return said
