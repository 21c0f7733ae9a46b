"""Recipes made of a recipe: other methods, its folds, and itself without one of its parts at a time.

They share their data and teachers, but for the folds, which share the samples only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raykd.config.check import RESERVED
from raykd.config.data import Fold
from raykd.config.explanations import nearest
from raykd.config.load import load_config, parse
from raykd.config.methods import WEIGHTINGS, Weighting
from raykd.config.objective import Objective, phase_weights, restricted
from raykd.config.root import Config, Evaluate
from raykd.config.schedules import ever_active
from raykd.errors import InputError, Problem
from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS, feature_losses
from raykd.tasks import find_task

WHOLE = "whole"
"""Name of the recipe from which nothing is left out."""
Kind = Literal["teacher", "term", "weighting", "texts", "peers", "view"]
_OTHER_NAMES = {"ce": "kl", "cross_entropy": "kl", "kd": "kl", "l2": "mse"}
"""What losses are called elsewhere: cross-entropy with the teachers has the gradient of `kl`."""
_MAY_VARY = frozenset({"objective", "peers", "student", "train"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_TAPS = re.compile(r"(?P<student>[^=\s]+)=(?P<teacher>[^.=\s]+)\.(?P<tap>[^=\s]+)")


@dataclass(frozen=True)
class Variant:
    """One way to teach the student, and what it is called."""

    name: str
    config: Config


def method_variants(
    config: Config,
    *,
    losses: Sequence[str] = (),
    weightings: Sequence[str] = (),
    taps: str | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    cross: bool = False,
) -> list[Variant]:
    """The recipe's own method, then each loss and each weighting put in its place.

    Args:
        config: the recipe; its weights, temperature and other settings hold for every variant. A target that it leaves
            to `objective.choose` is chosen once, for all variants but those of another loss, which have none.
        losses: soft-target losses, each in place of the recipe's; a feature loss is added to it.
        weightings: ensemble weightings.
        taps: what feature losses compare, `STUDENT_TAP=TEACHER.TEACHER_TAP`.
        others: name -> overrides `key.sub=value` under objective, peers, student or train.
        cross: every loss with every weighting, instead of one change at a time.

    Returns:
        Variants called `loss+weighting`, or by their own name; the recipe's own method first.

    Raises:
        InputError: with every problem of every variant.
    """
    problems = [
        *_unknown_losses(losses, config.task),
        *_unknown("--weightings", weightings, tuple(WEIGHTING_ROWS)),
        *_misplaced(others or {}),
    ]
    if config.objective.soft_targets is None:
        problems.append(Problem("objective.soft_targets", "is null; there is no loss to compare"))
    if taps is None and (named := [loss for loss in losses if _of_features(config, loss)]):
        problems.append(Problem("--taps", f"is needed for {named[0]}: STUDENT_TAP=TEACHER.TEACHER_TAP, with module "
                                "paths as `raykd inspect` prints them"))  # fmt: skip
    elif taps is not None and not _TAPS.fullmatch(taps):
        problems.append(Problem("--taps", f"found {taps!r}; write STUDENT_TAP=TEACHER.TEACHER_TAP"))
    if problems:
        raise InputError(problems)
    found: dict[str, Variant] = {}
    named_changes = dict(_methods(config, losses, weightings, taps, cross))
    for name, overrides in {**named_changes, **(others or {})}.items():
        try:
            varied = load_config(config.model_dump(mode="json"), overrides)
            found[name] = Variant(name, varied)
            problems += _teachers_gone(name, config, varied)
        except InputError as error:
            problems += [Problem(f"{name}: {p.key}", p.message) for p in error.problems]
    if problems:
        raise InputError(problems)
    return list(found.values())


def _teachers_gone(name: str, config: Config, varied: Config) -> Iterator[Problem]:
    """The teachers stay beside all variants, or beside none."""
    if config.objective.on_policy is None and varied.objective.on_policy is not None:
        yield Problem(
            f"{name}: objective.on_policy",
            "is in this variant alone, and the teachers stay beside the students only where the recipe has it; give it to the "
            "recipe, and objective.on_policy=null to a variant without it",
        )


def _methods(
    config: Config, losses: Sequence[str], weightings: Sequence[str], taps: str | None, cross: bool
) -> Iterator[tuple[str, list[str]]]:
    """Name of each method, and the overrides that make it of the recipe."""
    soft, own_weighting = config.objective.soft_targets, config.objective.weighting.type
    assert soft is not None, "refused before"
    own_loss = soft.loss.type
    pairs: list[tuple[str, str]] = [(own_loss, own_weighting)]
    pairs += [(loss, own_weighting) for loss in losses]
    pairs += [(own_loss, weighting) for weighting in weightings]
    if cross:
        pairs += [(loss, weighting) for loss in losses for weighting in weightings]
    for loss, weighting in pairs:
        name, overrides = f"{loss}+{weighting}", []
        if weighting != own_weighting:
            overrides.append(f"objective.weighting.type={weighting}")
        if _of_features(config, loss):
            name = f"{own_loss}+{weighting}+{loss}"
            overrides.append(f"objective.features={json.dumps([_feature(loss, taps)])}")
        elif loss != own_loss:
            overrides.append(f"objective.soft_targets.loss.type={loss}")
            if not LOSS_ROWS[loss].tempers:
                overrides.append("objective.soft_targets.temperature=null")
            if config.objective.choose is not None:  # its targets are for kl alone
                overrides.append("objective.choose=null")
        yield name, overrides


def _of_features(config: Config, loss: str) -> bool:
    """Whether a loss compares features; of embeddings some compare the vectors themselves."""
    return loss in feature_losses() and loss not in find_task(config.task).settings.soft_losses


def _feature(loss: str, taps: str | None) -> dict[str, Any]:
    parts = _TAPS.fullmatch(taps or "")
    assert parts is not None, "refused before"
    return {
        "loss": {"type": loss},
        "teacher": parts["teacher"],
        "student_tap": parts["student"],
        "teacher_tap": parts["tap"],
    }


def _unknown(option: str, given: Sequence[str], known: Sequence[str]) -> Iterator[Problem]:
    for name in given:
        if name not in known:
            yield Problem(
                option, f"knows no {name!r}{nearest(name, known)}; there are {', '.join(known)}"
            )


def _unknown_losses(given: Sequence[str], task: str) -> Iterator[Problem]:
    """Names that are no loss of the task; of those of other tasks none is offered."""
    soft = find_task(task).settings.soft_losses
    features = tuple(name for name in feature_losses() if name not in soft)
    for name in given:
        if name not in (*soft, *features):
            meant = nearest(_OTHER_NAMES.get(name, name), soft) or nearest(name, features)
            usable = ", ".join(name for name in features if LOSS_ROWS[name].refused is None)
            yield Problem("--losses", f"knows no {name!r}{meant}; of task {task} there are {', '.join(soft)}; and of features, "
                          f"with --taps, {usable}")  # fmt: skip


def _misplaced(others: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Names that are none, and overrides of what all variants share."""
    for name, overrides in others.items():
        if not _NAME.fullmatch(name) or name in RESERVED:
            yield Problem("--variant", f"{name!r} is no name for one: letters, digits, _ . + -, and none of "
                          f"{', '.join(RESERVED)}")  # fmt: skip
        for text in overrides:
            key, _, value = text.partition("=")
            if key.startswith("objective.choose") and value != "null":
                yield Problem(f"--variant {name}", f"cannot set {text!r}: one choice serves all methods, so that it is the "
                              "recipe's own to set; here only objective.choose=null")  # fmt: skip
            elif key.split(".")[0] not in _MAY_VARY:
                yield Problem(f"--variant {name}", f"cannot change {text!r}; only keys under "
                              f"{', '.join(sorted(_MAY_VARY))}: data and teachers are shared")  # fmt: skip


