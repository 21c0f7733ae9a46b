"""What no single field can know: combinations that cannot work, or would silently do nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from raykd.config.check_domains import domain_problems
from raykd.config.check_engines import check_engines
from raykd.config.check_hosting import device_map_problems, hosting_problems
from raykd.config.check_objective import objective_problems
from raykd.config.check_returns import return_problems
from raykd.config.check_sharing import sharing_problems
from raykd.config.check_targets import target_problems
from raykd.config.check_transfer import transfer_problems
from raykd.config.data import NoTokenizer, Views
from raykd.config.models import (
    FINISHED,
    ObjectModel,
    ResnetModel,
    SklearnModel,
    VitModel,
    WrnModel,
    brings_weights,
)
from raykd.config.on_policy import on_policy_problems
from raykd.config.peers import WITHOUT_PEERS, peer_problems
from raykd.config.roles import Student, Teacher
from raykd.config.root import Compared, Config, Slice
from raykd.config.sources import CsvSource, ParquetSource
from raykd.config.stages import ELSEWHERE, STAGE_CONTROLS
from raykd.config.training import LAST
from raykd.errors import Problem
from raykd.tasks import find_task

REQUIREMENT = re.compile(
    r"^\s*([A-Za-z_][\w.\-]*)\s*(>=|<=|>|<|==)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*$"
)
RESERVED = (
    "student", "ensemble", "labels", "best_teacher", "hard", "untrained", "without_peers", "all_labels"
)  # fmt: skip
_PEER = re.compile(r"peer\d+|average")


def cross_check(config: Config) -> list[Problem]:
    """Every problem between fields; needs no data, no model and no cluster."""
    return [
        *_source(config),
        *_names(config),
        *(problem for teacher in config.teachers for problem in _teacher(teacher)),
        *_compared_estimators(config),
        *_models(config),
        *check_engines(config),
        *_prefixes(config),
        *_texts(config),
        *_task(config),
        *_without_labels(config),
        *transfer_problems(config),
        *objective_problems(config),
        *target_problems(config),
        *hosting_problems(config),
        *device_map_problems(config),
        *sharing_problems(config),
        *peer_problems(config),
        *return_problems(config),
        *_training(config),
        *_gpus(config),
        *_folds(config),
        *_evaluate(config),
        *_requirements(config),
    ]


def _names(config: Config) -> Iterator[Problem]:
    for name, count in Counter(teacher.name for teacher in config.teachers).items():
        if count > 1:
            yield Problem(f"teachers.{name}", f"{count} teachers have this name; names are unique")
        if name in RESERVED or (config.peers is not None and _PEER.fullmatch(name)):
            yield Problem(f"teachers.{name}.name", f"{name!r} is what reports call another model; "
                          "choose another name")  # fmt: skip
    alone = [r for r in range(config.seeds) if not any(t.is_heard_by(r) for t in config.teachers)]
    if alone:
        yield Problem("teachers", f"replica {alone[0]} of the student would have none: all of them teach another replica alone "
                      "(`teaches`); keep its own, or set `teaches` to null")  # fmt: skip


def _teacher(teacher: Teacher) -> Iterator[Problem]:
    key = f"teachers.{teacher.name}"
    if teacher.outputs is not None:
        for field in ("model", "fit", "weights", "embedding", "head"):
            if getattr(teacher, field) is not None:
                yield Problem(
                    f"{key}.{field}", "does nothing beside `outputs`; leave one of them out"
                )
        return
    if teacher.model is None:
        yield Problem(f"{key}.model", "is required (or give `outputs`)")
    elif teacher.fit is None and teacher.weights is None and not brings_weights(teacher.model):
        yield Problem(
            key, f"a {teacher.model.type} without `fit` or `weights` would be untrained; give one"
        )
    yield from _finished(teacher, key)
    yield from _fitted(teacher, key)


def _finished(teacher: Teacher, key: str) -> Iterator[Problem]:
    """What cannot be done to a model that is complete as it is."""
    if not isinstance(teacher.model, FINISHED):
        return
    kind = teacher.model.type
    why = "is complete as it is"
    if isinstance(teacher.model, SklearnModel):
        why = "fits itself, as its `kwargs` say"
    for field, given in (("fit", teacher.fit), ("weights", teacher.weights)):
        if given is not None:
            yield Problem(f"{key}.{field}", f"is not for {kind}, which {why}; leave it out")
    asked = isinstance(teacher.model, ObjectModel) and teacher.model.library == "sklearn"
    if asked and teacher.kind != "logits":
        yield Problem(f"{key}.kind", "what is asked of an estimator is known; leave it out")
    if teacher.dtype != "float32":
        yield Problem(
            f"{key}.dtype", f"found {teacher.dtype}; {kind} computes in its own; leave it out"
        )


def _fitted(teacher: Teacher, key: str) -> Iterator[Problem]:
    if teacher.learns and teacher.kind != "logits":
        means = "what is asked of an estimator is known; leave it out"
        if teacher.fit is not None:
            means = "a teacher that is fitted must return logits"
        yield Problem(f"{key}.kind", means)
    if teacher.learns and teacher.label_map is not None:
        yield Problem(
            f"{key}.label_map", "does nothing for a teacher fitted on this data's own classes"
        )
    own_weights = teacher.weights is not None or brings_weights(teacher.model)
    if teacher.fit is not None and teacher.fit.freeze and not own_weights:
        yield Problem(f"{key}.fit.freeze", "would freeze untrained layers; give `weights` too")


def _source(config: Config) -> Iterator[Problem]:
    """Tables have their samples in one column of texts, or in others."""
    source = config.data.source
    if not isinstance(source, CsvSource | ParquetSource):
        return
    if source.text is not None and source.inputs is not None:
        yield Problem("data.source.inputs", "found both of `text` and `inputs`; name the column of the texts by one, or "
                      "columns of numbers and words (parquet: also of images, lists, tensors) by the other")  # fmt: skip
    if source.text is not None and source.categories:
        yield Problem("data.source.categories", "is for columns of words beside numbers; the samples are the texts of "
                      f"{source.text!r}: remove it")  # fmt: skip


def _compared_estimators(config: Config) -> Iterator[Problem]:
    """Estimators that the student is compared with are checked as those that are teachers."""
    for one in config.evaluate.compare:
        if isinstance(one.model, SklearnModel):
            yield from _fitted(one.as_teacher(), f"evaluate.compare.{one.name}")


def _without_labels(config: Config) -> Iterator[Problem]:
    """What cannot be learnt where no training sample keeps its label; and what would be learnt twice where all do."""
    if config.data.labels is None and "all_labels" in config.evaluate.controls:
        yield Problem("evaluate.controls", "holds all_labels, which is labels where there is no `data.labels`: leave one of "
                      "them out, or set it")  # fmt: skip
    if config.data.labels is None or config.data.labels > 0:
        return
    if "labels" in config.evaluate.controls:
        rest = ", ".join(control for control in config.evaluate.controls if control != "labels")
        yield Problem("evaluate.controls", "holds labels, which has nothing to learn from with `data.labels: 0`; "
                      f"set it to [{rest}]")  # fmt: skip
    for teacher in config.teachers:
        if teacher.learns and teacher.labels == "budget":
            yield Problem(f"teachers.{teacher.name}.labels", "is budget, which is 0: there is no label to be fitted "
                          "on; set it to all, or give `weights`")  # fmt: skip
    for one in config.evaluate.compare:
        if isinstance(one.model, SklearnModel):
            yield Problem(f"evaluate.compare.{one.name}.model.type", "sklearn has no label to be fitted on with "
                          "`data.labels: 0`; leave it out")  # fmt: skip


def _task(config: Config) -> Iterator[Problem]:
    """What the task does not know, or would silently leave aside."""
    choices, task = find_task(config.task).settings, config.task
    for key, value, allowed in _chosen(config):
        if value is not None and allowed is not None and value not in allowed:
            yield Problem(
                key,
                f"found {value}; with `task: {task}` allowed are {', '.join(allowed) or 'none'}",
            )
    for pattern, what in choices.needed.items():
        for key, value in _values_at(config, pattern.split(".")):
            if value is None:
                yield Problem(key, f"is required with `task: {task}`: the {what}")
    for pattern, only in choices.unused.items():
        for key, value in _values_at(config, pattern.split(".")):
            if value != only:
                means = "leave it out" if only in (None, ()) else f"leave it out, or at {only}"
                yield Problem(key, f"means nothing with `task: {task}`; {means}")
    if not choices.chunks:
        yield from _of_tokens_alone(config)
    yield from domain_problems(config)
    yield from _categories(config, boxes=choices.boxes)
    yield from _rest(config)
    yield from _visible(config)
    yield from _stopping(config)
    yield from on_policy_problems(config, chunks=choices.chunks)
    yield from choices.problems(config)


def _visible(config: Config) -> Iterator[Problem]:
    """How much of a thing a view shows is asked where labels say where things are."""
    if config.data.views.visible != Views().visible and not find_task(config.task).settings.boxes:
        yield Problem(
            "data.views.visible",
            f"means nothing with `task: {config.task}`, whose labels say nothing of places; leave it out",
        )


def _categories(config: Config, *, boxes: bool) -> Iterator[Problem]:
    """Categories are those of files of boxes."""
    for one in config.teachers:
        if one.categories is not None and not boxes:
            yield Problem(
                f"teachers.{one.name}.categories",
                f"means nothing with `task: {config.task}`; of classes it is label_map",
            )


def _rest(config: Config) -> Iterator[Problem]:
    """There is a rest where students learn from a pool."""
    if config.data.tokens is not None and config.data.tokens.pool is not None:
        return
    for one in config.teachers:
        if one.labels == "rest":
            yield Problem(
                f"teachers.{one.name}.labels",
                "found rest, but there is none without `data.tokens.pool`; set one of the two, or labels: all",
            )


def _stopping(config: Config) -> Iterator[Problem]:
    """Stopping early needs a metric that says when."""
    trained = {"train": config.train}
    trained |= {f"teachers.{t.name}.fit": t.fit for t in config.teachers if t.fit is not None}
    for key, one in trained.items():
        if one.early_stopping is not None and one.select == LAST:
            better = ", ".join(find_task(config.task).settings.select)
            yield Problem(f"{key}.early_stopping", f"does nothing with {key}.select=last; leave it out, or choose by {better}")  # fmt: skip


def _of_tokens_alone(config: Config) -> Iterator[Problem]:
    """Settings of texts that are learnt token by token."""
    if config.data.tokens is not None:
        yield Problem("data.tokens", f"means nothing with `task: {config.task}`; leave it out")
    if config.objective.soft_targets is not None and not config.objective.soft_targets.tail:
        yield Problem(
            "objective.soft_targets.tail",
            f"found false with `task: {config.task}`, where what is left out is spread evenly; leave it out",
        )
    if config.objective.soft_targets is not None and config.objective.soft_targets.top_k:
        yield Problem(
            "objective.soft_targets.top_k",
            f"found {config.objective.soft_targets.top_k} with `task: {config.task}`, which has no tokens; leave it out, "
            "or keep fewer classes by targets.full_up_to and targets.top_k",
        )
    if config.targets.draws is not None:
        yield Problem(
            "targets.draws",
            f"found {config.targets.draws} with `task: {config.task}`, which has no tokens; leave it out",
        )
    if config.objective.mean != "units":
        yield Problem(
            "objective.mean",
            f"found {config.objective.mean} with `task: {config.task}`, which has no domains; leave it out",
        )
    if config.objective.weighting.row.sequences:
        kind = config.objective.weighting.type
        yield Problem(
            "objective.weighting.type",
            f"found {kind}, which weighs teachers token by token: `task: language` only; leave it out",
        )


def _chosen(config: Config) -> Iterator[tuple[str, str | None, tuple[str, ...] | None]]:
    """Key, value and what the task allows, of the settings that depend on it; None allows all."""
    choices = find_task(config.task).settings
    soft, labels = config.objective.soft_targets, config.objective.labels
    own = None if labels.loss is None else labels.loss.type
    yield "objective.labels.loss.type", own, choices.label_losses
    yield "objective.weighting.type", config.objective.weighting.type, choices.weightings
    yield "train.select", config.train.select, (*choices.select, LAST)
    if soft is not None:
        yield "objective.soft_targets.loss.type", soft.loss.type, choices.soft_losses
        yield "objective.soft_targets.combine", soft.combine, choices.combine
    for teacher in config.teachers:
        key = f"teachers.{teacher.name}"
        if teacher.fit is not None:
            learnt = find_task(choices.fitted_as or config.task).settings
            yield f"{key}.fit.select", teacher.fit.select, (*learnt.select, LAST)
        yield f"{key}.kind", teacher.kind, choices.kinds
        for name, value in teacher.expect:
            if value is not None:
                yield f"{key}.expect", name, choices.expect
    for one in config.evaluate.compare:
        yield f"evaluate.compare.{one.name}.kind", one.kind, choices.kinds
    for index, control in enumerate(config.evaluate.controls):
        if control not in (*ELSEWHERE, WITHOUT_PEERS):
            yield f"evaluate.controls.{index}", control, choices.controls


def _values_at(node: Any, path: Sequence[str], key: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that a dotted pattern names, `*` standing for every entry of a list."""
    if not path or node is None:
        if not path:
            yield key, node
        return
    head, rest = path[0], path[1:]
    if head == "*":
        for entry in node:
            yield from _values_at(entry, rest, f"{key}.{entry.name}")
    else:
        yield from _values_at(getattr(node, head), rest, f"{key}.{head}" if key else head)


