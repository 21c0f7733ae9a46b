"""What models, label maps and kept outputs must be, held against the recipe and its data before anything starts.

The functions `check_*` raise InputError, which names the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.config import Config
from raykd.config.check_engines import engines_of
from raykd.config.check_targets import top_k_problems
from raykd.config.objective import Objective
from raykd.config.roles import Teacher
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.methods import WEIGHTING_ROWS
from raykd.models.names import nearest
from raykd.models.network import Network
from raykd.models.weights import count_parameters, size_bytes
from raykd.models.zoo.foreign import ForeignModel
from raykd.pipeline.taught import labelled_student_rows, student_rows
from raykd.tasks import find_task
from raykd.train.writing import prompts_of
from raykd.types import CHUNKS, ORIGINAL_VIEW

Shape = tuple[int, ...]
LabelMap = tuple[int | None, ...]
_COMPARABLE = ("kl", "reverse_kl", "js", "skew_kl")
_SEPARATE = ("probabilities", "losses")


def resolve_label_map(teacher: Teacher, samples: Samples, *, key: str) -> LabelMap | None:
    """`label_map` as numbers of the data's classes; None where the classes are the data's own.

    Args:
        teacher: whose it is.
        samples: the data.
        key: its dotted key, for errors.

    Raises:
        InputError: an entry is no class of the data, or no entry is one.
    """
    if teacher.label_map is None:
        return None
    classes, names = samples.class_count, tuple(samples.classes)
    index_of = {name: index for index, name in enumerate(names)}
    problems, found = [], []
    for entry in teacher.label_map:
        if isinstance(entry, str):
            if entry not in index_of:
                near = ", ".join(nearest(entry, names)) or f"0 to {classes - 1}, they have no names"
                problems.append(Problem(key, f"holds {entry!r}, no class of the data; nearest: {near}"))  # fmt: skip
            found.append(index_of.get(entry))
            continue
        if entry is not None and entry >= classes:
            problems.append(Problem(key, f"holds {entry}; classes are 0 to {classes - 1}"))
        found.append(entry)
    if not problems and len({entry for entry in found if entry is not None}) < 2:
        problems.append(Problem(key, "leaves fewer than two of the data's classes; a teacher of one class "
                                "says nothing"))  # fmt: skip
    if problems:
        raise InputError(problems)
    return tuple(found)


def known_classes(label_map: LabelMap | None, classes: int) -> tuple[int, ...] | None:
    """The data's classes that a teacher knows, in order; None = all of them."""
    if label_map is None:
        return None
    known = tuple(sorted({entry for entry in label_map if entry is not None}))
    return None if len(known) == classes else known


def partial_problems(
    known: Mapping[str, tuple[int, ...] | None],
    objectives: Sequence[Objective],
    *,
    whole: bool,
    classes: int,
) -> Iterator[Problem]:
    """What cannot be learnt from teachers that know only some classes.

    Args:
        known: teacher -> the classes that it knows; None = all.
        objectives: of the recipe and of its variants.
        whole: whether all logits are kept.
        classes: of the data.
    """
    names = [name for name, some in known.items() if some is not None]
    if not names:
        return
    some = known[names[0]]
    assert some is not None, "it was chosen for that"
    found = f"teacher {names[0]!r} knows {len(some)} of {classes} classes (label_map)"
    if not whole:
        yield Problem(
            "targets.full_up_to", f"{found}, and targets keep the largest logits alone; raise it to {classes}"
        )  # fmt: skip
    for objective in objectives:
        yield from _objective(objective, found)


def _objective(objective: Objective, found: str) -> Iterator[Problem]:
    weighting = objective.weighting.type
    if WEIGHTING_ROWS[weighting].looks:
        blind = ", ".join(name for name, row in WEIGHTING_ROWS.items() if not row.looks)
        yield Problem(
            "objective.weighting.type", f"{weighting} compares all classes; {found}; use {blind}"
        )
    soft = objective.soft_targets
    if soft is None:
        return
    key = "objective.soft_targets"
    if soft.loss.type not in _COMPARABLE:
        yield Problem(
            f"{key}.loss.type",
            f"{soft.loss.type} compares all classes; {found}; use {', '.join(_COMPARABLE)}",
        )
    elif soft.mixing not in _SEPARATE:
        yield Problem(
            f"{key}.combine",
            f"{soft.mixing} mixes the teachers over all classes; {found}; use {', '.join(_SEPARATE)}",
        )
    if getattr(soft.loss, "standardise", False):
        yield Problem(f"{key}.loss.standardise", f"scales by all classes; {found}; leave it out")
    if soft.disagreement is not None:
        yield Problem(f"{key}.disagreement", f"compares all classes; {found}; leave it out")


