"""What is computed of a model's outputs, task by task: the seam through which all stages ask.

Shapes: T teachers, N samples, C outputs (classes, labels, the one value, or dimensions of a vector, of which
each model has its own number), M labelled samples. The
other halves of a task: `raykd.config.tasks` (what a recipe may say), `raykd.data.labels` (what labels
look like), `raykd.objective.rules` (what is learnt), `raykd.report.task_text` (how it is told).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config.tasks import TaskName
from raykd.ensemble import fit_temperature, mean_logits, mean_of_known
from raykd.ensemble.binary import mean_label_probabilities
from raykd.ensemble.given import uniform
from raykd.evaluate import multilabel, retrieval, values
from raykd.evaluate.closeness import SMALLEST_GAP, fidelity
from raykd.evaluate.metrics import classification_metrics, labelled
from raykd.types import OutputKind, is_labelled

LOWER_IS_BETTER = frozenset({"nll", "ece", "brier", "mae", "rmse"})


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of task. An "answer" is what evaluation keeps of a model's outputs for a sample.

    Attributes:
        name: as in the recipe.
        kind: how teachers' answers are stored.
        metric: what gains are of, and what chooses the best epoch and the best teacher.
        ties: what decides between equals.
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
    """

    name: TaskName
    kind: OutputKind
    metric: str
    ties: str
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

    def merit(self, value: float, metric: str | None = None) -> float:
        """A value of a metric (None: the task's own) as a number of which more is better."""
        return -value if (metric or self.metric) in LOWER_IS_BETTER else value

    def rank(self, numbers: Mapping[str, float], select: str | None = None) -> tuple[float, float]:
        """What to compare models by, more is better: by `select` first, by the other metric then."""
        first = select or self.metric
        then = self.ties if first == self.metric else self.metric
        return self.merit(numbers[first], first), self.merit(numbers[then], then)


def _mean_by(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The ensemble by a function of outputs [T, N, C] and weights [T, N]."""

    def ensemble(outputs: Sequence[Tensor]) -> Tensor:
        outputs_TNC = torch.stack(tuple(outputs))
        return combine(outputs_TNC, uniform(outputs_TNC, None))

    return ensemble


def _class_tally(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    nll = F.cross_entropy(logits_NC, labels_N, reduction="sum")
    correct = (logits_NC.argmax(dim=1) == labels_N).sum()
    return torch.tensor([float(correct), float(nll), float(len(labels_N))], dtype=torch.float64)


def _class_total(sums: Tensor) -> dict[str, float]:
    correct, nll, count = sums.tolist()
    return {"accuracy": correct / count, "nll": nll / count}


def _correct(log_probs_NC: Tensor, labels_N: Tensor) -> Tensor:
    log_probs, labels = labelled(log_probs_NC, labels_N)
    return log_probs.argmax(dim=1) == labels


def _one_sample(labels: Tensor) -> float:
    """One sample (or one label of it) more or less is no gap."""
    known = labels[is_labelled(labels)]
    return (1 + 1e-6) / max(1, known.numel())


def _class_difference(one_NC: Tensor, other_NC: Tensor) -> Tensor:
    (one_sure, one_top), (other_sure, other_top) = one_NC.max(dim=1), other_NC.max(dim=1)
    return torch.where(one_top != other_top, one_sure + other_sure, -torch.inf)


def _value_difference(one_N1: Tensor, other_N1: Tensor) -> Tensor:
    return (one_N1 - other_N1).abs()[:, 0]


def _mark_difference(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    otherwise_N = ((one_NK > 0) != (other_NK > 0)).sum(dim=1).float()
    return torch.where(otherwise_N > 0, otherwise_N, -torch.inf)


def _no_difference(one_ND: Tensor, other_ND: Tensor) -> Tensor:  # noqa: ARG001 - one signature
    return torch.full(one_ND.shape[:1], -torch.inf)


def _nll(numbers: Mapping[str, float]) -> float:
    return numbers["nll"]


def _mean_square(numbers: Mapping[str, float]) -> float:
    return numbers["rmse"] ** 2


def _missed(numbers: Mapping[str, float]) -> float:
    return 1 - numbers["map_10"]


def _small_share(labels: Tensor) -> float:  # noqa: ARG001 - one signature
    return SMALLEST_GAP


def _same(outputs_NC: Tensor) -> Tensor:
    return outputs_NC


def _negative_root(mean: Any) -> Any:
    return -(mean**0.5)


TASKS: dict[TaskName, Task] = {
    "classification": Task(
        name="classification",
        kind="logits",
        metric="accuracy",
        ties="nll",
        answer=lambda logits_NC: F.log_softmax(logits_NC, dim=1),
        ensemble=_mean_by(mean_of_known),
        numbers=classification_metrics,
        tally=_class_tally,
        tallied=3,
        total=_class_total,
        scores=_correct,
        from_scores=None,
        comparable=lambda logits_NC: logits_NC.softmax(dim=1),
        fidelity=fidelity,
        difference=_class_difference,
        error=_nll,
        smallest_gap=_one_sample,
        calibrate=fit_temperature,
    ),
    "regression": Task(
        name="regression",
        kind="value",
        metric="rmse",
        ties="mae",
        answer=_same,
        ensemble=_mean_by(mean_logits),
        numbers=values.value_metrics,
        tally=values.value_tally,
        tallied=5,
        total=values.value_total,
        scores=values.squared_errors,
        from_scores=_negative_root,
        comparable=_same,
        fidelity=values.value_fidelity,
        difference=_value_difference,
        error=_mean_square,
        smallest_gap=values.smallest_value_gap,
        calibrate=None,
        right_or_wrong=False,
    ),
    "multilabel": Task(
        name="multilabel",
        kind="label_logits",
        metric="accuracy",
        ties="nll",
        answer=_same,
        ensemble=_mean_by(mean_label_probabilities),
        numbers=multilabel.multilabel_metrics,
        tally=multilabel.multilabel_tally,
        tallied=3,
        total=multilabel.multilabel_total,
        scores=multilabel.right_shares,
        from_scores=None,
        comparable=torch.sigmoid,
        fidelity=multilabel.multilabel_fidelity,
        difference=_mark_difference,
        error=_nll,
        smallest_gap=_one_sample,
        calibrate=multilabel.multilabel_temperature,
    ),
    "embedding": Task(
        name="embedding",
        kind="embedding",
        metric="map_10",
        ties="recall_1",
        answer=_same,
        ensemble=lambda vectors: retrieval.joined(list(vectors)),
        numbers=retrieval.retrieval_metrics,
        tally=None,
        tallied=0,
        total=None,
        scores=retrieval.average_precisions,
        from_scores=None,
        comparable=lambda vectors_ND: F.normalize(vectors_ND, dim=1),
        fidelity=retrieval.retrieval_fidelity,
        difference=_no_difference,
        error=_missed,
        smallest_gap=_small_share,
        calibrate=None,
        baseline="untrained",
        right_or_wrong=False,
    ),
}