def _prefixes(config: Config) -> Iterator[Problem]:
    """A prefix is of the names in a file of weights."""
    every: dict[str, Teacher | Compared | Student] = {"student": config.student}
    every |= {f"teachers.{one.name}": one for one in config.teachers}
    every |= {f"evaluate.compare.{one.name}": one for one in config.evaluate.compare}
    for key, one in every.items():
        if one.prefix is not None and one.weights is None:
            yield Problem(f"{key}.prefix", "does nothing without `weights`; leave it out")


def _texts(config: Config) -> Iterator[Problem]:
    """Texts themselves are for models that are complete as they are: gradients need numbers."""
    learning: dict[str, Teacher | Student] = {"student": config.student}
    learning |= {f"teachers.{one.name}": one for one in config.teachers if one.fit is not None}
    for key, one in learning.items():
        if isinstance(one.preprocess.tokenizer, NoTokenizer):
            yield Problem(f"{key}.preprocess.tokenizer", "found none, which gives a model texts; what is trained here "
                          "learns from numbers: leave it out")  # fmt: skip


def _models(config: Config) -> Iterator[Problem]:
    if isinstance(config.student.model, FINISHED):
        yield Problem("student.model", f"found {config.student.model.type}, which cannot be trained; it can "
                      "be a teacher")  # fmt: skip
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


