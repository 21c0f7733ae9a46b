"""What a classification confuses, and how much of each class it finds.

Shapes: R replicas, N samples, C classes. Everything is on the labelled part of the test split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate import Evaluation, confusion
from raykd.report.diagnostics import ClassRecall, class_names
from raykd.report.wording import BASELINE

Floats = NDArray[np.float64]


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
