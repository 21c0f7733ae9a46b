"""A search in words and tables; pure functions of its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from raykd.report.comparison import comparison_tables
from raykd.report.cost import trust
from raykd.report.folder import RunData, text_of
from raykd.report.generations import generations
from raykd.report.tables import Table
from raykd.report.task import Measure
from raykd.report.wording import NONE, count, duration, sure

Summary = Mapping[str, Any]
Record = Mapping[str, Any]
DEFAULT = "default"
STATES = {
    "finished": "finished",
    "stopped": "stopped early",
    "cut": "cut off with the search",
    "failed": "failed",
    "over_limit": "breaks a limit",
}
_LEVEL = 0.05
_VAGUE = ("weight", "type", "loss", "smoothing")
"""Ends of keys that say nothing alone."""


def measure_of(summary: Summary) -> Measure:
    """How values of the search's metric are listed."""
    words, metric = text_of(summary), summary["metric"]
    known = {m.key: m for m in (*words.numbers, words.second, words.metric)}
    return known[metric] if metric in known else Measure(key=metric, name=metric, form=_short)


def short_names(summary: Summary) -> dict[str, str]:
    """Searched key -> the shortest end of it that no other one shares."""
    keys = list(summary["search"]["parameters"])
    found = {}
    for key in keys:
        parts = key.split(".")
        least = 2 if parts[-1] in _VAGUE else 1
        ends = (".".join(parts[-n:]) for n in range(least, len(parts) + 1))
        found[key] = next(
            end for end in ends if sum(k == end or k.endswith(f".{end}") for k in keys) == 1
        )
    return found


def in_order(summary: Summary) -> list[Record]:
    """Every trial: those that can win best first, then the others as they were proposed."""
    records = {record["trial"]: record for record in summary["trials"]}
    rest = [record for name, record in records.items() if name not in summary["ranking"]]
    return [*(records[name] for name in summary["ranking"]), *rest]


def trial_cells(summary: Summary, most: int | None = None) -> list[dict[str, str | float | None]]:
    """Trials with what was searched and what came of it: column -> cell."""
    measure, names = measure_of(summary), short_names(summary)
    cells: list[dict[str, str | float | None]] = []
    for record in in_order(summary)[:most]:
        row: dict[str, str | float | None] = {"trial": record["trial"]}
        row |= {names[key]: _short(value) for key, value in record["values"].items()}
        value, planned = record["value"], record["epochs_planned"]
        row[f"validation {measure.name}"] = None if value is None else measure.form(value)
        row["epochs"] = f"{record['epochs']}/{planned}" if planned else None
        row["parameters"] = count(record["cost"].get("parameters"))
        row["end"] = STATES.get(record["state"], record["state"])
        cells.append(row)
    return cells


def sweep_verdict(summary: Summary) -> list[str]:
    """What the search found, and what it cannot say: sentences."""
    doubts = trust(summary, "`raykd run` of recipes in pareto/")
    return [
        _found(summary),
        *_held(summary),
        *_joint(summary),
        _ended(summary),
        *_asked(summary),
        *doubts,
    ]


def _found(summary: Summary) -> str:
    best, measure = summary["best"], measure_of(summary)
    trials = len(summary["trials"])
    if best["trial"] is None:
        lead = summary["finalists"].get("lead")
        if lead is None:
            return f"None of {trials} trials is better on validation than the recipe itself, which best.yaml repeats."
        if lead["mean"] == 0:
            return f"Of {trials} trials {lead['trial']} is best on validation, and no better than the recipe itself, which best.yaml repeats."
        return (
            f"Of {trials} trials {lead['trial']} is best on validation, ahead of the recipe itself by "
            f"{measure.form(lead['mean'])}, which is not more than its standard error "
            f"({measure.form(lead['standard_error'])}): best.yaml repeats the recipe."
        )
    names = short_names(summary)
    listed = ", ".join(f"{names[key]} {_short(value)}" for key, value in best["values"].items())
    how = "over the finalists' replicas" if best["chosen_by"] == "finalists" else "of one replica"
    return (
        f"Best on validation ({how}) is trial {best['trial']}: {listed}; as a trial it reached "
        f"{measure.form(best['value'])} validation {measure.name}."
    )