def _training(config: Config) -> Iterator[Problem]:
    workers = config.cluster.student.most
    if config.train.batch_size < workers:
        yield Problem(
            "train.batch_size", f"found {config.train.batch_size}, less than one sample for each of "
            f"{workers} workers; raise it or lower cluster.student.workers",
        )  # fmt: skip
    if workers > 1 and (config.cluster.student.parallel_fits or 1) > 1:
        yield Problem(
            "cluster.student.parallel_fits", f"needs cluster.student.workers=1, found {workers}: "
            "several workers train one fit together; leave one of the two out",
        )  # fmt: skip
    elif (
        config.cluster.student.trainer == "train"
        and (config.cluster.student.parallel_fits or 1) > 1
    ):
        yield Problem(
            "cluster.student.parallel_fits", "needs cluster.student.trainer=auto, found train: Ray Train trains one "
            "fit after the other; leave one of the two out",
        )  # fmt: skip
    mode = config.targets.mode
    if config.data.views.count is None and mode in ("stored", "write_through"):
        yield Problem(
            "targets.mode", f"{mode} needs a finite data.views.count, found null (a new view each epoch); "
            "give a count or use live",
        )  # fmt: skip
    if mode == "write_through" and workers > 1:
        yield Problem(
            "targets.mode", f"write_through needs cluster.student.workers=1, found {workers}: the workers "
            "of one fit would ask for the same samples; use stored",
        )  # fmt: skip
    if config.data.views.count != 1 and not config.data.views.policy:
        yield Problem("data.views.count", "several views of an empty policy are all the same; "
                      "set it to 1 or give data.views.policy")  # fmt: skip
    for teacher in config.teachers:
        carried = find_task(config.task).settings.boxes  # found boxes go where their image goes
        if teacher.outputs is not None and config.data.views.policy and not carried:
            yield Problem(
                f"teachers.{teacher.name}.outputs",
                "has outputs of untransformed samples only; use data.views: {count: 1, policy: []}",
            )


