"""A recipe without one of its parts at a time: its teachers, terms, weighting and view steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raykd.config.evaluating import Evaluate
from raykd.config.load import parse
from raykd.config.methods import WEIGHTINGS, Weighting
from raykd.config.objective import Objective, phase_weights, restricted
from raykd.config.root import Config
from raykd.config.schedules import ever_active
from raykd.config.variants import Variant
from raykd.errors import InputError

WHOLE = "whole"
"""Name of the recipe from which nothing is left out."""
Kind = Literal["teacher", "term", "weighting", "view"]


@dataclass(frozen=True)
class Part:
    """One part of a recipe.

    Attributes:
        name: of the variant without it: `teacher.wide`, `term.soft_targets`, `weighting`, `view.0`.
        kind: what it is.
        about: the same in words.
        config: the recipe without it.
    """

    name: str
    kind: Kind
    about: str
    config: Config


@dataclass(frozen=True)
class Ablation:
    """What is left out of a recipe, one part at a time.

    Attributes:
        whole: the recipe, without controls, requirements and search.
        parts: what is left out.
        kept: what is not, and why; in words.
    """

    whole: Config
    parts: tuple[Part, ...]
    kept: tuple[str, ...]

    @property
    def variants(self) -> list[Variant]:
        """The whole recipe, then the recipe without each part."""
        parts = [Variant(part.name, part.config) for part in self.parts]
        return [Variant(WHOLE, self.whole), *parts]


@dataclass(frozen=True)
class _Cut:
    """A part as it would be left out; or, with a reason, why it cannot be."""

    name: str
    kind: Kind
    about: str
    tree: dict[str, Any] | None
    why: str = ""


def ablation(config: Config, *, views: bool = False) -> Ablation:
    """Every part that can be left out of a recipe.

    Without a teacher the others' weights are renormalised, and their temperatures stay as they are. In
    place of the weighting every teacher counts the same.

    Args:
        config: the recipe.
        views: whether the steps of the view policy are left out too, one at a time.
    """
    whole = config.model_copy(update={"evaluate": Evaluate(controls=()), "search": None})
    cuts = [
        *_teachers(whole),
        *_terms(whole),
        *_weighting(whole),
        *(_views(whole) if views else ()),
    ]
    parts, kept = [], []
    for cut in cuts:
        if cut.tree is None:
            kept.append(f"{cut.about}: {cut.why}")
            continue
        try:
            parts.append(Part(cut.name, cut.kind, cut.about, parse(cut.tree)))
        except InputError as error:
            why = "; ".join(" ".join(str(problem).split()) for problem in error.problems)
            kept.append(f"{cut.about}: without it, {why}")
    return Ablation(whole, tuple(parts), tuple(kept))


def _tree(config: Config, **update: Any) -> dict[str, Any]:
    return config.model_copy(update=update).model_dump(mode="json")


def _teachers(config: Config) -> Iterator[_Cut]:
    for teacher in config.teachers:
        name, about = f"teacher.{teacher.name}", f"teacher {teacher.name}"
        if len(config.teachers) == 1:
            yield _Cut(name, "teacher", about, None, "it is the only one")
            continue
        stay = [term.teacher != teacher.name for term in config.objective.features]
        objective = restricted(config.objective, stay).model_copy(
            update={"weighting": _without(config.objective.weighting, teacher.name)}
        )
        others = tuple(one for one in config.teachers if one.name != teacher.name)
        yield _Cut(name, "teacher", about, _tree(config, teachers=others, objective=objective))


def _without(weighting: Weighting, teacher: str) -> Weighting:
    """The weighting for the other teachers; what is given for each is normalised where it is used."""
    update = {
        knob: {name: value for name, value in values.items() if name != teacher}
        for knob, values in weighting.per_teacher.items()
    }
    return weighting.model_copy(update=update)


def _terms(config: Config) -> Iterator[_Cut]:
    objective = config.objective
    active = _active(objective)
    every = [True] * len(objective.features)
    cuts = [
        ("term.labels", "labels", restricted(objective, every, labels=False)),
        ("term.soft_targets", "soft targets", restricted(objective, every, soft_targets=False)),
    ]
    for index, term in enumerate(objective.features):
        stay = [other != index for other in range(len(every))]
        about = f"{term.loss.type} of {term.teacher}"
        cuts.append((f"term.features.{index}", about, restricted(objective, stay)))
    for (name, about, rest), does in zip(cuts, active, strict=True):
        if does and sum(active) == 1:
            yield _Cut(name, "term", about, None, "it is the only term")
        elif does:
            yield _Cut(name, "term", about, _tree(config, objective=rest))


def _active(objective: Objective) -> list[bool]:
    """Whether labels, soft targets and each feature term have a weight at some time."""
    times = [phase_weights(objective, phase) for phase in (None, *objective.phases)]
    return [any(map(ever_active, weights)) for weights in zip(*times, strict=True)]


def _weighting(config: Config) -> Iterator[_Cut]:
    weighting = config.objective.weighting
    about = f"weighting {weighting.type}"
    if weighting.type == "uniform":
        yield _Cut("weighting", "weighting", about, None, "it is what others are held against")
    elif len(config.teachers) == 1:
        yield _Cut("weighting", "weighting", about, None, "there is one teacher")
    else:
        even = config.objective.model_copy(update={"weighting": WEIGHTINGS["uniform"]()})
        yield _Cut("weighting", "weighting", about, _tree(config, objective=even))


def _views(config: Config) -> Iterator[_Cut]:
    policy = config.data.views.policy
    for index, step in enumerate(policy):
        rest = policy[:index] + policy[index + 1 :]
        update: dict[str, Any] = {"policy": rest} if rest else {"policy": (), "count": 1}
        views = config.data.views.model_copy(update=update)
        data = config.data.model_copy(update={"views": views})
        yield _Cut(f"view.{index}", "view", f"view step {step.type}", _tree(config, data=data))


def names_of(parts: Sequence[Part]) -> str:
    """The parts in words."""
    return ", ".join(part.about for part in parts)
