"""Several ways to teach one student, as recipes that share their data and teachers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.config.check import RESERVED
from raykd.config.explanations import nearest
from raykd.config.load import load_config
from raykd.config.root import Config
from raykd.config.tasks import CHOICES
from raykd.errors import InputError, Problem
from raykd.methods import WEIGHTING_ROWS, feature_losses, soft_losses

_MAY_VARY = frozenset({"objective", "student", "train"})
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
        config: the recipe; its weights, temperature and other settings hold for every variant.
        losses: soft-target losses, each in place of the recipe's; a feature loss is added to it.
        weightings: ensemble weightings.
        taps: what feature losses compare, `STUDENT_TAP=TEACHER.TEACHER_TAP`.
        others: name -> overrides `key.sub=value` under objective, student or train.
        cross: every loss with every weighting, instead of one change at a time.

    Returns:
        Variants called `loss+weighting`, or by their own name; the recipe's own method first.

    Raises:
        InputError: with every problem of every variant.
    """
    problems = [
        *_unknown("--losses", losses, tuple(dict.fromkeys((*soft_losses(), *feature_losses())))),
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
            found[name] = Variant(name, load_config(config.model_dump(mode="json"), overrides))
        except InputError as error:
            problems += [Problem(f"{name}: {p.key}", p.message) for p in error.problems]
    if problems:
        raise InputError(problems)
    return list(found.values())


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
        yield name, overrides


def _of_features(config: Config, loss: str) -> bool:
    """Whether a loss compares features; of embeddings some compare the vectors themselves."""
    return loss in feature_losses() and loss not in CHOICES[config.task].soft_losses


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


def _misplaced(others: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Names that are none, and overrides of what all variants share."""
    for name, overrides in others.items():
        if not _NAME.fullmatch(name) or name in RESERVED:
            yield Problem("--variant", f"{name!r} is no name for one: letters, digits, _ . + -, and none of "
                          f"{', '.join(RESERVED)}")  # fmt: skip
        for text in overrides:
            if text.split("=")[0].split(".")[0] not in _MAY_VARY:
                yield Problem(f"--variant {name}", f"cannot change {text!r}; only keys under "
                              f"{', '.join(sorted(_MAY_VARY))}: data and teachers are shared")  # fmt: skip
