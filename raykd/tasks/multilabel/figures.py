"""Single labels of a multilabel task: which ones the student loses.

Shapes: R replicas, N labelled test samples, K labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate import Evaluation
from raykd.report.diagnostics import ClassRecall, class_names, labelled_test, ranked, ranked_table
from raykd.report.folder import RunData
from raykd.report.style import Picture
from raykd.report.tables import Table
from raykd.report.task import TaskFigures
from raykd.report.wording import BASELINE, percent
from raykd.types import is_labelled

_NAMED = 3


def label_f1(evaluation: Evaluation) -> ClassRecall:
    """F1 of each label, means over replicas; NaN where test has no sample with it.

    Raises:
        ValueError: no test sample is labelled.
    """
    test = evaluation.splits["test"]
    known = is_labelled(test.labels_N)
    if not bool(known.any()):
        raise ValueError("none of the test samples has a label")
    truth_NK = test.labels_N[known].bool()
    baseline = test.students.get(BASELINE)
    return ClassRecall(
        names=class_names(evaluation),
        samples_C=truth_NK.sum(dim=0).numpy(),
        student_C=_f1(test.students["student"][:, known], truth_NK),
        ensemble_C=_f1(test.ensemble[None, known], truth_NK),
        baseline_C=None if baseline is None else _f1(baseline[:, known], truth_NK),
    )


def _f1(logits_RNK: Tensor, truth_NK: Tensor) -> NDArray[np.float64]:
    said_RNK = logits_RNK > 0
    hits_RK = (said_RNK & truth_NK).sum(dim=1).double()
    all_RK = said_RNK.sum(dim=1).double() + truth_NK.sum(dim=0).double()
    f1_K = (2 * hits_RK / all_RK.clamp(min=1)).mean(dim=0).numpy()
    present = truth_NK.any(dim=0).numpy()
    shown: NDArray[np.float64] = np.where(present, f1_K, np.nan)
    return shown


def labels(run: RunData) -> Picture | None:
    """F1 by label of student, ensemble and baseline."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    return ranked(
        label_f1(run.evaluation),
        name="labels",
        title="F1 by label",
        axis="F1 on test",
        ends=" F1 is the harmonic mean of precision and recall.",
        kind="labels",
    )


def label_table(run: RunData) -> Table | None:
    """F1 by label in numbers."""
    if labelled_test(run) is None or run.evaluation is None:
        return None
    return ranked_table(
        label_f1(run.evaluation),
        name="labels",
        title="F1 by label",
        what="label",
        note="Test; “samples” have the label. Mean over replicas; the difference in points.",
    )


def worst_labels(evaluation: Evaluation) -> list[str]:
    """The labels on which the student falls behind the ensemble most, as a sentence.

    Raises:
        ValueError: no test sample is labelled.
    """
    found = label_f1(evaluation)
    behind_K = np.nan_to_num(found.ensemble_C - found.student_C)
    worst = [k for k in np.argsort(-behind_K, kind="stable")[:_NAMED] if behind_K[k] > 0]
    if not worst:
        return ["There is no label whose F1 is lower than the ensemble's."]
    named = ", ".join(
        f"{found.names[k]} (F1 {percent(found.student_C[k])}, ensemble {percent(found.ensemble_C[k])})"
        for k in worst
    )
    return [f"It loses most on {named}."]


FIGURES = TaskFigures(pictures=(labels,), tables=(label_table,), lost=worst_labels)