def structured_problems(boxes: Sequence[str], objectives: Sequence[Objective]) -> Iterator[Problem]:
    """What cannot be learnt from detectors that say boxes at no fixed locations.

    Args:
        boxes: names of the teachers that do.
        objectives: of the recipe and of its variants.
    """
    for soft in (one.soft_targets for one in objectives):
        if boxes and soft is not None and soft.mixing == "locations":
            yield Problem(
                "objective.soft_targets.loss.type",
                f"{soft.loss.type} compares location by location, and teacher {boxes[0]!r} says boxes that are at none; use "
                "fused_boxes, which takes teachers of both forms",
            )


def keeps_largest(config: Config, samples: Samples) -> bool:
    """Whether only the largest logits of a training view are kept; beside an engine, which knows no more, they are."""
    classes, targets = samples.class_count, config.targets
    logits = find_task(samples.task).metrics.kind == "logits"
    whole = targets.top_k if engines_of(config) else max(targets.full_up_to, targets.top_k)
    return logits and (targets.draws is not None or classes > whole)


def _learns_few(config: Config, samples: Samples) -> bool:
    """Whether a student learns from the teachers' largest logits alone, whatever is kept."""
    soft = config.objective.soft_targets
    return keeps_largest(config, samples) or (soft is not None and soft.top_k is not None)


def data_problems(recipes: Sequence[Config], samples: Samples) -> list[Problem]:
    """What in the recipes does not go with the number of classes: kept logits, weights of classes."""
    classes = samples.class_count
    problems = [
        problem
        for config in recipes
        if _learns_few(config, samples)
        for problem in top_k_problems(config, classes, largest=keeps_largest(config, samples))
    ]
    softs = [one.objective.soft_targets for one in recipes if not _learns_few(one, samples)]
    if any(soft is not None and not soft.tail for soft in softs):
        problems.append(
            Problem("objective.soft_targets.tail", f"found false, but all {classes:,} tokens are kept and there is no tail; "
                    "leave it out, or give objective.soft_targets.top_k, or lower targets.full_up_to and targets.top_k")
        )  # fmt: skip
    problems += _beside_engines(recipes, classes)
    problems += [
        Problem("targets.mass", f"found {one.targets.mass:g}, but all {classes:,} classes are kept; leave it out, or lower "
                "targets.full_up_to and targets.top_k")
        for one in recipes
        if one.targets.mass is not None and not keeps_largest(one, samples)
    ]  # fmt: skip
    given = [recipe.objective.labels.class_weights for recipe in recipes]
    counts = {len(weights) for weights in given if isinstance(weights, tuple)}
    problems += [
        Problem("objective.labels.class_weights", f"has {count} factors; the data has {classes} classes, and needs one "
                "for each")
        for count in counts - {classes}
    ]  # fmt: skip
    if any(
        recipe.objective.labels.replaces
        and len(labelled_student_rows(recipe, samples)) == len(student_rows(recipe, samples))
        for recipe in recipes
    ):
        problems.append(
            Problem("objective.labels.mode", "found replace; every training sample is labelled, so that the student would "
                    "never see what the teachers answer: set it to add, or lower data.labels")
        )  # fmt: skip
    return [*problems, *_without_prompts(recipes, samples)]


def _without_prompts(recipes: Sequence[Config], samples: Samples) -> Iterator[Problem]:
    """Some training text has a beginning that a student can go on from."""
    for settings in dict.fromkeys(recipe.objective.on_policy for recipe in recipes):
        if settings is None or not samples.is_tokens:
            continue
        if not prompts_of(samples.inputs[CHUNKS][samples.splits["train"]], settings).any():
            length = samples.inputs[CHUNKS].shape[2]
            yield Problem(
                "objective.on_policy.prompt",
                f"is {settings.prompt_of(length)} tokens, and no training text has as many and room for more within "
                f"{settings.written_of(length)}; lower it",
            )


def _beside_engines(recipes: Sequence[Config], classes: int) -> Iterator[Problem]:
    """All answers of a batch are kept alike: few tokens of each, where one teacher is an engine."""
    for config in recipes:
        engines, kept = engines_of(config), config.targets.top_k
        if engines and len(config.teachers) > len(engines) and kept >= classes:
            yield Problem(
                "targets.top_k",
                f"found {kept} for {classes:,} tokens; beside an engine (teacher {next(iter(engines))!r}) few tokens of every "
                "teacher's answers are kept: lower it",
            )


