"""What each part of a recipe is worth, in words, as a table and as a figure; pure functions of the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from raykd.report.comparison import LEVEL, interval_of, mean_in, p_value
from raykd.report.folder import RunData, text_of
from raykd.report.style import COLOURS, INK, Picture, finish, label, sheet, wrapped
from raykd.report.tables import Table
from raykd.report.verdicts import outcome
from raykd.report.wording import NONE, sure

Summary = Mapping[str, Any]
_WHOLE = "the whole recipe"
_TONES = {"win": "best_teacher", "loss": "labels", "tie": "teacher", "single": "teacher"}


def ablation_cells(summary: Summary) -> list[dict[str, str | float | None]]:
    """The whole recipe, then every part, worth most on validation first: column -> cell."""
    signed = text_of(summary).gain.signed
    models = [(_WHOLE, summary["whole"])]
    models += [(part["about"], part) for part in _parts(summary)]
    return [
        {
            "without": about,
            "validation": mean_in(summary, model["validation"]),
            "test": mean_in(summary, model["test"]),
            "worth, validation": _change(model.get("worth_validation"), signed),
            "worth, test": _change(model.get("worth"), signed),
            "95 % interval": interval_of(model.get("worth"), signed),
            "p (Holm)": p_value(model.get("p_holm")),
        }
        for about, model in models
    ]


def ablation_verdict(summary: Summary) -> list[str]:
    """What the parts are worth, and what cannot be told: sentences."""
    words, parts = text_of(summary), _parts(summary)
    known = [part for part in parts if part["worth"]]
    if not known:
        return ["Test has no labels, so what the parts are worth is not known."]
    first, gain = parts[0], parts[0]["worth"]
    change = words.gain.change(gain["mean"])
    text = f"Worth most on validation is {first['about']}: {change} on test"
    if gain["ci95"] is None:
        return [
            f"{text}. One replica cannot show what a part is worth; `seeds: 5` gives intervals.",
            *_kept(summary),
        ]
    sentences = [f"{text} (95 % interval {interval_of(gain, words.gain.signed)})."]
    shown = [part for part in known if (part["p_holm"] or 0.0) < LEVEL]
    helps = [part["about"] for part in shown if part["worth"]["mean"] > 0]
    hurts = [part["about"] for part in shown if part["worth"]["mean"] < 0]
    for names, how in ((helps, "helps"), (hurts, "hurts")):
        if names:
            sentences.append(
                f"{sure(how, gain['n']).capitalize()} on test (Holm-corrected p < {LEVEL}): {', '.join(names)}."
            )
    rest = len(known) - len(helps) - len(hurts)
    if rest:
        sentences.append(
            f"Of {rest} {'other ' * bool(shown)}part{'s' * (rest > 1)} these {gain['n']} replicas cannot show that "
            "they matter. One at a time: two that do the same work each look like nothing, and may not be left out "
            "together."
        )
    return [*sentences, *_kept(summary)]


def ablation_tables(run: RunData) -> dict[str, Table]:
    """Every part, for page and CSV."""
    summary = run.summary
    key, cells = summary["metric"], ablation_cells(summary)
    records = []
    for name, model in ((summary["reference"], summary["whole"]), *_named(summary)):
        numbers = [(model[split] or {}).get(key) or {} for split in ("validation", "test")]
        spreads = [value.get(part) for value in numbers for part in ("mean", "std")]
        worth = model.get("worth") or {}
        bounds = worth.get("ci95") or (None, None)
        on_validation = (model.get("worth_validation") or {}).get("mean")
        records.append(
            (name, *spreads, on_validation, worth.get("mean"), *bounds, model.get("p"), model.get("p_holm"))
        )  # fmt: skip
    replicas = summary["whole"]["seconds"]["n"]
    return {
        "results": Table(
            name="results",
            title="What each part is worth",
            columns=list(cells[0]),
            rows=[[NONE if cell is None else str(cell) for cell in row.values()] for row in cells],
            fields=["without", f"validation_{key}", "validation_std", f"test_{key}", "test_std", "worth_validation",
                    "worth", "low95", "high95", "p", "p_holm"],
            records=records,
            note=f"The recipe without one part at a time, over {replicas} paired replicas; worth is "
            "how much better the whole recipe is. Ordered by worth on validation; interval and p (paired t test, "
            "corrected for the number of parts: Holm) are of test.",
        )
    }  # fmt: skip


def worth_of_parts(run: RunData) -> Picture | None:
    """Bars with intervals: the worth of each part on test. Call it inside `styled()`."""
    summary = run.summary
    words = text_of(summary)
    parts = [part for part in reversed(_parts(summary)) if part["worth"]]
    if not parts:
        return None
    figure = sheet(7.2, 1.0 + 0.4 * len(parts))
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.0)
    for height, part in enumerate(parts):
        _bar(axes, height, part["worth"], words.gain.factor)
    axes.set_yticks(range(len(parts)), [label(part["about"]) for part in parts])
    axes.set_ylim(-0.6, len(parts) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    unit = f" ({words.gain.unit.strip()})" if words.gain.unit else ""
    axes.set_xlabel(
        wrapped(f"{words.gain.name} in test {words.metric.name}{unit}; right of 0 the part helps")
    )
    return finish(
        figure,
        name="gains",
        title="Worth of each part",
        caption="Bars are mean paired differences of the whole recipe from the one without the part, on test; "
        "lines are 95 % intervals over replicas (not corrected for their number), dots the single replicas. Worth "
        "most on validation on top.",
    )


def _bar(axes: Axes, height: int, worth: Mapping[str, Any], factor: float) -> None:
    tint = COLOURS[_TONES[outcome(worth)]]
    values = [factor * value for value in worth["values"]]
    axes.barh(height, factor * worth["mean"], height=0.56, color=tint, alpha=0.55)
    if worth["ci95"] is not None:
        axes.plot([factor * b for b in worth["ci95"]], [height, height], color=INK, linewidth=1.6)
    axes.scatter(values, [height] * len(values), s=10, color=INK, alpha=0.5, linewidths=0)


def _named(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, summary["parts"][name]) for name in summary["ranking"]]


def _parts(summary: Summary) -> list[Mapping[str, Any]]:
    return [part for _, part in _named(summary)]


def _change(worth: Mapping[str, Any] | None, signed: Any) -> str:
    return NONE if worth is None else str(signed(worth["mean"]))


def _kept(summary: Summary) -> list[str]:
    return [f"Not left out: {text}." for text in summary["kept"]]
