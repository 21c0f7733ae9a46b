"""Where the exported student is weak on test, as sentences.

Shapes: N test samples, C classes, K labels. The student is replica 0, whose weights are exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from raykd.config.tasks import TaskName
from raykd.evaluate import Evaluation, confusion
from raykd.evaluate.retrieval import average_precisions
from raykd.types import is_labelled

_NAMED = 3


def weak_spots(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """How many test samples there were, and what the student gets wrong most.

    Args:
        evaluation: outputs of all models on test.
        names: of the outputs.
    """
    test = evaluation.splits["test"]
    labelled_N = is_labelled(test.labels_N)
    count = int(labelled_N.sum())
    if not count:
        return ["The test split has no labels: how often it is wrong is not known."]
    answers = test.students["student"][0][labelled_N]
    tested = f"It was tested on {count:,} samples of the same source, and on nothing else."
    if evaluation.task == "embedding":
        names = evaluation.classes  # of the labels; the outputs are dimensions
    return [tested, _WEAK[evaluation.task](answers, test.labels_N[labelled_N], names)]


def _classes(log_probs_NC: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    counts = confusion(log_probs_NC, labels_N)
    there = np.flatnonzero(counts.sum(axis=1))
    recall = np.diag(counts)[there] / counts.sum(axis=1)[there]
    weakest = np.argsort(recall, kind="stable")[:_NAMED]
    shown = ", ".join(
        f"{_quoted(names[there[i]])} {100 * recall[i]:.1f} % of {counts[there[i]].sum():,}"
        for i in weakest
    )
    missing = len(names) - len(there)
    untested = f" Of {missing} classes test has no sample." if missing else ""
    return f"Lowest recall on test: {shown}.{untested}"


def _labels(logits_NK: Tensor, labels_NK: Tensor, names: Sequence[str]) -> str:
    right_K = ((logits_NK > 0) == (labels_NK > 0)).float().mean(dim=0).numpy()
    weakest = np.argsort(right_K, kind="stable")[:_NAMED]
    shown = ", ".join(f"{_quoted(names[i])} {100 * right_K[i]:.1f} %" for i in weakest)
    return f"Fewest right decisions on test: {shown}."


def _values(values_N1: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    error_N = (values_N1[:, 0] - labels_N).double().numpy()
    size_N = np.abs(error_N)
    return (
        f"Of {_quoted(names[0])}, 95 % of the test samples are missed by at most "
        f"{np.quantile(size_N, 0.95):.4g}, the worst by {size_N.max():.4g}; the mean error is "
        f"{error_N.mean():+.4g}."
    )


def _vectors(vectors_ND: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    missed_M = 1 - average_precisions(vectors_ND, labels_N)
    asked = labels_N[labels_N.bincount()[labels_N] > 1]
    sum_C = torch.zeros(len(names), dtype=missed_M.dtype).index_add(0, asked, missed_M)
    mean_C = (sum_C / asked.bincount(minlength=len(names)).clamp(min=1)).numpy()
    weakest = np.argsort(-mean_C, kind="stable")[:_NAMED]
    shown = ", ".join(f"{_quoted(names[c])} {100 * (1 - mean_C[c]):.1f} %" for c in weakest)
    return f"Lowest mAP@10 of a class on test: {shown}."


def _quoted(name: str) -> str:
    """A user's own name inside Markdown."""
    return f"`{' '.join(name.replace('`', '´').split())}`"


_WEAK: dict[TaskName, Callable[[Tensor, Tensor, Sequence[str]], str]] = {
    "classification": _classes,
    "multilabel": _labels,
    "regression": _values,
    "embedding": _vectors,
}
