"""Exported labels: logits and probabilities, the labels that hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raykd.export.task import WORST, Predicted, TaskExport, classification_tag, quoted


def _weak_spots(logits_NK: Tensor, labels_NK: Tensor, names: Sequence[str]) -> str:
    right_K = ((logits_NK > 0) == (labels_NK > 0)).float().mean(dim=0).numpy()
    weakest = np.argsort(right_K, kind="stable")[:WORST]
    shown = ", ".join(f"{quoted(names[i])} {100 * right_K[i]:.1f} %" for i in weakest)
    return f"Fewest right decisions on test: {shown}."


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    label_NC = (outputs_NC > 0).long()
    words = tuple(
        "; ".join(name for name, label in zip(names, row, strict=True) if label)
        for row in label_NC.tolist()
    )
    return Predicted(names, words, label_NC.numpy(), outputs_NC.sigmoid().numpy())


EXPORT = TaskExport(
    outputs={
        "logits": "[batch, labels], before the sigmoid; above 0 the label holds",
        "probabilities": "[batch, labels], sigmoid of the logits over the student's temperature, each label on its own",
    },
    of_network=lambda logits_BC, temperature: (logits_BC, (logits_BC / temperature).sigmoid()),
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=classification_tag,
    has_probabilities=True,
)
