"""Feature terms that ask a teacher's head, its last linear layer, and what they need."""

from __future__ import annotations

from collections.abc import Iterator

from raykd.config.objective import FeatureTerm, Objective
from raykd.config.root import Config
from raykd.errors import Problem
from raykd.tasks import find_task

FEATURE_WEIGHTING = "objective.feature_weighting"
_BELOW_ZERO = ("vid", "itrd", "itrd_mutual")
"""Losses of features without a lower bound."""


def asks_head(objective: Objective, term: FeatureTerm) -> bool:
    """Whether a term needs its teacher's head, for its loss or for its share among the terms."""
    return objective.feature_weighting == "heads" or "head_weight" in term.loss.row.needs


def teachers_asked(objective: Objective) -> tuple[str, ...]:
    """Teachers whose heads are needed, each once."""
    asked = (term.teacher for term in objective.features if asks_head(objective, term))
    return tuple(dict.fromkeys(asked))


def head_problems(config: Config) -> Iterator[Problem]:
    """What a recipe lacks for the heads that its terms ask."""
    objective = config.objective
    by_heads = objective.feature_weighting == "heads"
    if by_heads and not find_task(config.task).settings.class_logits:
        yield Problem(FEATURE_WEIGHTING, f"found heads with `task: {config.task}`: heads are judged by how well they name the "
                      "class; leave it out")  # fmt: skip
    if by_heads and not objective.features:
        yield Problem(
            FEATURE_WEIGHTING, "found heads without feature terms, which it is for; leave it out"
        )
    named = {teacher.name: teacher for teacher in config.teachers}
    for index, term in enumerate(objective.features):
        teacher, key = named.get(term.teacher), f"objective.features.{index}"
        if not asks_head(objective, term) or teacher is None:  # which is told elsewhere
            continue
        why = f"{term.loss.type}" if "head_weight" in term.loss.row.needs else FEATURE_WEIGHTING
        if teacher.head is None and teacher.outputs is None:
            yield Problem(f"teachers.{term.teacher}.head", f"is required by {why} ({key}): the module of its last linear "
                          "layer; `raykd inspect` prints their paths")  # fmt: skip
        if by_heads and teacher.label_map is not None:
            yield Problem(FEATURE_WEIGHTING, f"found heads, and teacher {term.teacher!r} has classes of its own (label_map), of "
                          "which its head speaks; leave it out")  # fmt: skip
        if by_heads and not term.loss.row.projects:
            yield Problem(FEATURE_WEIGHTING, f"found heads, and {term.loss.type} ({key}) has no projector to what the head reads; "
                          "use hint or srrl, or leave it out")  # fmt: skip
        if term.target is not None:
            yield Problem(f"{key}.target", f"found {term.target}, of which the head asked by {why} knows nothing; leave "
                          "it out")  # fmt: skip
        elif term.loss.knob("standardise"):
            yield Problem(f"{key}.loss.standardise", f"changes the scale, of which the head asked by {why} knows "
                          "nothing; give false")  # fmt: skip


def uncertainty_problems(objective: Objective) -> Iterator[Problem]:
    """Why variances of the terms cannot be learnt, where they are to be."""
    if objective.feature_weighting != "uncertainty":
        return
    if not objective.features:
        yield Problem(
            FEATURE_WEIGHTING,
            "found uncertainty without feature terms, which it is for; leave it out",
        )
    for index, term in enumerate(objective.features):
        key = f"objective.features.{index}"
        if term.loss.type in _BELOW_ZERO:
            yield Problem(f"{key}.loss", f"found {term.loss.type}, which may be negative, with "
                          "objective.feature_weighting=uncertainty: its variance would go to 0 and its weight beyond all "
                          "bounds; use another loss, or leave feature_weighting out")  # fmt: skip
        if term.weight is None:
            yield Problem(f"{key}.weight", "is needed with objective.feature_weighting=uncertainty, which finds the scale of the "
                          "loss itself; 1 is the paper's")  # fmt: skip