def check_answer(teacher: Teacher, found: Shape, outputs: int, key: str) -> None:
    """The shape of an answer goes with `kind` and `label_map`."""
    if teacher.kind == "top1":
        if found not in ((), (1,)):
            raise InputError(
                Problem(f"{key}.kind", f"top1 is one number per sample; the model answers {list(found)}")
            )  # fmt: skip
    elif teacher.label_map is None:
        check_classes(found, outputs, f"{key}.model")
    elif found != (outputs,):
        raise InputError(
            Problem(f"{key}.label_map", f"has {outputs} entries; the model answers {list(found)} per sample: give "
                    "one for each of its classes, null for those that are none of the data's")
        )  # fmt: skip


def check_trainable(model: nn.Module, key: str) -> None:
    """A model that is to be fitted has parameters."""
    if isinstance(model, ForeignModel):
        raise InputError(
            Problem(key, "has no parameters that could be trained; a function of arrays can be a teacher "
                    "without `fit`")
        )  # fmt: skip


def check_classes(found: Shape, classes: int, key: str) -> None:
    """A model answers one number for each class, label or value of the data."""
    if found != (classes,):
        raise InputError(
            Problem(key, f"answers {list(found)} per sample; the data has {classes} classes (labels, values); "
                    "mend the model's number of outputs, or give a label_map")
        )  # fmt: skip


def check_gaps(network: Network, samples: Samples, key: str) -> None:
    """A model that is shown a table's gaps as they are (`preprocess.impute: null`) takes them.

    Args:
        network: the model on its preprocessing.
        samples: the data.
        key: of whose `preprocess` it is, such as `student`.
    """
    table = getattr(network.preprocessing, "table", None)
    if table is None or table.fill is not None:
        return
    columns = [index for index in table.numbers if samples.gaps[index]]
    (values_ND,) = samples.inputs.values()
    rows = np.flatnonzero(np.isnan(values_ND[:, columns]).any(axis=1))[:2]
    if not len(rows):
        return
    try:
        with torch.no_grad():
            output = deepcopy(network).eval()(samples.batch(rows, ORIGINAL_VIEW).inputs)
        found = "" if bool(output.isfinite().all()) else "answers NaN"
    except (RuntimeError, TypeError, ValueError) as error:
        found = f"says {' '.join(str(error).split())[:200]}"
    if found:
        named = ", ".join(samples.features[index] for index in columns[:5] if samples.features)
        raise InputError(
            Problem(f"{key}.preprocess.impute", f"is null, but the model {found} where there are gaps"
                    f"{f' ({named})' if named else ''}; leave it out (median), or set another type")
        )  # fmt: skip


def check_limits(config: Config, model: nn.Module) -> None:
    """The student keeps to `student.limits`."""
    limits, problems = config.student.limits, []
    parameters, megabytes = count_parameters(model, trainable=True), size_bytes(model) / 1e6
    if limits.parameters is not None and parameters > limits.parameters:
        problems.append(
            Problem("student.limits.parameters", f"is {limits.parameters:,}, the student has {parameters:,}; "
                    "lower student.model.width or depth")
        )  # fmt: skip
    if limits.size_mb is not None and megabytes > limits.size_mb:
        problems.append(
            Problem("student.limits.size_mb", f"is {limits.size_mb:g}, the student has {megabytes:.3g}; lower "
                    "student.model.width or depth")
        )  # fmt: skip
    if problems:
        raise InputError(problems)


def check_last_batch(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    rows: int,
    batch_size: int,
    *,
    key: str,
    workers: int = 1,
) -> None:
    """No worker's part of an epoch's last batch is a single sample that batch norm cannot be trained on."""

    def last(size: int) -> int:
        return rows % size or min(size, rows)

    batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
    if last(batch_size) >= 2 * workers or not batch_norm:
        return
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            deepcopy(network).train()(one)
    except ValueError:  # PyTorch: more than one value per channel is needed
        fitting = (size for size in range(batch_size + 1, rows + 1) if last(size) >= 2 * workers)
        better = next(fitting, None)
        mend = "label more samples" if better is None else f"set it to {better}"
        raise InputError(
            Problem(f"{key}.batch_size", f"is {batch_size}, which leaves {last(batch_size)} of {rows} samples for an "
                    f"epoch's last batch, and one for a worker: batch norm cannot be trained on that; {mend}")
        ) from None  # fmt: skip
