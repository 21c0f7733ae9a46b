"""The text and figures facets of a task: with which words its numbers are told, and which pictures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raykd.report.wording import BASELINE, number, percent, points

if TYPE_CHECKING:
    from raykd.evaluate import Evaluation
    from raykd.report.folder import RunData
    from raykd.report.style import Picture
    from raykd.report.tables import Table

Form = Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of V, of a gain or of fidelity.

    Attributes:
        key: its name in the summary.
        name: its name in words.
        form: a value as text.
        spread: a standard deviation as text.
    """

    key: str
    name: str
    form: Form
    spread: Callable[[float], str] = number


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How a gain is told; a positive one always means that the student is better.

    Attributes:
        name: what it is: "difference", "reduction".
        signed: with its sign and without its unit.
        unit: with a leading space where it has one.
        factor: what it is multiplied by on an axis.
        better: how a positive one is: "2.1 points more".
        worse: how a negative one is.
        heading: of its column in tables.
    """

    name: str
    signed: Callable[[float], str]
    unit: str
    factor: float
    better: str
    worse: str
    heading: str

    def size(self, value: float) -> str:
        """Without sign, with its unit."""
        return f"{self.signed(abs(value)).lstrip('+')}{self.unit}"

    def change(self, value: float) -> str:
        """With sign and unit."""
        return f"{self.signed(value)}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class TaskText:
    """Words and forms of one task.

    Attributes:
        metric: the task's metric.
        spread: a standard deviation of the metric, beside a value.
        reached: a value of the metric on test, as what a student "reaches".
        gain: how gains are told.
        second: the second number in the result table.
        numbers: every number of V.
        numbers_note: what to know of them.
        panels: learning curves.
        kept: metric of student and ensemble -> what "it" does against the ensemble.
        follows: fidelity -> how "it" follows the ensemble.
        fidelity: numbers of fidelity to the ensemble.
        by_teacher: the one of them that is known for each teacher.
        apart: another one that is known for each teacher; None where there is none.
        hard: what the control `hard` is taught.
        tile: metric of student and ensemble -> value and words of a number at the top.
        baseline: the control that tells whether distillation helps.
        base: what that control is called.
        untaught: how its network came about.
        without_labels: whether fidelity says something of a student where test has no labels.
        decisions: what `TaskMetrics.decisions` are.
        group: what these are grouped by.
        groups: several of them.
    """

    metric: Measure
    spread: Callable[[float], str]
    reached: Callable[[float | None], str]
    gain: Gain
    second: Measure
    numbers: tuple[Measure, ...]
    numbers_note: str
    panels: tuple[Measure, ...]
    kept: Callable[[float, float], str]
    follows: Callable[[Mapping[str, Any]], str]
    fidelity: tuple[Measure, ...]
    by_teacher: Measure
    hard: str
    tile: Callable[[float, float], tuple[str, str]]
    baseline: str = BASELINE
    base: str = "labels alone"
    untaught: str = "trained on labels alone"
    without_labels: bool = False
    decisions: str = "test samples"
    group: str = "class"
    groups: str = "classes"
    apart: Measure | None = None

    def value(self, value: float | None) -> str:
        """A value of the metric."""
        return self.metric.form(value)


@dataclass(frozen=True, kw_only=True)
class TaskFigures:
    """What a report shows beside what it shows of every task; a function gives None where there is nothing.

    Attributes:
        pictures: makers of pictures, in their order; called where matplotlib is styled.
        tables: makers of tables, in their order.
        lost: what the student loses of its teachers, as sentences beside those of `raykd.report.kept`; asked only
            where test has labels.
    """

    pictures: tuple[Callable[[RunData], Picture | None], ...] = ()
    tables: tuple[Callable[[RunData], Table | None], ...] = ()
    lost: Callable[[Evaluation], list[str]] = lambda _: []


POINTS = Gain(
    name="difference",
    signed=points,
    unit=" points",
    factor=100.0,
    better="more",
    worse="less",
    heading="points",
)
MACRO_SCORES = (
    Measure(key="precision_macro", name="precision", form=percent),
    Measure(key="recall_macro", name="recall", form=percent),
    Measure(key="f1_macro", name="F1", form=percent),
    Measure(key="nll", name="NLL", form=number),
    Measure(key="ece", name="ECE", form=number),
    Measure(key="brier", name="Brier", form=number),
)


def share_spread(std: float) -> str:
    """A standard deviation of a share, in points."""
    return f"{100 * std:.1f}"


def share_kept(metric: str) -> Callable[[float, float], str]:
    """What a student keeps of the ensemble's share, in words."""

    def kept(own: float, whole: float) -> str:
        if own >= whole:
            return f"It reaches the ensemble's {metric} ({percent(own)} against {percent(whole)})"
        return (
            f"It keeps {percent(own / whole)} of the ensemble's {metric} ({percent(own)} of "
            f"{percent(whole)}, {points(whole - own, signed=False)} points short)"
        )

    return kept


def share_tile(metric: str) -> Callable[[float, float], tuple[str, str]]:
    """What a student keeps of the ensemble's share, as a number at the top."""
    return lambda own, whole: (percent(own / whole), f"of the ensemble's {metric}")
