"""Terms that compare a teacher's tokens at a scale that is fitted to them, and what they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from raykd.config.objective import FeatureTerm, Objective, SoftTargets
from raykd.config.root import Config
from raykd.errors import Problem
from raykd.tasks import find_task

Kind = Literal["global", "phis"]
KINDS: tuple[Kind, ...] = ("global", "phis")
SUMMARY = ""
"""Tap of what a teacher itself returns: its vector."""
BY_TEACHERS = "objective.feature_weighting"


class Scaled(NamedTuple):
    """A teacher's tokens at one tap, and the kind of scale that they are compared at."""

    teacher: str
    tap: str
    kind: Kind


def scales_asked(objective: Objective, teachers: Iterable[str]) -> tuple[Scaled, ...]:
    """The scales that an objective needs, each once.

    Args:
        objective: all of it.
        teachers: names of those that it listens to.
    """
    names, soft = tuple(teachers), objective.soft_targets
    found: list[Scaled] = []
    if soft is not None and soft.target is not None:
        found += [Scaled(name, SUMMARY, soft.target) for name in names]
    for term in objective.features:
        for kind in KINDS:
            if term.target == kind and term.teacher in names:
                found += [Scaled(term.teacher, tap, kind) for tap in term.teacher_taps]
    return tuple(dict.fromkeys(found))


def scale_problems(config: Config) -> Iterator[Problem]:
    """What heads, fitted scales and shares by teachers do not go together with."""
    soft = config.objective.soft_targets
    if soft is not None:
        for name in ("projector", "target"):
            if (found := getattr(soft, name)) is not None:
                yield from _of_vectors(config, soft, name, found)
    for index, term in enumerate(config.objective.features):
        if term.projector == "mlp" or term.target in KINDS:
            yield from _of_feature(term, f"objective.features.{index}")
    if config.objective.feature_weighting == "teachers":
        yield from _shares(config.objective)
    vectors = find_task(config.task).settings.fitted_as is not None
    drops = "losses_TN" in config.objective.weighting.row.needs
    if vectors and drops and (soft is None or soft.mixing == "relations"):
        found = (
            "no soft targets"
            if soft is None
            else f"the loss {soft.loss.type}, which averages the teachers' relations"
        )
        yield Problem("objective.weighting.type", f"found {config.objective.weighting.type} with {found}: it goes by what each "
                      "teacher's vectors cost by themselves; use cosine_smooth_l1, cosine or smooth_l1, or uniform")  # fmt: skip


def _of_vectors(config: Config, soft: SoftTargets, name: str, found: str) -> Iterator[Problem]:
    key = f"objective.soft_targets.{name}"
    if find_task(config.task).settings.fitted_as is None:
        yield Problem(key, f"found {found} with `task: {config.task}`: it is for vectors (`task: embedding`), which are compared by a "
                      "head for each teacher; leave it out")  # fmt: skip
    elif soft.mixing == "relations" or not soft.loss.row.projects:
        yield Problem(key, f"found {found} with the loss {soft.loss.type}, which has no heads; use cosine_smooth_l1, cosine or "
                      "smooth_l1, or leave it out")  # fmt: skip
    elif name == "target" and soft.loss.knob("standardise"):
        yield _standardised("objective.soft_targets", found)


def _of_feature(term: FeatureTerm, key: str) -> Iterator[Problem]:
    if len(term.teacher_taps) != 1 or not term.loss.row.projects:
        name = "projector" if term.projector == "mlp" else "target"
        yield Problem(f"{key}.{name}", f"found {getattr(term, name)} with the loss {term.loss.type}, which has no heads; use "
                      "cosine_smooth_l1, cosine, smooth_l1 or hint, or leave it out")  # fmt: skip
    elif term.target in KINDS and term.loss.knob("standardise"):
        yield _standardised(key, str(term.target))


def _standardised(key: str, found: str) -> Problem:
    return Problem(f"{key}.loss.standardise", f"found true beside target={found}: that scale is fitted once, and statistics of "
                   "batches would change it; give false")  # fmt: skip


def _shares(objective: Objective) -> Iterator[Problem]:
    if not objective.features:
        yield Problem(
            BY_TEACHERS, "found teachers without feature terms, which it is for; leave it out"
        )
    if objective.soft_targets is None:
        yield Problem(BY_TEACHERS, "found teachers, and soft_targets null: shares are those of the teachers there; leave it out")  # fmt: skip
