"""The report of a run, made from its folder alone: one HTML file, its Markdown twin, figures, tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from raykd.disks import write_whole
from raykd.errors import InputError
from raykd.folders import RunFolder, reading, replacing
from raykd.report.cost import latency_tile
from raykd.report.folder import RunData, read_run, text_of
from raykd.report.pictures import SideBySide, pictures_ahead, pictures_of
from raykd.report.returns import return_tiles
from raykd.report.verdicts import outcome, verdict
from raykd.report.wording import count, mean_of
from raykd.shown import for_markdown
from raykd.tasks import known_task

if TYPE_CHECKING:
    from raykd.report.kept import Analysis
    from raykd.report.style import Picture
    from raykd.report.tables import Table
    from raykd.report.task import TaskFigures

EXPLAINED = "explain/explain.html"
"""Where a run's occlusion maps are shown, once `raykd explain` has made them."""
_LEAST_REPLICAS = 2
_NAME, _PADDING, _SHORT = 120.0, 16.0, 12
"""Pixels of a column of names, and around the text of a cell; characters of a name that needs no more room."""
_CHARACTER, _HEADING = 8.0, 9.0
"""Pixels of a character of a cell and of a heading."""


@dataclass(frozen=True)
class Tile:
    """A number worth a large font: value, what it is, and how sure."""

    value: str
    what: str
    detail: str = ""
    tone: str = ""


def write_report(run: Path, others: SideBySide | None = None) -> Path:
    """Write `report/` into a run's folder.

    Args:
        run: the run's folder; everything is taken from its files.
        others: processes that draw the pictures, for a folder that was just written; None = this one does.

    Returns:
        `report/index.html`: one file, figures inside, no scripts, nothing loaded from elsewhere. Beside
        it `report.md` with the same content, `figures/*.png` and `tables/*.csv`.

    Raises:
        InputError: the folder has no summary, or one of its files is damaged.
    """
    data = read_run(run)
    if data.summary.get("kind") == "stage":
        raise InputError.at(
            str(run), "is a stage of a run, without a report of its own; give the folder of the run"
        )
    kinds = {
        "comparison": _of_comparison,
        "sweep": _of_sweep,
        "ablation": _of_ablation,
        "folds": _of_folds,
    }
    make = kinds.get(str(data.summary.get("kind")), _of_run)
    if others is None:
        content = _told(lambda data: {**make(data), "pictures": pictures_of(data)}, data, run)
    else:
        with pictures_ahead(run, data, others) as pictures:
            content = {**_told(make, data, run), "pictures": pictures()}
    content["explained"] = EXPLAINED if (run / EXPLAINED).is_file() else ""
    content["wandb"] = wandb_command(run)
    content["predictions"] = RunFolder(run).predictions.is_file()
    folder = run / "report"
    write_parts(folder, content["pictures"], content["tables"])
    page = folder / "index.html"
    with reading(RunFolder(run).summary):
        render("index.html.j2", content, page)
        render("report.md.j2", content, folder / "report.md")
    return page


def _told(make: Callable[[RunData], dict[str, Any]], data: RunData, run: Path) -> dict[str, Any]:
    """What a page shows.

    Raises:
        InputError: names the file that holds something else than raykd writes: the one without which it can be told.
    """
    folder = RunFolder(run)
    try:
        with reading(folder.summary):
            return make(data)
    except InputError:
        for name, other in _without(data).items():
            with suppress(InputError), reading(folder.summary):
                make(other)
                with reading(run / name):
                    make(data)
        raise


def _without(data: RunData) -> dict[str, RunData]:
    """File of a run's folder -> what the others tell."""
    return {
        "config.json": replace(data, config={}),
        "metrics.jsonl": replace(data, epochs={}),
        "events.jsonl": replace(data, events=()),
        "teachers": replace(data, cards={}),
        "evaluation.safetensors": replace(data, evaluation=None),
    }


def wandb_command(run: Path) -> str:
    """What uploads the runs that W&B kept offline in a run's folder, from inside it; empty where there are none."""
    places = (f"{place}wandb/offline-run-*" for place in ("", "*/*/"))
    kept = [place for place in places if any(run.glob(place))]
    return f"wandb sync {' '.join(kept)}" if kept else ""


def write_parts(folder: Path, pictures: Mapping[str, Picture], tables: Mapping[str, Table]) -> None:
    """`figures/*.png` and `tables/*.csv` of a page, in place of those of an earlier one."""
    with replacing(folder / "figures") as fresh:
        for picture in pictures.values():
            write_whole(fresh / f"{picture.name}.png", [picture.png], durable=False)
    with replacing(folder / "tables") as fresh:
        for table in tables.values():
            table.write(fresh)


