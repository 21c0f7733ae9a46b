"""What an explanation says in words, from its numbers alone; see `raykd.evaluate.explanation.explanation_numbers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.evaluate.occlusion import TOP_SHARE
from raykd.report.wording import number, percent, role_name, significant

_FEW = 10
Numbers = Mapping[str, Any]


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
    return [numbers["task"], f"{_samples(numbers)} of {split}", hidden]


def explanation_verdict(numbers: Numbers) -> list[str]:
    """What the maps show: whether they are like the ensemble's, like whose most, and whether they can be believed."""
    sentences = [*_likeness(numbers), *_of_teachers(numbers), _deletion(numbers)]
    own = numbers["control_against_student"]["spearman"]
    if own["mean"] is not None:
        sentences.append(
            "Maps of the same network with fresh weights have a rank correlation of "
            f"{two_digits(own['mean'])}{interval_text(own)} with the student's: so much comes from architecture and data alone."
        )
    if numbers["samples"] < _FEW:
        sentences.append(f"With {_samples(numbers)}, intervals are wide, or there are none.")
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
        f"{two_digits(own['mean'])}{interval_text(own)}, that of fresh weights {two_digits(control['mean'])}{interval_text(control)}.",
    ]


def _of_teachers(numbers: Numbers) -> list[str]:
    """Whose maps are nearest and furthest, where the two are told apart: their intervals do not meet."""
    found = {
        model_name(name): one["spearman"]["student"]
        for name, one in numbers["similarity"].items()
        if name != "ensemble" and one["spearman"]["student"]["ci95"] is not None
    }
    if len(found) < 2:
        return []
    most, least = (pick(found, key=lambda name: found[name]["mean"]) for pick in (max, min))
    if found[most]["ci95"][0] <= found[least]["ci95"][1]:
        return ["It is not shown that its maps are more like one teacher's than like another's."]
    return [
        f"Of the teachers, its maps are most like those of {most} ({two_digits(found[most]['mean'])}) and least like those "
        f"of {least} ({two_digits(found[least]['mean'])})."
    ]


def _deletion(numbers: Numbers) -> str:
    area = numbers["deletion"]["area"]
    moves = "changes its value more" if is_value(numbers) else "lowers its probability more"
    what = f"what the student's maps call important {moves} than removing as much in a random order"
    size = f"the area between the curves is {score_text(numbers, area['mean'])}{interval_text(area, numbers)}"
    if area["ci95"] is not None and area["ci95"][0] > 0:
        return f"The maps show what the student rests on: removing first {what}; {size}."
    return f"Do not rely on the maps: it is not shown that removing first {what}; {size}."


def two_digits(value: float | None) -> str:
    """A correlation or share: `0.65`, and `0.00` on both sides of 0."""
    return number(value if value is None else round(value, 2) + 0.0, 2)


def score_text(numbers: Numbers, value: float | None) -> str:
    """A difference of scores: of values in their unit."""
    return significant(value, 3) if is_value(numbers) else number(value)


def interval_text(found: Mapping[str, Any], scored: Numbers | None = None) -> str:
    """` (0.12 to 0.34)`; nothing where there is none."""
    if found["ci95"] is None:
        return ""
    low, high = (
        two_digits(bound) if scored is None else score_text(scored, bound)
        for bound in found["ci95"]
    )
    return f" ({low} to {high})"


def by_importance(numbers: Numbers) -> list[str]:
    """A table's features, the ensemble's most important first."""
    found = numbers["importance"]
    return sorted(found, key=lambda feature: -found[feature]["ensemble"])


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
