"""What `targets:` keeps of the teachers' answers, and where; what cannot be learnt from a few classes of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, urlsplit

from raykd.config.engines import EngineModel
from raykd.config.methods import DisagreementDiscount
from raykd.config.objective import Objective, SoftTargets
from raykd.config.roles import Teacher
from raykd.config.root import Config
from raykd.config.schedules import values_of
from raykd.errors import Problem
from raykd.methods.weightings import WEIGHTING_ROWS
from raykd.tasks import find_task

_RAISE = "raise targets.full_up_to to keep all classes"
_RIGHT_IN_PART = ("kl", "js", "skew_kl", "dkd")
"""Losses of the tempered probabilities, to which little mass in wrong places does little."""
_RIGHT_MIXED = ("probabilities", "losses")
_LOOK = {"labels", "losses_TN", "student_logits"}
"""What a weighting is given that it holds against the teachers' answers."""
_MAPS = ("dense", "positions", "matrices", "pairs")
_SCHEMES = {
    "s3": ("endpoint_override", "region", "scheme"),
    "gs": ("endpoint_override", "scheme"),
    "file": (),
}
"""Where a store may lie -> options of the URI."""


def target_problems(config: Config) -> Iterator[Problem]:
    """Every problem of `targets` that needs no data and no model."""
    if config.targets.store is not None and "://" in config.targets.store:
        yield from uri_problems(config.targets.store)
    yield from _draws(config)
    if config.targets.features != "pooled":
        return
    for index, term in enumerate(config.objective.features):
        if term.loss.row.layout in _MAPS:
            yield Problem(
                f"objective.features.{index}.loss.type",
                f"{term.loss.type} compares positions, of which targets.features=pooled keeps the mean alone; "
                "use raw or int8, or another loss",
            )


def _draws(config: Config) -> Iterator[Problem]:
    """What is not linear in the teachers' probabilities, and so is wrong in the mean where they are estimated from draws."""
    targets, objective = config.targets, config.objective
    if targets.draws is None or not find_task(config.task).settings.chunks:
        return
    wrong: dict[str, object] = {
        "targets.mass": targets.mass,
        "targets.temperatures": targets.temperatures and list(targets.temperatures),
        "objective.labels.fill": "ensemble" if objective.labels.fill == "ensemble" else None,
        "evaluate.controls": "hard" if "hard" in config.evaluate.controls else None,
        **(_not_drawn(objective, objective.soft_targets) if objective.soft_targets else {}),
    }
    for teacher in config.teachers:
        own, key = teacher.temperature, f"teachers.{teacher.name}"
        wrong[f"{key}.temperature"] = None if own == 1.0 else own
        wrong[f"{key}.model.type"] = "engine" if isinstance(teacher.model, EngineModel) else None
    why = (
        f"which cannot be learnt from targets.draws={targets.draws}: drawn tokens tell each teacher's probabilities in the mean, "
        "and at temperature 1; leave one of the two out"
    )
    for where, found in wrong.items():
        if found is not None:
            yield Problem(where, f"found {found}, {why}")
    blind = [
        name for name, row in WEIGHTING_ROWS.items() if not row.looks and not _LOOK & {*row.needs}
    ]
    if objective.weighting.type not in blind:
        found = objective.weighting.type
        yield Problem(
            "objective.weighting.type", f"found {found}, {why}, or use {', '.join(blind)}"
        )


def _not_drawn(objective: Objective, soft: SoftTargets) -> dict[str, object]:
    """Key -> what it has that is not linear in the teachers' probabilities, None where there is nothing."""
    key, temperatures = "objective.soft_targets", _temperatures(objective, soft)
    listed = ", ".join(f"{value:g}" for value in sorted(temperatures))
    return {
        f"{key}.loss.type": None if soft.loss.type == "kl" else soft.loss.type,
        f"{key}.combine": None if soft.mixing in _RIGHT_MIXED else soft.mixing,
        f"{key}.temperature": None if temperatures == {1.0} else listed,
        f"{key}.sharpen": soft.sharpen,
        f"{key}.hard_share": soft.hard_share or None,
        f"{key}.top_k": soft.top_k,
        f"{key}.tail": None if soft.tail else "false",
        f"{key}.disagreement": None if soft.disagreement is None else soft.disagreement.type,
    }


def uri_problems(uri: str, key: str = "targets.store") -> Iterator[Problem]:
    """What is wrong with the URI of a store, without asking the bucket."""
    parts = urlsplit(uri)
    allowed = _SCHEMES.get(parts.scheme)
    if allowed is None:
        yield Problem(
            key,
            f"found {parts.scheme}://, allowed are {', '.join(f'{s}://' for s in _SCHEMES)}, or a folder",
        )
        return
    if "@" in parts.netloc:
        yield Problem(
            key,
            "holds credentials, which would be written into the run's folder; give them by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
        )
    elif (parts.scheme == "file") == bool(parts.netloc) or not (parts.netloc or parts.path):
        form = "file:///folder" if parts.scheme == "file" else f"{parts.scheme}://bucket/prefix"
        yield Problem(key, f"found {uri!r}, which names no bucket or folder; write {form}")
    unknown = [name for name, _ in parse_qsl(parts.query, True) if name not in allowed]
    if unknown:
        yield Problem(
            key, f"found the option {unknown[0]}, allowed are {', '.join(allowed) or 'none'}"
        )


