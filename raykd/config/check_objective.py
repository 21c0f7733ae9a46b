"""Combinations of the objective's settings that cannot work, or would silently do nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raykd.config.explanations import nearest
from raykd.config.methods import DisagreementFilter
from raykd.config.objective import FeatureTerm, Objective, SoftTargets, phase_weights
from raykd.config.root import Config
from raykd.config.schedules import ever_active
from raykd.config.tasks import CHOICES
from raykd.errors import Problem


def objective_problems(config: Config) -> Iterator[Problem]:
    """Every problem of `objective` that needs no data and no model."""
    yield from _active(config)
    yield from _given_weights(config)
    if config.objective.soft_targets is not None:
        yield from _soft_targets(config, config.objective.soft_targets)
    for index, term in enumerate(config.objective.features):
        yield from _feature(config, term, f"objective.features.{index}")
    yield from _phases(config.objective)
    yield from _best_teacher(config)


def _active(config: Config) -> Iterator[Problem]:
    objective = config.objective
    soft = objective.soft_targets
    weights = [objective.labels.weight, *(term.strength for term in objective.features)]
    if not any(map(ever_active, weights)) and not (soft and ever_active(soft.weight)):
        yield Problem("objective", "every term has weight 0: nothing would be learnt")


def _given_weights(config: Config) -> Iterator[Problem]:
    names = [teacher.name for teacher in config.teachers]
    for knob, given in config.objective.weighting.per_teacher.items():
        key = f"objective.weighting.{knob}"
        for name in given:
            if name not in names:
                known = f"; teachers: {', '.join(names)}{nearest(name, names)}"
                yield Problem(f"{key}.{name}", f"no such teacher{known}")
        for name in names:
            if name not in given:
                yield Problem(f"{key}.{name}", "is missing: every teacher needs a weight")
        if given and not any(given.values()):
            yield Problem(key, "all are 0")


def _soft_targets(config: Config, soft: SoftTargets) -> Iterator[Problem]:
    key, loss = "objective.soft_targets", soft.loss
    if soft.combine is not None:
        logits = config.task == "classification"
        standardised = logits and loss.knob("standardise")
        allowed = [
            way
            for way in loss.row.combines
            if way in CHOICES[config.task].combine
            and not (standardised and way == "probabilities_then_temper")
        ]
        if allowed and soft.combine not in allowed:
            what = f"{loss.type} of standardised logits" if standardised else loss.type
            yield Problem(
                f"{key}.combine",
                f"found {soft.combine}; with the loss {what} allowed are {', '.join(allowed)} "
                "(null takes the first)",
            )
    if loss.type == "mse" and config.task != "classification":
        for field in ("centred", "standardise"):
            if loss.knob(field):
                yield Problem(f"{key}.loss.{field}", f"means nothing with `task: {config.task}`")
    if soft.disagreement is not None and config.task != "classification":
        yield Problem(f"{key}.disagreement", "compares class probabilities: classification only")
    if isinstance(soft.disagreement, DisagreementFilter):
        votes = soft.disagreement.minimum_votes
        if votes > len(config.teachers):
            yield Problem(
                f"{key}.disagreement.minimum_votes",
                f"found {votes} with {len(config.teachers)} teachers: no sample would count",
            )


def _feature(config: Config, term: FeatureTerm, key: str) -> Iterator[Problem]:
    by_name = {teacher.name: teacher for teacher in config.teachers}
    teacher = by_name.get(term.teacher)
    if teacher is None:
        known = f"{', '.join(by_name)}{nearest(term.teacher, by_name)}"
        yield Problem(f"{key}.teacher", f"no teacher {term.teacher!r}; teachers: {known}")
    elif teacher.outputs is not None:
        yield Problem(
            f"{key}.teacher",
            f"teacher {term.teacher!r} brings outputs without a model: it has no features",
        )
    required = 2 if term.loss.row.layout == "pairs" else 1
    for side, taps in (("student_tap", term.student_taps), ("teacher_tap", term.teacher_taps)):
        if len(taps) != required:
            what = "a list of two module paths" if required == 2 else "one module path"
            yield Problem(f"{key}.{side}", f"{term.loss.type} needs {what}, found {_listed(taps)}")


def _phases(objective: Objective) -> Iterator[Problem]:
    ends = [phase.until_epoch for phase in objective.phases]
    if ends != sorted(set(ends)):
        yield Problem("objective.phases", f"until_epoch must rise, found {_listed(ends)}")
    for index, phase in enumerate(objective.phases):
        key, soft = f"objective.phases.{index}", objective.soft_targets
        given, terms = len(phase.features), len(objective.features)
        if given not in (0, 1, terms) or (given and not terms):
            yield Problem(
                f"{key}.features",
                f"has {given} entries for {terms} feature terms; give one for all, or one for each",
            )
            continue
        changed = phase.soft_targets
        if soft is None and (changed.weight, changed.temperature) != (None, None):
            yield Problem(f"{key}.soft_targets", "there are none: objective.soft_targets is null")
        if not any(map(ever_active, phase_weights(objective, phase))):
            yield Problem(key, "every term has weight 0: nothing would be learnt")


def _best_teacher(config: Config) -> Iterator[Problem]:
    """The control must have something to learn from, whichever teacher is best."""
    objective, soft = config.objective, config.objective.soft_targets
    if "best_teacher" not in config.evaluate.controls:
        return
    if ever_active(objective.labels.weight) or (soft is not None and ever_active(soft.weight)):
        return
    for teacher in config.teachers:
        own = [term for term in objective.features if term.teacher == teacher.name]
        if not any(ever_active(term.strength) for term in own):
            yield Problem(
                "evaluate.controls",
                f"best_teacher would learn nothing if that is {teacher.name!r}, which no feature term "
                "names; leave the control out, or give labels or soft_targets a weight",
            )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
