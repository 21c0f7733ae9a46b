"""Combinations of the objective's settings, and of what `targets:` keeps for it, that cannot work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from raykd.config.choosing import every_recipe, given_keys
from raykd.config.explanations import nearest
from raykd.config.heads import head_problems, uncertainty_problems
from raykd.config.methods import DisagreementFilter
from raykd.config.objective import (
    FeatureTerm,
    Objective,
    SoftTargets,
    phase_weights,
)
from raykd.config.root import Config
from raykd.config.scales import scale_problems
from raykd.config.schedules import ever_active, values_of
from raykd.errors import Problem
from raykd.methods import LOSS_ROWS
from raykd.tasks import find_task

_NOTHING = {
    "objective.labels.weight": "null",
    "objective.labels.fill": "none",
    "objective.phases": "[]",
}
_LEFT_OUT = {
    "objective.soft_targets.temperature": "null",
    "objective.soft_targets.sharpen": "null",
    "objective.soft_targets.hard_share": "0",
}
_POOLED = ("probabilities", "logits")


def objective_problems(config: Config) -> Iterator[Problem]:
    """Every problem of `objective` that needs no data and no model."""
    if config.objective.choose is not None:
        yield from _choosing(config)
        return
    yield from _active(config)
    yield from _given_weights(config)
    yield from _replacing(config)
    if config.objective.soft_targets is not None:
        yield from _soft_targets(config, config.objective.soft_targets)
        yield from _target(config, config.objective.soft_targets)
    for index, term in enumerate(config.objective.features):
        yield from _feature(config, term, f"objective.features.{index}")
    yield from head_problems(config)
    yield from uncertainty_problems(config.objective)
    yield from scale_problems(config)
    yield from _phases(config.objective)
    yield from _best_teacher(config)


def _choosing(config: Config) -> Iterator[Problem]:
    """What leaves no target to be chosen; else the problems of the recipe with each target of the menu."""
    objective, key = config.objective, "objective.choose"
    if not find_task(config.task).settings.class_logits:
        yield Problem(
            key,
            f"chooses among targets of class probabilities, which `task: {config.task}` has none of; leave it out",
        )
        return
    if objective.soft_targets is None:
        yield Problem(
            key, "has no target to choose: objective.soft_targets is null; leave one of the two out"
        )
        return
    for other in given_keys(objective.soft_targets):
        yield Problem(
            other, "is what objective.choose sets; leave it out, or give objective.choose=null"
        )
    if objective.phases:
        yield Problem(
            "objective.phases", "change what objective.choose compares; leave one of the two out"
        )
    found: dict[tuple[str, str], Problem] = {}
    for recipe in every_recipe(config, fully_labelled=True):
        found |= {(one.key, one.message): one for one in objective_problems(recipe)}
    yield from found.values()


def _active(config: Config) -> Iterator[Problem]:
    objective = config.objective
    soft = objective.soft_targets
    weights = [objective.labels.strength, *(term.strength for term in objective.features)]
    if not any(map(ever_active, weights)) and not (soft and ever_active(soft.strength)):
        yield Problem("objective", "every term has weight 0: nothing would be learnt")


def _replacing(config: Config) -> Iterator[Problem]:
    """What `labels.mode: replace` leaves no place for."""
    objective, key = config.objective, "objective.labels.mode"
    if not objective.labels.replaces:
        return
    if not find_task(config.task).settings.class_logits:
        yield Problem(
            key,
            f"found replace with `task: {config.task}`: only class probabilities can be replaced by a label; "
            "leave it out, or set it to add",
        )
    if objective.soft_targets is None:
        yield Problem(key, "found replace, and soft_targets null: there is nothing to replace")
    given = {
        "objective.labels.weight": objective.labels.weight is not None,
        "objective.labels.fill": objective.labels.fill != "none",
        "objective.phases": bool(objective.phases),
    }
    for other in (name for name, there in given.items() if there):
        yield Problem(
            other,
            "means nothing with objective.labels.mode=replace, where labels stand in the soft targets and have "
            f"their weight; leave it out ({other}={_NOTHING[other]}), or set the mode to add",
        )


def _target(config: Config, soft: SoftTargets) -> Iterator[Problem]:
    """What `sharpen` and `hard_share` need to make one target of the teachers' mixture."""
    if not soft.remakes_target:
        return
    key = "objective.soft_targets"
    name = "sharpen" if soft.sharpen is not None else "hard_share"
    if not find_task(config.task).settings.class_logits:
        yield Problem(
            f"{key}.{name}",
            f"makes a target of class probabilities, which `task: {config.task}` has none of; leave it out",
        )
        return
    if soft.loss.type != "kl" or soft.loss.knob("standardise"):
        found = "kl of standardised logits" if soft.loss.type == "kl" else soft.loss.type
        yield Problem(
            f"{key}.{name}", f"needs the loss kl, found {found}; leave one of the two out"
        )
    elif soft.mixing not in _POOLED:
        yield Problem(
            f"{key}.combine",
            f"found {soft.mixing}; with {name}, for which the teachers are mixed first, allowed are "
            f"{', '.join(_POOLED)}",
        )
    phases = config.objective.phases
    courses = [soft.temperature, *(phase.soft_targets.temperature for phase in phases)]
    values = {value for course in courses if course is not None for value in values_of(course)}
    if values - {1.0}:
        yield Problem(
            f"{key}.temperature",
            f"found {', '.join(f'{value:g}' for value in sorted(values))}; with {name} the student learns the "
            f"target at 1: leave it out, or give {key}.temperature=null",
        )


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
    if config.objective.weighting.type != "stacking":
        return
    for teacher in config.teachers:
        if teacher.temperature != "fit":
            yield Problem(f"teachers.{teacher.name}.temperature", f"found {teacher.temperature}; objective.weighting=stacking is of "
                          "calibrated teachers, since others are weighed by how sure they are: give fit, or take another weighting")  # fmt: skip