def _gpus(config: Config) -> Iterator[Problem]:
    workers, gpus = config.cluster.student.most, config.cluster.student.gpus
    if workers > 1 and gpus % 1:
        yield Problem("cluster.student.gpus", f"found {gpus:g} with cluster.student.workers={workers}: several workers add "
                      "up their gradients by NCCL, which needs a GPU for each; give a whole number, or one worker")  # fmt: skip


def _folds(config: Config) -> Iterator[Problem]:
    splits = config.data.splits
    fold, by = splits.fold, splits.by
    if fold is not None and config.folds is not None:
        yield Problem("folds", f"found {config.folds} beside data.splits.fold, which is one of them; leave one of the "
                      "two out")  # fmt: skip
    if fold is not None and fold.index >= fold.of:
        yield Problem("data.splits.fold.index", f"found {fold.index} of {fold.of}; the first is 0")
    if by is not None and by.type != "group" and (fold or config.folds):
        key = "folds" if config.folds else "data.splits.fold"
        why = {
            "time": "would train on what comes after test",
            "column": "would leave the column's own test part aside",
        }
        yield Problem(key, f"{why[by.type]}; with data.splits.by.type={by.type} leave it out, or split by group")  # fmt: skip


def _requirements(config: Config) -> Iterator[Problem]:
    for index, text in enumerate(config.evaluate.require):
        if REQUIREMENT.match(text) is None:
            yield Problem(
                f"evaluate.require.{index}", f"found {text!r}; write `student.test.accuracy >= 0.9`"
            )


