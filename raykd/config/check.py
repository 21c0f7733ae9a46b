"""What no single field can know: combinations that cannot work, or would silently do nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from raykd.config.explain import nearest
from raykd.config.models import FactoryModel, ResnetModel, Teacher, VitModel, WrnModel
from raykd.config.objective import FixedWeighting
from raykd.config.root import Config
from raykd.errors import Problem

REQUIREMENT = re.compile(
    r"^\s*([A-Za-z_][\w.\-]*)\s*(>=|<=|>|<|==)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*$"
)


def cross_check(config: Config) -> list[Problem]:
    """Every problem between fields; needs no data, no model and no cluster."""
    return [
        *_names(config),
        *(problem for teacher in config.teachers for problem in _teacher(teacher)),
        *_models(config),
        *_objective(config),
        *_features(config),
        *_training(config),
        *_requirements(config),
    ]


def _names(config: Config) -> Iterator[Problem]:
    for name, count in Counter(teacher.name for teacher in config.teachers).items():
        if count > 1:
            yield Problem(f"teachers.{name}", f"{count} teachers have this name; names are unique")


def _teacher(teacher: Teacher) -> Iterator[Problem]:
    key = f"teachers.{teacher.name}"
    if teacher.outputs is not None:
        for field in ("model", "fit", "weights"):
            if getattr(teacher, field) is not None:
                yield Problem(
                    f"{key}.{field}", "does nothing beside `outputs`; leave one of them out"
                )
        return
    if teacher.model is None:
        yield Problem(f"{key}.model", "is required (or give `outputs`)")
    elif (
        teacher.fit is None
        and teacher.weights is None
        and not isinstance(teacher.model, FactoryModel)
    ):
        yield Problem(
            key, f"a {teacher.model.type} without `fit` or `weights` would be untrained; give one"
        )
    if teacher.fit is not None and teacher.kind != "logits":
        yield Problem(f"{key}.kind", "a teacher that is fitted must return logits")
    if teacher.fit is not None and teacher.label_map is not None:
        yield Problem(
            f"{key}.label_map", "does nothing for a teacher fitted on this data's own classes"
        )
    if teacher.fit is not None and teacher.fit.freeze and teacher.weights is None:
        if not isinstance(teacher.model, FactoryModel):
            yield Problem(f"{key}.fit.freeze", "would freeze untrained layers; give `weights` too")


def _models(config: Config) -> Iterator[Problem]:
    specs = [(f"teachers.{t.name}.model", t.model) for t in config.teachers]
    for key, spec in [*specs, ("student.model", config.student.model)]:
        if isinstance(spec, ResnetModel) and (spec.depth - 2) % 6:
            yield Problem(
                f"{key}.depth", f"found {spec.depth}; a resnet has 6n + 2 layers: 8, 14, 20, 32"
            )
        if isinstance(spec, WrnModel) and ((spec.depth - 4) % 6 or spec.depth < 10):
            yield Problem(
                f"{key}.depth", f"found {spec.depth}; a wrn has 6n + 4 layers: 10, 16, 22, 28"
            )
        if isinstance(spec, VitModel) and spec.width < 0.0625:
            yield Problem(f"{key}.width", f"found {spec.width}; a vit needs at least 0.0625")


def _objective(config: Config) -> Iterator[Problem]:
    objective = config.objective
    soft = objective.soft_targets
    active = [
        objective.labels.weight,
        soft.weight if soft else 0.0,
        *(f.weight for f in objective.features),
    ]
    if not any(weight > 0 for weight in active):
        yield Problem("objective", "every term has weight 0: nothing would be learnt")
    names = [teacher.name for teacher in config.teachers]
    if isinstance(objective.weighting, FixedWeighting):
        weights = objective.weighting.weights
        for name in weights:
            if name not in names:
                known = f"; teachers: {', '.join(names)}{nearest(name, names)}"
                yield Problem(f"objective.weighting.weights.{name}", f"no such teacher{known}")
        for name in names:
            if name not in weights:
                yield Problem(
                    f"objective.weighting.weights.{name}",
                    "is missing: every teacher needs a weight",
                )
        if weights and not any(weights.values()):
            yield Problem("objective.weighting.weights", "all are 0")


def _features(config: Config) -> Iterator[Problem]:
    by_name = {teacher.name: teacher for teacher in config.teachers}
    for index, term in enumerate(config.objective.features):
        key = f"objective.features.{index}.teacher"
        teacher = by_name.get(term.teacher)
        if teacher is None:
            known = f"{', '.join(by_name)}{nearest(term.teacher, by_name)}"
            yield Problem(key, f"no teacher {term.teacher!r}; teachers: {known}")
        elif teacher.outputs is not None:
            yield Problem(
                key, f"teacher {term.teacher!r} brings outputs without a model: it has no features"
            )


def _training(config: Config) -> Iterator[Problem]:
    workers = config.cluster.student.workers
    if config.train.batch_size < workers:
        yield Problem(
            "train.batch_size", f"found {config.train.batch_size}, less than one sample for each of "
            f"{workers} workers; raise it or lower cluster.student.workers",
        )  # fmt: skip
    if config.data.views.count is None and config.targets.mode == "stored":
        yield Problem(
            "targets.mode", "stored needs a finite data.views.count, found null (a new view each epoch); "
            "give a count or use live",
        )  # fmt: skip
    if config.data.views.count is None or config.data.views.count > 1:
        if not config.data.views.policy:
            yield Problem("data.views.count", "several views of an empty policy are all the same; "
                          "set it to 1 or give data.views.policy")  # fmt: skip
    for teacher in config.teachers:
        if teacher.outputs is not None and config.data.views.policy:
            yield Problem(
                f"teachers.{teacher.name}.outputs",
                "has outputs of untransformed samples only; use data.views: {count: 1, policy: []}",
            )
    if config.train.compile and config.objective.features:
        yield Problem(
            "train.compile", "cannot be used with objective.features, which need module hooks"
        )


def _requirements(config: Config) -> Iterator[Problem]:
    for index, text in enumerate(config.evaluate.require):
        if REQUIREMENT.match(text) is None:
            yield Problem(
                f"evaluate.require.{index}", f"found {text!r}; write `student.test.accuracy >= 0.9`"
            )