def fold_recipes(config: Config) -> list[Config]:
    """The recipe of each fold, without the requirements, which are of all folds together."""
    assert config.folds is not None, "only for recipes with folds"
    return [_of_fold(config, Fold(index=index, of=config.folds)) for index in range(config.folds)]


def first_fold(config: Config) -> Config:
    """The recipe itself; of a cross-validation that of its first fold, which stands for all."""
    return config if config.folds is None else fold_recipes(config)[0]


def _of_fold(config: Config, fold: Fold) -> Config:
    splits = config.data.splits.model_copy(update={"fold": fold})
    return config.model_copy(
        update={
            "folds": None,
            "data": config.data.model_copy(update={"splits": splits}),
            "evaluate": config.evaluate.model_copy(update={"require": ()}),
        }
    )


@dataclass(frozen=True)
class Part:
    """One part of a recipe.

    Attributes:
        name: of the variant without it: `teacher.wide`, `term.soft_targets`, `weighting`, `feature_weighting`,
            `on_policy`, `peers`, `view.0`.
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
        *_feature_weighting(whole),
        *_on_policy(whole),
        *_peers(whole),
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


def _feature_weighting(config: Config) -> Iterator[_Cut]:
    if config.objective.feature_weighting is not None:
        without = config.objective.model_copy(update={"feature_weighting": None})
        about = f"feature weighting {config.objective.feature_weighting}"
        yield _Cut("feature_weighting", "weighting", about, _tree(config, objective=without))


def _on_policy(config: Config) -> Iterator[_Cut]:
    if config.objective.on_policy is not None:
        without = config.objective.model_copy(update={"on_policy": None})
        about = f"on-policy texts, {config.objective.on_policy.share:g} of each batch"
        yield _Cut("on_policy", "texts", about, _tree(config, objective=without))


def _peers(config: Config) -> Iterator[_Cut]:
    if config.peers is not None:
        about = f"peers: {', '.join(config.peers.others(0))} by {config.peers.type}"
        yield _Cut("peers", "peers", about, _tree(config, peers=None))


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