def _soft_targets(config: Config, soft: SoftTargets) -> Iterator[Problem]:
    key, loss, task = "objective.soft_targets", soft.loss, find_task(config.task).settings
    if soft.combine is not None:
        standardised = task.class_logits and loss.knob("standardise")
        allowed = [
            way
            for way in loss.row.combines
            if way in task.combine and not (standardised and way == "probabilities_then_temper")
        ]
        if allowed and soft.combine not in allowed:
            what = f"{loss.type} of standardised logits" if standardised else loss.type
            yield Problem(
                f"{key}.combine",
                f"found {soft.combine}; with the loss {what} allowed are {', '.join(allowed)} "
                "(null takes the first)",
            )
    if loss.type == "mse" and not task.class_logits:
        for field in ("centred", "standardise"):
            if loss.knob(field):
                yield Problem(f"{key}.loss.{field}", f"means nothing with `task: {config.task}`")
    if not loss.row.tempers:
        yield from _untempered(config, soft)
    if soft.disagreement is not None and not task.class_logits:
        yield Problem(f"{key}.disagreement", "compares class probabilities: classification only")
    if isinstance(soft.disagreement, DisagreementFilter):
        votes = soft.disagreement.minimum_votes
        if votes > len(config.teachers):
            yield Problem(
                f"{key}.disagreement.minimum_votes",
                f"found {votes} with {len(config.teachers)} teachers: no sample would count",
            )


def _untempered(config: Config, soft: SoftTargets) -> Iterator[Problem]:
    """Temperatures of a recipe whose loss compares the student at 1."""
    courses = {"objective.soft_targets.temperature": soft.temperature} | {
        f"objective.phases.{index}.soft_targets.temperature": phase.soft_targets.temperature
        for index, phase in enumerate(config.objective.phases)
    }
    for key, course in courses.items():
        if course is not None and {*values_of(course)} != {1.0}:
            yield Problem(
                key,
                f"found {', '.join(f'{value:g}' for value in values_of(course))}; {soft.loss.type} tempers the teachers by "
                f"its gamma and compares the student at 1: leave it out ({key}=null)",
            )


def _foreground(config: Config, term: FeatureTerm, key: str) -> Iterator[Problem]:
    """A mask is of maps of images with boxes, and for losses that take one."""
    if term.foreground is None:
        return
    if not term.loss.row.masked:
        masked = ", ".join(name for name, row in LOSS_ROWS.items() if row.masked)
        yield Problem(
            f"{key}.foreground",
            f"{term.loss.type} takes no mask of positions; use {masked}, or leave it out",
        )
    if not find_task(config.task).settings.boxes:
        yield Problem(
            f"{key}.foreground", f"needs boxes, and `task: {config.task}` has none; leave it out"
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
            f"teacher {term.teacher!r} has outputs and no model: it has no features",
        )
    if term.loss.row.refused is not None:
        yield Problem(f"{key}.loss.type", f"{term.loss.type} {term.loss.row.refused}")
    yield from _foreground(config, term, key)
    if term.projector == "orthogonal" and not term.loss.row.projects:
        yield Problem(
            f"{key}.projector",
            f"{term.loss.type} compares features of any width and has no projector; leave it out",
        )
    if term.target == "layer_norm" and term.loss.row.layout in ("matrices", "pairs"):
        yield Problem(
            f"{key}.target", f"{term.loss.type} compares what has no channels; leave it out"
        )
    if term.target == "layer_norm" and term.loss.knob("standardise"):
        yield Problem(
            f"{key}.target",
            f"found layer_norm, and {term.loss.type} standardises the teacher's channels itself; give "
            f"{key}.loss.standardise=false, or leave it out",
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
    if ever_active(objective.labels.strength) or (soft is not None and ever_active(soft.strength)):
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
