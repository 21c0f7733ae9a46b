"""The table of tasks: names each facet by path, and imports it when somebody first asks for it.

A facet is what one layer has to know of a task. It belongs to that layer (import-linter holds it to this), so
that a recipe can be read without torch and a report written without Ray. To add a task, add a folder with
these facets and a block to `BUILT_IN`; to keep it to yourself, write `task: 'my_module:my_task'` in a recipe,
where `my_task` is a `CustomTask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol, cast

from raykd.errors import InputError, Problem
from raykd.importing import load_object

if TYPE_CHECKING:
    from raykd.config.tasks import TaskSettings
    from raykd.data.labels import LabelFormat
    from raykd.evaluate.task import TaskMetrics
    from raykd.export.task import TaskExport
    from raykd.objective.rule import LearningRule
    from raykd.report.task import TaskFigures, TaskText
    from raykd.teachers.selftest import SelfTest

_FOLDER = "raykd.tasks"
BUILT_IN: dict[str, dict[str, str]] = {
    "classification": {
        "settings": "classification.settings:SETTINGS",
        "labels": "classification.labels:LABELS",
        "rule": "classification.rule:RULE",
        "metrics": "classification.metrics:METRICS",
        "selftest": "classification.selftest:check_accuracy",
        "text": "classification.text:TEXT",
        "figures": "classification.figures:FIGURES",
        "export": "classification.export:EXPORT",
    },
    "regression": {
        "settings": "regression.settings:SETTINGS",
        "labels": "regression.labels:LABELS",
        "rule": "regression.rule:RULE",
        "metrics": "regression.metrics:METRICS",
        "selftest": "regression.selftest:check_values",
        "text": "regression.text:TEXT",
        "figures": "regression.figures:FIGURES",
        "export": "regression.export:EXPORT",
    },
    "multilabel": {
        "settings": "multilabel.settings:SETTINGS",
        "labels": "multilabel.labels:LABELS",
        "rule": "multilabel.rule:RULE",
        "metrics": "multilabel.metrics:METRICS",
        "selftest": "multilabel.selftest:check_decisions",
        "text": "multilabel.text:TEXT",
        "figures": "multilabel.figures:FIGURES",
        "export": "multilabel.export:EXPORT",
    },
    "embedding": {
        "settings": "embedding.settings:SETTINGS",
        "labels": "embedding.labels:LABELS",
        "rule": "embedding.rule:RULE",
        "metrics": "embedding.metrics:METRICS",
        "selftest": "embedding.selftest:check_vectors",
        "text": "embedding.text:TEXT",
        "figures": "embedding.text:FIGURES",
        "export": "embedding.export:EXPORT",
    },
    "language": {
        "settings": "language.settings:SETTINGS",
        "labels": "language.labels:LABELS",
        "rule": "language.rule:RULE",
        "metrics": "language.metrics:METRICS",
        "selftest": "language.selftest:check_bits",
        "text": "language.text:TEXT",
        "figures": "language.figures:FIGURES",
        "export": "language.export:EXPORT",
    },
    "detection": {
        "settings": "detection.settings:SETTINGS",
        "labels": "detection.labels:LABELS",
        "rule": "detection.rule:RULE",
        "metrics": "detection.metrics:METRICS",
        "selftest": "detection.selftest:check_boxes",
        "text": "detection.text:TEXT",
        "figures": "detection.figures:FIGURES",
        "export": "detection.export:EXPORT",
    },
    "control": {
        "settings": "control.settings:SETTINGS",
        "labels": "control.labels:LABELS",
        "rule": "control.rule:RULE",
        "metrics": "control.metrics:METRICS",
        "selftest": "control.selftest:check_actions",
        "text": "control.text:TEXT",
        "figures": "control.text:FIGURES",
        "export": "control.export:EXPORT",
    },
    "control_continuous": {
        "settings": "control_continuous.settings:SETTINGS",
        "labels": "control_continuous.labels:LABELS",
        "rule": "control_continuous.rule:RULE",
        "metrics": "control_continuous.metrics:METRICS",
        "selftest": "control_continuous.selftest:check_actions",
        "text": "control_continuous.text:TEXT",
        "figures": "control_continuous.text:FIGURES",
        "export": "control_continuous.export:EXPORT",
    },
}
FACETS = tuple(BUILT_IN["classification"])


class Task(Protocol):
    """One kind of task, as its facets."""

    @property
    def settings(self) -> TaskSettings:
        """What a recipe may say, and what is taken where it says nothing."""
        ...

    @property
    def labels(self) -> LabelFormat:
        """How labels are checked, named, hidden and stratified."""
        ...

    @property
    def rule(self) -> LearningRule:
        """What a student learns from labels and from teachers."""
        ...

    @property
    def metrics(self) -> TaskMetrics:
        """What is computed of outputs, and which of two numbers is better."""
        ...

    @property
    def selftest(self) -> SelfTest:
        """What a teacher must show before any student trains."""
        ...

    @property
    def text(self) -> TaskText:
        """How the numbers are told in words."""
        ...

    @property
    def figures(self) -> TaskFigures:
        """What a report shows beside the figures of every task."""
        ...

    @property
    def export(self) -> TaskExport:
        """What an exported student puts out, and how a prediction is written."""
        ...


@dataclass(frozen=True, kw_only=True)
class CustomTask:
    """A task of one's own: all facets, as objects; see `Task`."""

    settings: TaskSettings
    labels: LabelFormat
    rule: LearningRule
    metrics: TaskMetrics
    selftest: SelfTest
    text: TaskText
    figures: TaskFigures
    export: TaskExport