def top_k_problems(config: Config, classes: int, *, largest: bool = True) -> Iterator[Problem]:
    """What cannot be learnt from the largest logits alone.

    Kept are, at some temperatures, the probabilities of the `top_k` classes and the sum of the others.

    Args:
        config: the recipe, with more classes than it keeps in full, or than it learns from.
        classes: of the data.
        largest: whether more are not kept either.
    """
    targets, soft = config.targets, config.objective.soft_targets
    found, mend = f"found {classes:,} classes, of which targets keep {targets.top_k}", _RAISE
    read = None if soft is None else soft.top_k
    if read is not None:
        key, kept = "objective.soft_targets.top_k", targets.top_k if largest else classes
        if read >= kept:
            text = f"found {read:,} of {kept:,} classes that are kept; leave it out, or give fewer"
            yield Problem(key, text)
        found, mend = f"found {key}={read}", f"leave {key} out"
    yield from _losses(config, found, mend)
    for teacher in config.teachers:
        if isinstance(teacher.temperature, str):
            yield Problem(
                f"teachers.{teacher.name}.temperature",
                f"found {teacher.temperature}; {found}, at temperatures known beforehand: give a number, or {mend}",
            )
            continue
        if targets.temperatures is None or not largest:
            continue
        listed = {_rounded(value) for value in (1.0, *targets.temperatures)}
        for value in sorted(needed_temperatures(config, [config.objective], teacher)):
            if _rounded(value) not in listed:
                yield Problem(
                    "targets.temperatures",
                    f"lacks {value:.9g}, at which teacher {teacher.name!r} is read (objective.soft_targets."
                    f"temperature times its own, or its own for hard labels); add it, give null for all that "
                    f"the objective uses, or {mend}",
                )


def needed_temperatures(
    config: Config, objectives: Sequence[Objective], teacher: Teacher
) -> set[float]:
    """The temperatures at which students hear a teacher: a constant T times its own.

    Args:
        config: the recipe.
        objectives: its objective, and those of its variants.
        teacher: one whose temperature is a number.
    """
    assert not isinstance(teacher.temperature, str), "refused before"
    own = float(teacher.temperature)
    soft = [objective.soft_targets for objective in objectives]
    factors = {values_of(one.course)[0] for one in soft if one is not None}
    if None in soft or "hard" in config.evaluate.controls:
        factors.add(1.0)
    return {factor * own for factor in factors}


def _rounded(value: float) -> str:
    return f"{value:.9g}"


def _temperatures(objective: Objective, soft: SoftTargets) -> set[float]:
    """All values of T that training goes through."""
    courses = [soft.course, *(phase.soft_targets.temperature for phase in objective.phases)]
    return {value for course in courses if course is not None for value in values_of(course)}


def _losses(config: Config, found: str, mend: str) -> Iterator[Problem]:
    objective, soft = config.objective, config.objective.soft_targets
    key, temperature = "objective.soft_targets", 1.0
    if soft is not None:
        right: tuple[str, ...] = _RIGHT_IN_PART
        if find_task(config.task).settings.chunks:  # the rest is a bucket of its own there
            right = (*right, "reverse_kl")
        if soft.loss.type not in right or soft.loss.knob("standardise"):
            what = "standardised logits" if soft.loss.type in right else soft.loss.type
            yield Problem(
                f"{key}.loss", f"{what} needs every class; {found}; use {', '.join(right)} without "
                f"standardise, or {mend}",
            )  # fmt: skip
        elif soft.mixing not in _RIGHT_MIXED:
            yield Problem(
                f"{key}.combine", f"{soft.mixing} needs every class; {found}; use {', '.join(_RIGHT_MIXED)}, or "
                f"{mend}",
            )  # fmt: skip
        values = _temperatures(objective, soft)
        if len(values) > 1:
            yield Problem(
                f"{key}.temperature", f"goes through {', '.join(f'{v:g}' for v in sorted(values))}; {found}, "
                f"which a student reads at one temperature: make it constant, or {mend}",
            )  # fmt: skip
        temperature = max(values)
    if soft is not None and soft.sharpen is not None:
        yield Problem(f"{key}.sharpen", f"needs every class; {found}; leave it out, or {mend}")
    weighting = objective.weighting
    if weighting.type == "entropy":
        yield Problem("objective.weighting.type", f"entropy needs every class; {found}; use another one, or {mend}")  # fmt: skip
    looking = {
        "objective.weighting.type": weighting.type == "confidence",
        f"{key}.disagreement": soft is not None
        and isinstance(soft.disagreement, DisagreementDiscount),
        "objective.labels.fill": soft is not None and objective.labels.fill == "ensemble",
    }
    for looking_key in (k for k, looks in looking.items() if looks and temperature != 1.0):
        yield Problem(
            looking_key, f"looks at probabilities at temperature 1, the soft targets at {temperature:g}; {found}, "
            f"which a student reads at one temperature: leave it out, set {key}.temperature=1, or {mend}",
        )  # fmt: skip
