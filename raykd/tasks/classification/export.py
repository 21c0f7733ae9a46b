"""An exported classification: logits and probabilities, the most probable class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raykd.evaluate import confusion
from raykd.export.task import WORST, Predicted, TaskExport, classification_tag, quoted


def _weak_spots(log_probs_NC: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    counts = confusion(log_probs_NC, labels_N)
    there = np.flatnonzero(counts.sum(axis=1))
    recall = np.diag(counts)[there] / counts.sum(axis=1)[there]
    weakest = np.argsort(recall, kind="stable")[:WORST]
    shown = ", ".join(
        f"{quoted(names[there[i]])} {100 * recall[i]:.1f} % of {counts[there[i]].sum():,}"
        for i in weakest
    )
    missing = len(names) - len(there)
    untested = f" Of {missing} classes test has no sample." if missing else ""
    return f"Lowest recall on test: {shown}.{untested}"


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    probability_NC = outputs_NC.softmax(dim=1)
    label_N = probability_NC.argmax(dim=1)
    words = tuple(names[label] for label in label_N.tolist())
    return Predicted(names, words, label_N.numpy(), probability_NC.numpy())


EXPORT = TaskExport(
    outputs={
        "logits": "[batch, classes], before the softmax",
        "probabilities": "[batch, classes], softmax of the logits over the student's temperature: each row sums to 1",
    },
    of_network=lambda logits_BC, temperature: (logits_BC, (logits_BC / temperature).softmax(dim=1)),
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=classification_tag,
    has_probabilities=True,
)
