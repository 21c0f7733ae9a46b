"""Networks that learnt from each other: a table of what they are worth, and the picture of how alike they became."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.folder import RunData, text_of
from raykd.report.tables import Table
from raykd.report.verdicts import with_std
from raykd.report.wording import NONE, number, percent

_KEYS = ("network", "validation", "validation_std", "test", "test_std")
_TYPES = {"dml": "Deep mutual learning", "codistillation": "Codistillation"}


def peers(run: RunData) -> Table | None:
    """Each peer and their ensemble, and below it how often they agree; None of a run without peers."""
    return _table(run.summary)


def _table(summary: Mapping[str, Any]) -> Table | None:
    found = summary.get("peers")
    if not found:
        return None
    words = text_of(summary)
    metric, splits = words.metric, [found[split] for split in ("validation", "test")]
    rows, records = [], []
    for name in (*splits[0]["each"], "ensemble"):
        spreads = [_numbers(split, name).get(metric.key) for split in splits]
        shown = [
            NONE if one is None else with_std(metric.form(one["mean"]), one["std"] and words.spread(one["std"]))
            for one in spreads
        ]  # fmt: skip
        rows.append((_called(name), *shown))
        numbers = [None if one is None else one[p] for one in spreads for p in ("mean", "std")]
        records.append((name, *numbers))
    alike, apart = splits[1]["agreement"]["mean"], splits[1]["jsd_nats"]["mean"]
    return Table(
        name="peers",
        title=f"The networks that learnt together, {metric.name}",
        columns=("network", "validation", "test"),
        rows=rows,
        records=records,
        fields=_KEYS,
        note=f"{_TYPES.get(found['type'], found['type'])} of {found['count']} networks{_every(found)}; means over replicas "
        "± standard deviation. Their ensemble is the mean of their probabilities. "
        f"On test two of them answer alike on {percent(alike)} of the samples; their Jensen-Shannon divergence is "
        f"{number(apart)} nats. Networks that answer alike have nothing left to tell each other.",
    )


def _every(found: Mapping[str, Any]) -> str:
    every = found.get("exchange_every")
    return "" if every is None else f", which exchange weights every {every:,} updates"


def peer_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The same for a terminal: headings and cells of each row; none without peers."""
    found = _table(summary)
    return (
        [] if found is None else [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    )


def _numbers(split: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """V of a network, or of all together; empty without labels."""
    found: Mapping[str, Any] | None = (
        split["ensemble"] if name == "ensemble" else split["each"][name]
    )
    return found or {}


def _called(name: str) -> str:
    return {"peer0": "student (peer0)", "ensemble": "their ensemble"}.get(name, name)
