"""What a sweep writes to its folder: tables, the best recipe, the Pareto fronts."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.config import Config
from raykd.config.search import COSTS
from raykd.disks import write_whole
from raykd.export.predictions import write_table
from raykd.search.ledger import RANKED, Ledger, Record, write_recipe
from raykd.search.scores import cost_fronts, costs_of
from raykd.search.space import plain_recipe, propose
from raykd.shown import for_spreadsheet
from raykd.tasks import find_task

_COLUMNS = ("trial", "state", "why", "value", "epochs", "epochs_planned", "best_epoch", "seconds")
_PLAIN = (str, int, float, bool, type(None))


def recipe_of(config: Config, record: Record) -> Config:
    """The recipe of a trial, without a search."""
    return propose(config, int(record["trial"]), record["values"]).config


def pareto(records: Sequence[Record], ledger: Ledger) -> dict[str, list[str]]:
    """The fronts of the first metric against each cost, of the trials that keep to all limits."""
    task = find_task(ledger.config.task).metrics
    ranked = {record["trial"]: record for record in records if record["state"] in RANKED}
    scores = {name: task.merit(one["value"], ledger.metric) for name, one in ranked.items()}
    return cost_fronts(scores, {name: costs_of(one["cost"]) for name, one in ranked.items()})


def on_fronts(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Trial -> the fronts that it is on, in words; only trials that are on one."""
    found: dict[str, list[str]] = {}
    for axis, names in summary["pareto"].items():
        for name in names:
            found.setdefault(name, []).append(f"{summary['metric']} against {axis}")
    for name in summary["front"] or ():
        found.setdefault(name, []).append(" and ".join(summary["metrics"]))
    return found


def rows_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row for each trial; searched keys as in the recipe, costs as `cost.<name>`."""
    metrics = sorted({m for record in summary["trials"] for m in record["validation"] or {}})
    on_front = on_fronts(summary)
    rows = []
    for record in summary["trials"]:
        row = {key: record[key] for key in _COLUMNS}
        row |= {f"validation.{name}": (record["validation"] or {}).get(name) for name in metrics}
        row |= {f"cost.{name}": record["cost"].get(name) for name in (*COSTS, "bytes")}
        row["pareto"] = record["trial"] in on_front
        row |= {key: _plain(record["values"].get(key)) for key in summary["search"]["parameters"]}
        rows.append(row)
    return rows


def write(folder: Path, config: Config, summary: Mapping[str, Any]) -> Config:
    """Write `results.csv`, `results.parquet`, `best.yaml` and `pareto/`; returns the best recipe."""
    rows = rows_of(summary)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for cells in (rows[0], *(row.values() for row in rows)):
        writer.writerow([for_spreadsheet(cell) for cell in cells])
    write_whole(folder / "results.csv", [text.getvalue().encode()], durable=False)
    _write_parquet(folder / "results.parquet", rows)
    records = {record["trial"]: record for record in summary["trials"]}
    shutil.rmtree(folder / "pareto", ignore_errors=True)
    for name, axes in sorted(on_fronts(summary).items()):
        about = f"Trial {name} of a sweep: on the front of {', of '.join(axes)}."
        write_recipe(folder / "pareto" / f"{name}.yaml", recipe_of(config, records[name]), about)
    chosen = summary["best"]["trial"]
    best = plain_recipe(config) if chosen is None else recipe_of(config, records[chosen])
    what = "the recipe itself" if chosen is None else f"trial {chosen}"
    write_recipe(folder / "best.yaml", best, f"Best on validation of a sweep: {what}.")
    return best


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns of one type each: numbers where all are, else text."""
    import pyarrow as pa  # it takes a while to import

    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds != {int, float}:
            values = [None if value is None else str(value) for value in values]
        columns[name] = pa.array(values)
    write_table(path, pa.table(columns))


def _plain(value: Any) -> Any:
    """A cell: numbers and text as they are, anything else as JSON."""
    return value if isinstance(value, _PLAIN) else json.dumps(value)
