"""The settings facet of a task: what it allows in a recipe, and what it takes where that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raykd.errors import Problem

if TYPE_CHECKING:
    from raykd.config.root import Config


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The settings that depend on the task.

    Attributes:
        select: validation metrics that can choose the best epoch, the task's own first.
        label_losses: types of `objective.labels.loss`.
        soft_losses: types of `objective.soft_targets.loss`.
        combine: ways to mix the teachers.
        weightings: types of `objective.weighting`; None means all.
        kinds: of what teachers return; None means all.
        expect: what `teachers[].expect` can hold.
        unused: dotted settings that mean nothing in this task -> the one value they may have.
        needed: dotted settings that have to be given -> what they are.
        controls: of `evaluate.controls`; None means all.
        fitted_as: the task that teachers are fitted in; None means this one.
        defaults: parts of a recipe that are taken where it says nothing.
        class_logits: whether models return logits of classes.
        has_classes: whether outputs are classes or labels, which test can be sliced by.
        chunks: whether samples are chunks of tokens, of which each has many units.
        acts: whether samples are states of an environment, and models are policies that can be rolled in it.
        boxes: whether models say where things are, and a teacher's `outputs` are a file of found boxes.
        problems: what else cannot work in a recipe of this task, or would silently do nothing.
    """

    select: tuple[str, ...]
    label_losses: tuple[str, ...]
    combine: tuple[str, ...]
    soft_losses: tuple[str, ...]
    expect: tuple[str, ...]
    weightings: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    unused: Mapping[str, Any] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)
    controls: tuple[str, ...] | None = None
    fitted_as: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    class_logits: bool = False
    has_classes: bool = True
    chunks: bool = False
    acts: bool = False
    boxes: bool = False
    problems: Callable[[Config], Iterable[Problem]] = lambda _: ()


GIVEN_WEIGHTINGS = ("uniform", "fixed", "inverse_error")
"""Those that look at nothing but numbers known beforehand."""
CONTROLS = ("labels", "best_teacher", "hard")
NO_VECTORS: Mapping[str, Any] = {
    "student.dimension": None,
    "teachers.*.embedding": None,
    "evaluate.compare.*.embedding": None,
}
"""Settings that mean something for embeddings alone."""