def _evaluate(config: Config) -> Iterator[Problem]:
    """What needs no data: models of the same name, untrained ones, slices of nothing."""
    for index, control in enumerate(config.evaluate.controls):
        if control in STAGE_CONTROLS and len(config.stages) < 2:
            yield Problem(f"evaluate.controls.{index}", f"found {control}, which is the student without earlier stages; with "
                          f"{len(config.stages)} in `stages` leave it out")  # fmt: skip
    taken = [*RESERVED, *(teacher.name for teacher in config.teachers)]
    counts = Counter(one.name for one in config.evaluate.compare)
    for name, count in counts.items():
        if count > 1 or name in taken:
            yield Problem(f"evaluate.compare.{name}.name", "is another model's name too; names are unique: write "
                          "{name: ..., model: ...}")  # fmt: skip
    for one in config.evaluate.compare:
        key = f"evaluate.compare.{one.name}"
        if one.weights is None and not brings_weights(one.model):
            yield Problem(
                f"{key}.weights", f"is required: a {one.model.type} without weights is untrained"
            )
        yield from _finished(one.as_teacher(), key)
    for index, entry in enumerate(config.evaluate.slices):
        yield from _slice(entry, f"evaluate.slices.{index}", config.task)


def _slice(entry: Slice, key: str, task: str) -> Iterator[Problem]:
    if (entry.column is None) == (entry.of_class is None):
        yield Problem(
            key, "needs a column or a class, one of the two: {column: NAME} or {class: NAME}"
        )
    if entry.of_class is not None:
        if not find_task(task).settings.has_classes:
            yield Problem(f"{key}.class", f"a {task} has no classes; slice by a column")
        for field in ("values", "bins"):
            if getattr(entry, field) is not None:
                yield Problem(f"{key}.{field}", "goes with a column; leave it out")
    if entry.values is not None and entry.bins is not None:
        yield Problem(f"{key}.bins", "stands beside values; leave one of them out")
    if isinstance(entry.bins, tuple) and (
        not entry.bins or any(low >= high for low, high in pairwise(entry.bins))
    ):
        yield Problem(
            f"{key}.bins", f"found {list(entry.bins)}; bounds must rise, and there is at least one"
        )