def _held(summary: Summary) -> list[str]:
    """The best on test against the recipe itself, and which differences among finalists are real."""
    final = summary["finalists"]
    if not final:
        return [
            "No finalists were trained, so test stays unseen and one replica is all that this rests on."
        ]
    words, found = text_of(summary), []
    top = final["ranking"][0]
    gain = final["methods"][top].get("gain")
    if gain is not None:
        bounds = " to ".join(words.gain.signed(bound) for bound in gain["ci95"])
        found.append(
            f"On test that trial is {words.gain.change(gain['mean'])} against the recipe itself over {gain['n']} paired "
            f"replicas (95 % interval {bounds})."
        )
    real = [pair for pair in final["pairs"] if pair["p_holm"] < _LEVEL]
    if not final["pairs"]:
        return found
    if not real:
        found.append(f"No difference between two of the {len(final['ranking'])} finalists is real on test "
                     f"(Holm-corrected p ≥ {_LEVEL} for all {len(final['pairs'])} pairs).")  # fmt: skip
    for pair in real:
        ahead, behind = pair["better"], pair["worse"]
        if pair["gain"]["mean"] < 0:
            ahead, behind = behind, ahead
        size = words.gain.size(pair["gain"]["mean"])
        subject = _sized(summary, ahead)
        found.append(
            f"{subject[0].upper()}{subject[1:]} is {sure('better on test', pair['gain']['n'])} than {_sized(summary, behind)}, by {size}."
        )
    return found


def _sized(summary: Summary, name: str) -> str:
    """A trial with its size, where that is known: a larger student may well be better."""
    costs = {record["trial"]: record.get("cost") or {} for record in summary["trials"]}
    parameters = costs.get(name.removeprefix("trial-"), {}).get("parameters")
    return (
        _named(name) if parameters is None else f"{_named(name)} ({count(parameters)} parameters)"
    )


def _joint(summary: Summary) -> list[str]:
    """The front of all metrics of a search with several."""
    front = summary.get("front") or []  # a summary of before there were several has none
    if not front:
        return []
    records = {record["trial"]: record for record in summary["trials"]}
    listed = "; ".join(f"{name} ({_reached(summary, records[name])})" for name in front)
    return [f"On the front of {' and '.join(summary['metrics'])}, where no trial is better in one without being worse "
            f"in another: {listed}. Their recipes are in pareto/."]  # fmt: skip


def _reached(summary: Summary, record: Record) -> str:
    """What a trial reached in each metric."""
    words = text_of(summary)
    forms: dict[str, Callable[[Any], str]] = {"parameters": count, "flops": count}
    forms |= {m.key: m.form for m in (*words.numbers, words.second, words.metric)}
    numbers = {**record["cost"], **record["validation"]}
    listed = ((metric, forms.get(metric, _short)(numbers[metric])) for metric in summary["metrics"])
    return ", ".join(f"{value} {metric}" for metric, value in listed)


def _ended(summary: Summary) -> str:
    states = [record["state"] for record in summary["trials"]]
    parts = [
        f"{states.count(state)} {listed}" for state, listed in STATES.items() if state in states
    ]
    epochs = sum(record["epochs"] for record in summary["trials"])
    planned = sum(record["epochs_planned"] or 0 for record in summary["trials"])
    return f"Of {len(states)} trials {', '.join(parts)}; {epochs:,} of {planned:,} epochs were trained."


def _asked(summary: Summary) -> list[str]:
    targets = summary["targets"]
    if targets.get("mode") == "live":
        return []
    scored, saved = targets["teacher_samples_scored"], targets["teacher_samples_saved"]
    return [f"The teachers scored {scored:,} samples for all trials together; runs of their own would have scored "
            f"{saved:,} more."]  # fmt: skip


