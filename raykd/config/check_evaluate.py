"""Combinations in `evaluate` that cannot work: models of the same name, slices of nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from raykd.config.evaluating import Compared, Slice
from raykd.config.models import FINISHED, brings_weights
from raykd.config.root import Config
from raykd.errors import Problem
from raykd.tasks import find_task


def evaluate_problems(config: Config, reserved: Sequence[str]) -> Iterator[Problem]:
    """Every problem of `evaluate.compare` and `evaluate.slices` that needs no data.

    Args:
        config: the recipe.
        reserved: names that reports give to other models.
    """
    taken = [*reserved, *(teacher.name for teacher in config.teachers)]
    counts = Counter(one.name for one in config.evaluate.compare)
    for name, count in counts.items():
        if count > 1 or name in taken:
            yield Problem(f"evaluate.compare.{name}.name", "is another model's name too; names are unique: write "
                          "{name: ..., model: ...}")  # fmt: skip
    for one in config.evaluate.compare:
        yield from _compared(one)
    for index, entry in enumerate(config.evaluate.slices):
        yield from _slice(entry, f"evaluate.slices.{index}", config.task)


def _compared(one: Compared) -> Iterator[Problem]:
    key = f"evaluate.compare.{one.name}"
    if one.weights is None and not brings_weights(one.model):
        yield Problem(
            f"{key}.weights", f"is required: a {one.model.type} without weights is untrained"
        )
    if isinstance(one.model, FINISHED):
        if one.weights is not None:
            yield Problem(
                f"{key}.weights",
                f"is not for {one.model.type}, which is complete as it is; leave it out",
            )
        if one.dtype != "float32":
            yield Problem(
                f"{key}.dtype",
                f"found {one.dtype}; {one.model.type} computes in its own; leave it out",
            )


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
