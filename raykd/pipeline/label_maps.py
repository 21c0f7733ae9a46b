"""A teacher's classes held against those of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raykd.config.models import Teacher
from raykd.config.objective import Objective
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.methods import WEIGHTING_ROWS
from raykd.models.names import nearest

LabelMap = tuple[int | None, ...]
_COMPARABLE = ("kl", "reverse_kl", "js", "skew_kl")
_SEPARATE = ("probabilities", "losses")


def resolve_label_map(teacher: Teacher, samples: Samples, *, key: str) -> LabelMap | None:
    """`label_map` as numbers of the data's classes; None where the classes are the data's own.

    Args:
        teacher: whose it is.
        samples: the data.
        key: its dotted key, for errors.

    Raises:
        InputError: an entry is no class of the data, or no entry is one.
    """
    if teacher.label_map is None:
        return None
    classes, names = samples.class_count, tuple(samples.classes)
    places = {name: index for index, name in enumerate(names)}
    problems, found = [], []
    for entry in teacher.label_map:
        if isinstance(entry, str):
            if entry not in places:
                near = ", ".join(nearest(entry, names)) or f"0 to {classes - 1}, they have no names"
                problems.append(Problem(key, f"holds {entry!r}, no class of the data; nearest: {near}"))  # fmt: skip
            found.append(places.get(entry))
            continue
        if entry is not None and entry >= classes:
            problems.append(Problem(key, f"holds {entry}; classes are 0 to {classes - 1}"))
        found.append(entry)
    if not problems and len({entry for entry in found if entry is not None}) < 2:
        problems.append(Problem(key, "leaves fewer than two of the data's classes; a teacher of one class "
                                "says nothing"))  # fmt: skip
    if problems:
        raise InputError(problems)
    return tuple(found)


def known_classes(label_map: LabelMap | None, classes: int) -> tuple[int, ...] | None:
    """The data's classes that a teacher knows, in order; None = all of them."""
    if label_map is None:
        return None
    known = tuple(sorted({entry for entry in label_map if entry is not None}))
    return None if len(known) == classes else known


def partial_problems(
    known: Mapping[str, tuple[int, ...] | None],
    objectives: Sequence[Objective],
    *,
    whole: bool,
    classes: int,
) -> Iterator[Problem]:
    """What cannot be learnt from teachers that know only some classes.

    Args:
        known: teacher -> the classes that it knows; None = all.
        objectives: of the recipe and of its variants.
        whole: whether all logits are kept.
        classes: of the data.
    """
    names = [name for name, some in known.items() if some is not None]
    if not names:
        return
    some = known[names[0]]
    assert some is not None, "it was chosen for that"
    found = f"teacher {names[0]!r} knows {len(some)} of {classes} classes (label_map)"
    if not whole:
        yield Problem(
            "targets.full_up_to", f"{found}, and targets keep the largest logits alone; raise it to {classes}"
        )  # fmt: skip
    for objective in objectives:
        yield from _objective(objective, found)


def _objective(objective: Objective, found: str) -> Iterator[Problem]:
    weighting = objective.weighting.type
    if WEIGHTING_ROWS[weighting].looks:
        blind = ", ".join(name for name, row in WEIGHTING_ROWS.items() if not row.looks)
        yield Problem(
            "objective.weighting.type", f"{weighting} compares all classes; {found}; use {blind}"
        )
    soft = objective.soft_targets
    if soft is None:
        return
    key = "objective.soft_targets"
    if soft.loss.type not in _COMPARABLE:
        yield Problem(
            f"{key}.loss.type",
            f"{soft.loss.type} compares all classes; {found}; use {', '.join(_COMPARABLE)}",
        )
    elif soft.mixing not in _SEPARATE:
        yield Problem(
            f"{key}.combine",
            f"{soft.mixing} mixes the teachers over all classes; {found}; use {', '.join(_SEPARATE)}",
        )
    if getattr(soft.loss, "standardise", False):
        yield Problem(f"{key}.loss.standardise", f"scales by all classes; {found}; leave it out")
    if soft.disagreement is not None:
        yield Problem(f"{key}.disagreement", f"compares all classes; {found}; leave it out")