def sweep_tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Numbers at the top: value, what it is, how sure."""
    found, measure, final = [], measure_of(summary), summary["finalists"]
    best = summary["best"]
    if final:
        words, top = text_of(summary), final["ranking"][0]
        test = (final["methods"][top]["test"] or {}).get(words.metric.key)
        if test:
            found.append((words.value(test["mean"]), f"test {words.metric.name} of {_named(top)}", f"± {words.spread(test['std'])}"))  # fmt: skip
        if gain := final["methods"][top].get("gain"):
            bounds = " to ".join(words.gain.signed(bound) for bound in gain["ci95"])
            found.append((words.gain.signed(gain["mean"]), f"{words.gain.heading} over the recipe itself", bounds))  # fmt: skip
    elif best["value"] is not None:
        found.append((measure.form(best["value"]), f"validation {measure.name}", "one replica"))
    trials = summary["trials"]
    stopped = sum(record["state"] == "stopped" for record in trials)
    found.append((str(len(trials)), "trials", f"{stopped} stopped early"))
    found.append((duration(summary["timing"].get("search_s", 0.0)), "for all trials", ""))
    return found


def sweep_tables(run: RunData) -> dict[str, Table]:
    """Every trial, the finalists, and the stages of a chain."""
    summary = run.summary
    cells, measure = trial_cells(summary), measure_of(summary)
    keys = list(summary["search"]["parameters"])
    records = []
    for record in in_order(summary):
        searched = [_cell(record["values"].get(key)) for key in keys]
        cost = record["cost"]
        records.append(
            (record["trial"], *searched, record["value"], record["epochs"], record["epochs_planned"],
             cost.get("parameters"), cost.get("flops"), cost.get("latency_ms"), record["seconds"], record["state"],
             record["why"])
        )  # fmt: skip
    found = {
        "results": Table(
            name="results",
            title="Trials, best on validation first",
            columns=list(cells[0]),
            rows=[[NONE if cell is None else str(cell) for cell in row.values()] for row in cells],
            fields=["trial", *keys, summary["metric"], "epochs", "epochs_planned", "parameters", "flops",
                    "latency_ms", "seconds", "state", "why"],
            records=records,
            note=f"One replica each; {measure.name} on validation at the epoch that the training chose. A trial that "
            "was stopped early shows its best until then. All columns: results.csv.",
        )
    }  # fmt: skip
    if summary["finalists"]:
        results = comparison_tables(as_comparison(run))["results"]
        found["gains"] = Table(
            **{**vars(results), "name": "gains", "title": f"Finalists: {results.title}"}
        )
    if (stages := generations(run)) is not None:
        found["generations"] = stages
    return found


def front_words(summary: Summary) -> list[str]:
    """What smaller students reach."""
    records = {record["trial"]: record for record in summary["trials"]}
    measure = measure_of(summary)
    points = [
        f"{count(records[name]['cost']['parameters'])} parameters {measure.form(records[name]['value'])} "
        f"(trial {name})"
        for name in summary["pareto"].get("parameters") or []
    ]
    return [f"What each size reaches on validation: {'; '.join(points)}."] if points else []


def as_comparison(run: RunData) -> RunData:
    """The finalists of a search as the comparison that they are."""
    fields = {**vars(run), "summary": {**run.summary, **run.summary["finalists"]}}
    return RunData(**fields)


def copies(run: RunData) -> dict[str, str]:
    """Text to copy: the trials as tab-separated values, which a spreadsheet takes."""
    table = sweep_tables(run)["results"]
    lines = [table.fields, *table.records]
    text = "\n".join(
        "\t".join("" if cell is None else str(cell) for cell in line) for line in lines
    )
    return {"All trials as tab-separated values, to copy": text}


def _named(name: str) -> str:
    return "the recipe itself" if name == DEFAULT else name.replace("trial-", "trial ")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> str | float | None:
    return value if isinstance(value, str | int | float | None) else json.dumps(value)
