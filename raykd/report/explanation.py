"""The page of `raykd explain`: one HTML file, its figures and tables, and every number as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.evaluate.explanation import Explanation, explanation_numbers
from raykd.evaluate.occlusion import TOP_SHARE
from raykd.folders import write_json
from raykd.report.page import render, write_parts
from raykd.report.tables import Table
from raykd.report.wording import NONE, number, percent, role_name, significant

NUMBERS, PAGE = "explain.json", "explain.html"
_FEW = 10
Numbers = Mapping[str, Any]


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
    write_parts(folder, pictures, tables)
    write_json(folder / NUMBERS, numbers)
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


def model_name(name: str) -> str:
    """A model of an explanation as it is shown: `ensemble`, `wide` of `teacher/wide`."""
    return role_name(name.removeprefix("teacher/"))


def is_value(numbers: Numbers) -> bool:
    """Whether a value is explained, and not the probability of a class or label."""
    return bool(numbers["score"] == "value")


def about(numbers: Numbers) -> list[str]:
    """What was explained, in a few words each."""
    settings, split = numbers["settings"], numbers["split"]
    if "patch" in settings:
        hidden = f"patches of {settings['patch']}×{settings['patch']} pixels"
    else:
        hidden = f"{len(settings['features'])} features"
    return [numbers["task"], f"{numbers['samples']} samples of {split}", hidden]


def explanation_verdict(numbers: Numbers) -> list[str]:
    """What the maps show: whether they are like the ensemble's, like whose most, and whether they can be believed."""
    sentences = [*_likeness(numbers), *_of_teachers(numbers), _deletion(numbers)]
    own = numbers["control_against_student"]["spearman"]
    if own["mean"] is not None:
        sentences.append(
            "So much of its maps comes from architecture and data alone: their rank correlation with those of fresh "
            f"weights is {two_digits(own['mean'])}{_interval(own)}."
        )
    if numbers["samples"] < _FEW:
        sentences.append(f"{_samples(numbers)} are few: intervals are wide, or there are none.")
    sentences += [
        f"Left out: teacher {name}, which {why}." for name, why in numbers["left_out"].items()
    ]
    return sentences


def _samples(numbers: Numbers) -> str:
    count = numbers["samples"]
    return f"{count} sample{'' if count == 1 else 's'}"


def _likeness(numbers: Numbers) -> list[str]:
    found = numbers["similarity"]["ensemble"]["spearman"]
    own, control, difference = (found[name] for name in ("student", "control", "difference"))
    where = "Where they differ most" if is_value(numbers) else "Where they part"
    if own["mean"] is None:
        return [f"{where}, no map has ranks to compare: all parts are worth the same."]
    low, high = difference["ci95"] or (None, None)
    does = "the student looks {} where its ensemble looks than the same network with fresh weights does"
    if low is not None and low > 0:
        says = does.format("more")
    elif high is not None and high < 0:
        says = does.format("less")
    else:
        says = f"it is not shown that {does.format('more')}"
    count, parted = numbers["samples"], numbers["parted"]
    of = "" if parted == count else f" of {parted}"
    return [
        f"{where}, {says}.",
        f"On {count}{of} samples of {numbers['split']} the rank correlation of its maps with the ensemble's is "
        f"{two_digits(own['mean'])}{_interval(own)}, that of fresh weights {two_digits(control['mean'])}{_interval(control)}.",
    ]


def _of_teachers(numbers: Numbers) -> list[str]:
    found = {
        name: one["spearman"]["student"]["mean"]
        for name, one in numbers["similarity"].items()
        if name != "ensemble" and one["spearman"]["student"]["mean"] is not None
    }
    if len(found) < 2:
        return []
    most, least = max(found, key=lambda n: found[n]), min(found, key=lambda n: found[n])
    return [
        f"Of the teachers, its maps are most like those of {model_name(most)} ({two_digits(found[most])}) and least like "
        f"those of {model_name(least)} ({two_digits(found[least])})."
    ]


def _deletion(numbers: Numbers) -> str:
    area = numbers["deletion"]["area"]
    moves = "changes its value more" if is_value(numbers) else "lowers its probability more"
    what = f"what the student's maps call important {moves} than removing as much in a random order"
    size = f"the area between the curves is {score_text(numbers, area['mean'])}{_interval(area, numbers)}"
    if area["ci95"] is not None and area["ci95"][0] > 0:
        return f"The maps show what the student rests on: removing first {what}; {size}."
    return f"Do not rely on the maps: it is not shown that removing first {what}; {size}."


def two_digits(value: float | None) -> str:
    """A correlation or share: `0.65`, and `0.00` on both sides of 0."""
    return number(value if value is None else round(value, 2) + 0.0, 2)


def score_text(numbers: Numbers, value: float | None) -> str:
    """A difference of scores: of values in their unit."""
    return significant(value, 3) if is_value(numbers) else number(value)


def _interval(found: Mapping[str, Any], scored: Numbers | None = None) -> str:
    """` (0.12 to 0.34)`; nothing where there is none."""
    if found["ci95"] is None:
        return ""
    low, high = (
        two_digits(bound) if scored is None else score_text(scored, bound)
        for bound in found["ci95"]
    )
    return f" ({low} to {high})"


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
                f"{two_digits(found[measure]['student']['mean'])}{_interval(found[measure]['student'])}",
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


def by_importance(numbers: Numbers) -> list[str]:
    """A table's features, the ensemble's most important first."""
    found = numbers["importance"]
    return sorted(found, key=lambda feature: -found[feature]["ensemble"])


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


def method(numbers: Numbers) -> Sequence[str]:
    """How maps are made and compared, a paragraph each."""
    settings = numbers["settings"]
    if "patch" in settings:
        hidden = (
            f"Patches of {settings['patch']}×{settings['patch']} pixels, every {settings['stride']}, are hidden one at a "
            "time: replaced by the mean of each channel over the training samples, before any model's own preprocessing."
        )
    else:
        hidden = (
            "One feature at a time is hidden: replaced by its mean over the training samples, before any model's own "
            "preprocessing. Neighbouring columns of 0 and 1 that always sum to 1 are one category, which is replaced by "
            "the most frequent one."
        )
    score = (
        "The map holds how much the value changes, whichever way."
        if is_value(numbers)
        else "The map holds how much the probability of one output falls, at temperature 1 and for all models the same: the "
        "ensemble's class, or the label that student and ensemble differ in most. Where no two parts overlap, "
        "probabilities, their logarithms and log-odds give the same ranks. Below 0 the part speaks against it."
    )
    return (
        f"{hidden} {score} (Zeiler and Fergus 2014, section 4.2)",
        "Rank correlation is Spearman's, within each sample's map. IoU is the intersection over the union of the most "
        f"important {percent(TOP_SHARE, 0)} of the places; places that are equally important share what room is left.",
        "The control is the student's architecture with fresh weights (Adebayo et al. 2018, section 3). A map that such a "
        "network has as well says nothing of what was learnt.",
        "The deletion curve removes a sample's pixels or features in the order of the student's own map, or at random "
        "(Petsiuk et al. 2018, section 4). The student is replica 0 at its best epoch; the ensemble is the plain mean of "
        "the teachers that have a map.",
    )
