"""The metrics facet of a task: what is computed of a model's outputs, and what "better" means.

Shapes: T teachers, N samples, C outputs (classes, labels, the one value, or dimensions of a vector, of which
each model has its own number), M labelled samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raykd.ensemble.given import uniform
from raykd.evaluate.statistics import Redrawn
from raykd.types import OutputKind, is_labelled

if TYPE_CHECKING:
    from raykd.config.roles import Expect
    from raykd.evaluate.kept import Decisions
    from raykd.evaluate.outputs import SplitOutputs


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is kept of answers over so many classes that those of all units could not be: a few numbers of each unit.

    Where a task has them, `numbers`, `scores`, `fidelity` and `difference` take these columns [N, A] for answers, and
    answers themselves [n, C] exist for a few samples at a time, in the process that makes them.

    Attributes:
        count: A.
        alone: answers [n, C] and labels of some units -> columns [n, A].
        beside: answers [n, C] of a student, of the ensemble and of the teachers in order -> what more is kept of the
            student [n, 1 + T], to the right of its columns; `fidelity` reads it.
        together: columns of teachers that all count the same -> those of their ensemble, as far as they follow: enough for
            the task's metric and for what decides ties.
        check: name, columns, labels, expectations and C -> the task's metric; as `raykd.teachers.selftest.SelfTest`.
    """

    count: int
    alone: Callable[[Tensor, Tensor], Tensor]
    beside: Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
    together: Callable[[Sequence[Tensor]], Tensor]
    check: Callable[[str, Tensor, Tensor, Expect, int], float]


@dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """The measures of a task. An "answer" is what evaluation keeps of a model's outputs for a sample.

    Attributes:
        kind: how teachers' answers are stored.
        metric: what gains are of, and what chooses the best epoch and the best teacher.
        ties: what decides between equals.
        lower_is_better: metrics of which less is better.
        answer: outputs [N, C] -> answers [N, C].
        ensemble: outputs [N, C] of teachers that all count the same -> the ensemble's answers.
        numbers: answers [N, C] and labels -> V, all numbers of one model on one split.
        tally: outputs and labels of a batch -> float64 sums, to be added over batches and workers; None where
            samples are compared with each other: then `numbers` of all are the validation metrics.
        tallied: how many sums there are.
        total: the added sums -> the validation metrics.
        scores: answers and labels -> a number for each labelled sample [M].
        from_scores: the mean score -> `metric`, negated where lower is better; None where it is that.
        comparable: outputs -> numbers in which one teacher's answers are compared with its earlier ones.
        fidelity: answers of student, ensemble and teachers -> how closely the student follows.
        difference: answers of two models -> how telling their difference is [N]; −∞ where there is none.
        error: V -> how wrong a teacher is, for weighting by its inverse.
        smallest_gap: labels -> distance in `metric` up to which there is no gap to recover.
        calibrate: outputs and labels -> temperature; None where outputs have none.
        baseline: the control from which the gap to the ensemble is measured.
        right_or_wrong: whether a sample is answered rightly or wrongly: rightly where its score is 1.
        own_width: whether each model's outputs have a width C of their own, and need not be those of the data.
        own_labels: whether a label is a row of numbers that is as long as the data need.
        closeness: the ensemble's answers and the teachers' -> how closely each teacher agrees with it, by which
            the best is found without labels; None where labels are needed.
        decisions: answers of all models on a split -> what each of them decides, and with which probabilities; None
            where answers are no choice between alternatives.
        columns: what is kept of answers instead of themselves; None where they are kept.
        redrawn: answers, labels and how often each labelled sample is drawn [S, M] -> the metric of each draw [S], where it
            is no function of a mean score, so that a bootstrap has to compute it anew; None where it is one.
        used: outputs [N, C] of a teacher -> so many first numbers of each say something, and all behind are always 0; None
            where all do. None: they do in every teacher's.
    """

    kind: OutputKind
    metric: str
    ties: str
    lower_is_better: frozenset[str]
    answer: Callable[[Tensor], Tensor]
    ensemble: Callable[[Sequence[Tensor]], Tensor]
    numbers: Callable[[Tensor, Tensor], dict[str, float]]
    tally: Callable[[Tensor, Tensor], Tensor] | None
    tallied: int
    total: Callable[[Tensor], dict[str, float]] | None
    scores: Callable[[Tensor, Tensor], Tensor]
    from_scores: Callable[[Any], Any] | None
    comparable: Callable[[Tensor], Tensor]
    fidelity: Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Any]]
    difference: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Mapping[str, float]], float]
    smallest_gap: Callable[[Tensor], float]
    calibrate: Callable[[Tensor, Tensor], float] | None
    baseline: str = "labels"
    right_or_wrong: bool = True
    own_width: bool = False
    own_labels: bool = False
    closeness: Callable[[Tensor, Mapping[str, Tensor]], Mapping[str, float]] | None = None
    decisions: Callable[[SplitOutputs], Decisions] | None = None
    columns: Columns | None = None
    redrawn: Callable[[Tensor, Tensor, np.ndarray], np.ndarray] | None = None
    used: Callable[[Tensor], int | None] | None = None

    @property
    def lower(self) -> bool:
        """Whether less of the task's own metric is better."""
        return self.metric in self.lower_is_better

    def kept(self, answers_NC: Tensor, labels_N: Tensor) -> Tensor:
        """What evaluation keeps of answers."""
        return answers_NC if self.columns is None else self.columns.alone(answers_NC, labels_N)

    def kept_beside(
        self, answers_NC: Tensor, labels_N: Tensor, ensemble_NC: Tensor, teachers: Sequence[Tensor]
    ) -> Tensor:
        """What evaluation keeps of a student's answers, with what sets it apart from its teachers."""
        kept = self.kept(answers_NC, labels_N)
        if self.columns is None:
            return kept
        return torch.cat([kept, self.columns.beside(answers_NC, ensemble_NC, teachers)], dim=1)

    def merit(self, value: float, metric: str | None = None) -> float:
        """A value of a metric (None: the task's own) as a number of which more is better."""
        return -value if (metric or self.metric) in self.lower_is_better else value

    def rank(self, numbers: Mapping[str, float], select: str | None = None) -> tuple[float, float]:
        """What to compare models by, more is better: by `select` first, by the other metric then."""
        first = select or self.metric
        then = self.ties if first == self.metric else self.metric
        return self.merit(numbers[first], first), self.merit(numbers[then], then)


def mean_by(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The ensemble of teachers that count the same, by a function of outputs [T, N, C] and weights [T, N]."""

    def ensemble(outputs: Sequence[Tensor]) -> Tensor:
        outputs_TNC = torch.stack(tuple(outputs))
        return combine(outputs_TNC, uniform(outputs_TNC, None))

    return ensemble


def redrawn_pair(
    task: TaskMetrics, one_RNC: Tensor, other_RNC: Tensor, labels_N: Tensor
) -> tuple[Redrawn, Redrawn] | None:
    """The metric of two models' replicas on drawn samples, for a bootstrap; None where it follows from mean scores."""
    if task.redrawn is None:
        return None
    redraw, sign = task.redrawn, -1.0 if task.lower else 1.0

    def of(answers_RNC: Tensor) -> Redrawn:
        return lambda times_SM: (
            sign * np.stack([redraw(one_NC, labels_N, times_SM) for one_NC in answers_RNC], axis=1)
        )

    return of(one_RNC), of(other_RNC)


def one_sample(labels: Tensor) -> float:
    """One sample (or one label of it) more or less is no gap."""
    known = labels[is_labelled(labels)]
    return (1 + 1e-6) / max(1, known.numel())


def unchanged(outputs_NC: Tensor) -> Tensor:
    """Outputs that are answers as they are."""
    return outputs_NC


def nll_of(numbers: Mapping[str, float]) -> float:
    """How wrong a teacher is, by its likelihood."""
    return numbers["nll"]