class _BuiltIn:
    """A task of the table; a facet is imported once, when it is first asked for."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.__dict__["paths"] = paths

    def __getattr__(self, facet: str) -> Any:
        if facet not in self.paths:
            raise AttributeError(facet)
        found = resolve_name(f"{_FOLDER}.{self.paths[facet]}")
        self.__dict__[facet] = found
        return found


_FOUND: dict[str, Task] = {name: cast(Task, _BuiltIn(paths)) for name, paths in BUILT_IN.items()}


def find_task(name: str, *, key: str = "task") -> Task:
    """The task of that name; one of a user's own is imported.

    Args:
        name: of a built-in task, or `module:name` as the user's own recipe or command line says it.
        key: what names it in errors.

    Raises:
        InputError: there is no such task, or what the path names lacks a facet.
    """
    if name not in _FOUND:
        if ":" not in name:
            raise InputError.at(key, unknown_task(name))
        found = load_object(name, key=key, what="task")
        if lacking := [facet for facet in FACETS if not hasattr(found, facet)]:
            raise InputError(
                Problem(key, f"{name!r} is no task: it has no {', '.join(lacking)}; make it a "
                        "raykd.tasks.CustomTask")
            )  # fmt: skip
        _FOUND[name] = found
    return _FOUND[name]


def known_task(name: str, *, where: str) -> Task:
    """The task that an artefact names: built in, or imported before because the user named it.

    Args:
        name: as the artefact has it, which is never imported.
        where: the artefact, for the error.

    Raises:
        InputError: it is neither.
    """
    if name in _FOUND:
        return _FOUND[name]
    if ":" not in name:
        raise InputError.at(where, unknown_task(name))
    raise InputError(
        Problem(where, f"is of the task {name!r}, whose code is not imported because a file says so; name "
                f"it yourself: --task {name}, or load_student(path, task={name!r})")
    )  # fmt: skip


def unknown_task(name: str) -> str:
    """What is wrong with a name that is no task's."""
    close = get_close_matches(name, BUILT_IN, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"found {name!r}; allowed: {', '.join(BUILT_IN)}, or one of your own as 'module:name'{hint}"
    )