def _of_run(data: RunData) -> dict[str, Any]:
    """What the page of a run shows."""
    from raykd.report.kept import analyse

    analysis = analyse(data)
    return {
        **_of_any(data),
        "kicker": "Distillation report",
        "gains_heading": "What distillation brings",
        "verdict": verdict(data.summary),
        "kept": _kept(data, analysis),
        "tiles": tiles(data.summary),
        "about": about(data),
        "tables": _tables(data, analysis),
    }


def _context(data: RunData) -> dict[str, Table]:
    """Tables of every page but that of a run, which has them in places of their own."""
    from raykd.report import tables
    from raykd.report.transfer import transfer_sets

    made = (tables.choice(data), transfer_sets(data), tables.context(data), tables.events(data))
    return {table.name: table for table in made if table is not None}


def _of_comparison(data: RunData) -> dict[str, Any]:
    """What the page of a comparison shows."""
    from raykd.report import comparison

    methods = len(data.summary["methods"])
    return {
        **_of_any(data),
        "kicker": "Comparison of methods",
        "gains_heading": "What sets them apart",
        "verdict": comparison.comparison_verdict(data.summary),
        "tiles": [],
        "about": [*about(data), f"{methods} methods"],
        "tables": {**comparison.comparison_tables(data), **_context(data)},
    }


def _of_ablation(data: RunData) -> dict[str, Any]:
    """What the page of an ablation shows."""
    from raykd.report import ablation

    return {
        **_of_any(data),
        "kicker": "Ablation",
        "gains_heading": "What each part is worth",
        "verdict": ablation.ablation_verdict(data.summary),
        "tiles": [],
        "about": [*about(data), f"{len(data.summary['parts'])} parts"],
        "tables": {**ablation.ablation_tables(data), **_context(data)},
    }


def _of_folds(data: RunData) -> dict[str, Any]:
    """What the page of a cross-validation shows."""
    from raykd.report import folds, tables

    made = (tables.results(data), tables.quality(data), tables.context(data))
    return {
        **_of_any(data),
        "kicker": "Cross-validation",
        "gains_heading": "What distillation brings",
        "verdict": folds.folds_verdict(data.summary),
        "tiles": [],
        "about": [
            *(part for part in about(data) if "replica" not in part),
            f"{data.summary['folds']} folds",
        ],
        "tables": {**{t.name: t for t in made if t is not None}, **folds.folds_tables(data)},
    }


def _of_sweep(data: RunData) -> dict[str, Any]:
    """What the page of a search shows."""
    from raykd.report import sweep

    return {
        **_of_any(data),
        "kicker": "Search",
        "gains_heading": "The finalists on test",
        "verdict": [*sweep.sweep_verdict(data.summary), *sweep.front_words(data.summary)],
        "tiles": [Tile(*parts) for parts in sweep.sweep_tiles(data.summary)],
        "about": [*about(data), f"{len(data.summary['trials'])} trials"],
        "tables": {**sweep.sweep_tables(data), **_context(data)},
        "copies": sweep.copies(data),
    }


def _of_any(data: RunData) -> dict[str, Any]:
    return {
        "copies": {},
        "kept": [],
        "run": data,
        "recipe": _pretty(data.config),
        "cards": {name: _pretty(card) for name, card in data.cards.items()},
    }


def tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The few numbers that stand at the top."""
    student = summary.get("student")
    if not student or not student["test"]:
        return []
    words = text_of(summary)
    key, signed = words.metric.key, words.gain.signed
    own = mean_of(student["test"][key])
    std, replicas = student["test"][key]["std"], student["test"][key]["n"]
    spread = "1 replica" if std is None else f"± {words.spread(std)} over {replicas} replicas"
    found = [Tile(*parts) for parts in return_tiles(summary)]
    found += [Tile(words.value(own), f"test {words.metric.name}", spread)]
    if words.baseline in summary["gains"]:
        gain = summary["gains"][words.baseline]
        interval = gain["ci95"]
        sure = (
            f"{signed(interval[0])} to {signed(interval[1])}" if interval else "no interval, n = 1"
        )
        what = f"{words.gain.heading} over {words.base}"
        found.append(Tile(signed(gain["mean"]), what, sure, outcome(gain)))
    whole = (summary["ensemble"]["test"] or {}).get(key)
    if own is not None and whole:
        found.append(Tile(*words.tile(own, whole), f"ensemble {words.value(whole)}"))
    if (fewer := summary["cost"]["parameters"]) and fewer >= 1:
        found.append(Tile(f"{fewer:.1f}×", "fewer parameters", count(student["parameters"])))
    if (faster := latency_tile(summary)) is not None:
        found.append(Tile(*faster))
    return found


def about(run: RunData) -> list[str]:
    """What was run, in a few words each."""
    summary, config = run.summary, run.config
    source = (config.get("data") or {}).get("source") or {}
    parts = [str(summary.get("task") or ""), str(source.get("type") or "")]
    teachers = len(summary.get("teachers") or {})
    if teachers:
        parts.append(f"{teachers} teacher{'s' if teachers > 1 else ''}")
    test = (summary.get("student") or {}).get("test")
    if test:
        replicas = test[text_of(summary).metric.key]["n"]
        parts.append(f"{replicas} replica{'s' if replicas >= _LEAST_REPLICAS else ''}")
    return [part for part in parts if part]


def _tables(run: RunData, analysis: Analysis | None) -> dict[str, Table]:
    from raykd.report import external_baseline_tables, tables
    from raykd.report.generations import generations
    from raykd.report.heads import heads
    from raykd.report.kept_tables import kept_tables
    from raykd.report.peers import peers
    from raykd.report.returns import along_the_way, differences, returns
    from raykd.report.students import students
    from raykd.report.transfer import transfer_sets

    makers: Sequence[Callable[[RunData], Table | None]] = (
        tables.results,
        tables.gains,
        returns,
        differences,
        along_the_way,
        generations,
        peers,
        students,
        tables.choice,
        external_baseline_tables.external_baselines,
        external_baseline_tables.slices,
        tables.quality,
        tables.fidelity,
        heads,
        transfer_sets,
        tables.costs,
        *_figures(run).tables,
        tables.context,
        tables.events,
    )
    made = [*(make(run) for make in makers), *kept_tables(run, analysis)]
    return {table.name: table for table in made if table is not None}


def _kept(run: RunData, analysis: Analysis | None) -> list[str]:
    """What the student keeps and loses, in sentences."""
    from raykd.report.diagnostics import labelled_test
    from raykd.report.kept import kept_sentences

    told = [] if analysis is None else kept_sentences(analysis)
    if run.evaluation is None or labelled_test(run) is None:
        return told
    return [*told, *_figures(run).lost(run.evaluation)]


def _figures(run: RunData) -> TaskFigures:
    return known_task(run.task, where="summary.json").figures


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


def render(template: str, content: Mapping[str, Any], path: Path) -> None:
    """Write a page from a template of this package.

    Raises:
        ValueError: the content lacks what the template shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

    environment = Environment(
        loader=PackageLoader("raykd.report"),
        autoescape=True,
        finalize=None if template.endswith(".html.j2") else _markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["block"] = _block
    environment.filters["prose"] = _prose
    environment.filters["scrolls"] = _scrolls
    environment.filters["is_named"] = _is_named
    try:
        text = environment.get_template(template).render(content)
    except UndefinedError as error:
        raise ValueError(str(error)) from error
    write_whole(path, [text.encode()], durable=False)


def _prose(text: str) -> Markup:
    """A number and its unit stay on one line; what stands between backticks is code."""
    joined = re.sub(r"(?<=\d) (?=%|ms\b|µs\b|s\b|points\b|[kMGT]\b|±)", "\u00a0", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(joined))))  # noqa: S704


def _scrolls(table: Table, room: float) -> bool:
    """Whether a table is wider than so many pixels, by its text: names are broken between words, other cells are not."""
    if table.wordy:
        return False
    widths = []
    for place in range(len(table.columns)):
        texts = [line[place] for line in (table.columns, *table.rows)]
        if place == 0:
            texts = [max(text.split(), key=len, default="") for text in texts]
        longest = max(len(text) for text in texts[1:]) if table.rows else 0
        widths.append(_PADDING + max(_HEADING * len(texts[0]), _CHARACTER * longest))
    if _is_named(table):
        widths[0] = max(widths[0], _NAME)
    return sum(widths) > room


def _is_named(table: Table) -> bool:
    """Whether rows have names that are best read on few lines."""
    return bool(table.dots) or max((len(row[0]) for row in table.rows), default=0) > _SHORT


def _figure(picture: Picture) -> Markup:
    """The only markup that is trusted: drawn by us, with its text escaped by matplotlib."""
    return Markup(picture.svg)  # noqa: S704


def _block(text: str) -> Markup:
    """A block of code for Markdown: indented, so that nothing in it can end it."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))  # noqa: S704


def _markdown(value: Any) -> Any:
    """Text that stays text in Markdown: no tags, links, cells or lines of its own."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(for_markdown(value))  # noqa: S704
