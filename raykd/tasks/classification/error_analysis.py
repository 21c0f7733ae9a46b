"""What a student loses of its teachers: classes, and samples that were right before.

Shapes: R replicas, N samples, C classes. Everything is on the labelled part of the test split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate import Evaluation, confusion
from raykd.evaluate.closeness import negative_flips
from raykd.report.diagnostics import ClassRecall, class_names
from raykd.report.wording import BASELINE, percent

Floats = NDArray[np.float64]
_NAMED = 3


def mean_confusion(log_probs_RNC: Tensor, labels_N: Tensor) -> Floats:
    """Confusion matrix [C, C] averaged over replicas, rows summing to 1 (NaN for an empty row)."""
    counts = np.mean([confusion(one, labels_N) for one in log_probs_RNC], axis=0)
    total = counts.sum(axis=1, keepdims=True)
    shares: Floats = counts / np.where(total > 0, total, np.nan)
    return shares


def class_recall(evaluation: Evaluation) -> ClassRecall:
    """Recall by class of student, ensemble and baseline.

    Raises:
        ValueError: no test sample is labelled.
    """
    test = evaluation.splits["test"]
    baseline = test.students.get(BASELINE)
    return ClassRecall(
        names=class_names(evaluation),
        samples_C=confusion(test.ensemble, test.labels_N).sum(axis=1),
        student_C=np.diag(mean_confusion(test.students["student"], test.labels_N)),
        ensemble_C=np.diag(mean_confusion(test.ensemble[None], test.labels_N)),
        baseline_C=None if baseline is None else np.diag(mean_confusion(baseline, test.labels_N)),
    )


def what_is_lost(evaluation: Evaluation) -> list[str]:
    """Classes on which the student falls behind the ensemble most, and flips, as sentences.

    Raises:
        ValueError: no test sample is labelled.
    """
    return [_worst_classes(class_recall(evaluation)), *_flips(evaluation)]


def _worst_classes(recall: ClassRecall) -> str:
    behind_C = np.nan_to_num(recall.ensemble_C - recall.student_C)
    worst = [
        index for index in np.argsort(-behind_C, kind="stable")[:_NAMED] if behind_C[index] > 0
    ]
    if not worst:
        return "There is no class whose recall is lower than the ensemble's."
    named = [
        f"{recall.names[index]} (recall {percent(recall.student_C[index])}, ensemble "
        f"{percent(recall.ensemble_C[index])})"
        for index in worst
    ]
    return f"It loses most on {'class' if len(worst) == 1 else 'the classes'} {_listed(named)}."


def _flips(evaluation: Evaluation) -> list[str]:
    test = evaluation.splits["test"]
    student_R = [one.argmax(dim=1) for one in test.students["student"]]
    ensemble_R = [test.ensemble.argmax(dim=1)] * len(student_R)
    others = {"the ensemble": ensemble_R}
    if BASELINE in test.students:
        baseline_R = [one.argmax(dim=1) for one in test.students[BASELINE]]
        others = {"labels alone": baseline_R, **others}
    parts = []
    for name, old_R in others.items():
        lost, won = _flip_rates(test.labels_N, old_R, student_R)
        parts.append(
            f"{percent(lost)} that {name} got right (and {percent(won)} the other way round)"
        )
    return [f"Of all test samples it now gets wrong {_listed(parts)}."]


def _flip_rates(
    labels_N: Tensor, old_R: Sequence[Tensor], new_R: Sequence[Tensor]
) -> tuple[float, float]:
    """Negative and positive flips, averaged over paired replicas."""
    pairs = list(zip(old_R, new_R, strict=True))
    lost = np.mean([negative_flips(labels_N, old, new) for old, new in pairs])
    won = np.mean([negative_flips(labels_N, new, old) for old, new in pairs])
    return float(lost), float(won)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
