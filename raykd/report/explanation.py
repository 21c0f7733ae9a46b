"""The page of `raykd explain`: one HTML file, its figures and tables, and every number as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raykd.evaluate.explanation import Explanation, explanation_numbers
from raykd.evaluate.occlusion import TOP_SHARE
from raykd.folders import write_json
from raykd.report.explanation_text import (
    Numbers,
    about,
    by_importance,
    explanation_verdict,
    interval_text,
    is_value,
    method,
    model_name,
    score_text,
    two_digits,
)
from raykd.report.page import render, write_parts
from raykd.report.tables import Table
from raykd.report.wording import NONE, percent

NUMBERS, PAGE = "explain.json", "explain.html"


def write_explanation(folder: Path, found: Explanation) -> tuple[Path, dict[str, Any]]:
    """Write an explanation into a folder that is its own.

    Args:
        folder: made where it is not there; `figures/` and `tables/` in it are replaced.
        found: what `raykd.pipeline.explaining.explain` found.

    Returns:
        `explain.html`, one file without scripts, beside `explain.json`, `figures/*.png` and `tables/*.csv`; and the
        numbers of `explain.json`, see `explanation_numbers`.
    """
    from raykd.report.explanation_figures import explanation_pictures

    numbers = explanation_numbers(found)
    made = [similarity_table(numbers), importance_table(numbers), samples_table(numbers)]
    tables = {table.name: table for table in made if table is not None}
    pictures = explanation_pictures(found, numbers)
    write_json(folder / NUMBERS, numbers)  # first: it marks the folder as an explanation's
    write_parts(folder, pictures, tables)
    content = {
        "name": found.run,
        "about": about(numbers),
        "verdict": explanation_verdict(numbers),
        "pictures": pictures,
        "tables": tables,
        "method": method(numbers),
    }
    render("explain.html.j2", content, folder / PAGE)
    return folder / PAGE, numbers


def similarity_table(numbers: Numbers) -> Table:
    """The student's maps, and those of the controls, against each other model's."""
    rows, records = [], []
    for name, found in numbers["similarity"].items():
        cells: list[str] = []
        record: list[Any] = [name]
        for measure in ("spearman", "top20_iou"):
            for which in ("student", "control", "difference"):
                one = found[measure][which]
                record += [one["mean"], *(one["ci95"] or (None, None))]
            cells += [
                f"{two_digits(found[measure]['student']['mean'])}{interval_text(found[measure]['student'])}",
                two_digits(found[measure]["control"]["mean"]),
            ]
        count = found["spearman"]["student"]["n"]
        rows.append((model_name(name), *cells, str(count)))
        records.append((*record, count))
    fields = [
        f"{measure}_{which}{part}"
        for measure in ("spearman", "top20_iou")
        for which in ("student", "control", "difference")
        for part in ("", "_low95", "_high95")
    ]
    return Table(
        name="similarity",
        title="How alike the maps are",
        columns=("student against", "rank correlation", "fresh weights", f"IoU of the top {percent(TOP_SHARE, 0)}",
                 "fresh weights", "samples"),
        rows=rows,
        records=records,
        fields=["model", *fields, "samples"],
        note="Means over samples with 95 % t intervals. “Fresh weights” is the student's architecture before it learnt "
        "anything, five times: what is alike for no reason. A map that is the same everywhere has no ranks, and is left out.",
        dots=["ensemble" if name == "ensemble" else "teacher" for name in numbers["similarity"]],
    )  # fmt: skip


def importance_table(numbers: Numbers) -> Table | None:
    """What each feature of a table is worth to each model; None of images."""
    found = numbers["importance"]
    if found is None:
        return None
    models = list(next(iter(found.values())))
    order = by_importance(numbers)
    return Table(
        name="importance",
        title="Mean importance of each feature",
        columns=("feature", *map(model_name, models)),
        rows=[
            (feature, *(score_text(numbers, found[feature][name]) for name in models))
            for feature in order
        ],
        records=[(feature, *(found[feature][name] for name in models)) for feature in order],
        fields=("feature", *models),
        note=f"Mean over samples of how far {_score_words(numbers)} moves when the feature is hidden, in order of "
        "the ensemble.",
    )


def _score_words(numbers: Numbers) -> str:
    return "the value" if is_value(numbers) else "the probability that is explained"


def samples_table(numbers: Numbers) -> Table:
    """What was explained, sample by sample."""
    rows, records = [], []
    for one in numbers["each"]:
        answers, alike = one["answers"], one["similarity"]["ensemble"]
        record = (
            one["id"],
            one["truth"],
            answers["student"],
            answers["ensemble"],
            one["explained"],
            alike["spearman"],
            alike["top20_iou"],
        )
        records.append(record)
        rows.append(tuple(_cell(value) for value in record))
    return Table(
        name="samples",
        title="Samples, the largest divergence first",
        columns=("sample id", "is", "student", "ensemble", "explained", "rank correlation", "IoU"),
        rows=rows,
        records=records,
        fields=("id", "truth", "student", "ensemble", "explained", "spearman_ensemble", "top20_iou_ensemble"),
        note="Rank correlation and IoU of the student's map with the ensemble's.",
    )  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    return two_digits(value) if isinstance(value, float) else str(value)
