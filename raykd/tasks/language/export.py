"""An exported language model: logits of the next token at every position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raykd.data.chunks import DOMAIN, TOKEN
from raykd.export.task import WORST, Predicted, TaskExport, quoted
from raykd.tasks.language.metrics import TOP, language_metrics


def _weak_spots(columns_NA: Tensor, labels_N4: Tensor, names: Sequence[str]) -> str:
    bits = []
    for domain in labels_N4[:, DOMAIN].unique().tolist():
        own_N = labels_N4[:, DOMAIN] == domain
        numbers = language_metrics(columns_NA[own_N], labels_N4[own_N])
        bits.append((numbers["bits_per_byte"], domain))
    worst = sorted(bits, reverse=True)[:WORST]
    known = len(names) > max(domain for _, domain in bits)
    shown = ", ".join(
        f"{quoted(names[domain]) if known else domain} {value:.3f}" for value, domain in worst
    )
    return f"Most bits per byte of a domain on test: {shown}."


def _predict(outputs_NV: Tensor, names: tuple[str, ...]) -> Predicted:
    probability_NV = outputs_NV.softmax(dim=1)
    token_N = probability_NV.argmax(dim=1)
    words = tuple(names[token] if token < len(names) else str(token) for token in token_N.tolist())
    return Predicted(names, words, token_N.numpy(), None, None)


def _of_columns(columns_NA: Tensor) -> Predicted:
    token_N = columns_NA[:, TOP].numpy().astype(np.int64)
    return Predicted((), tuple(map(str, token_N.tolist())), token_N, None, None)


def _of_network(logits_BLV: Tensor, _temperature: float) -> tuple[Tensor, ...]:
    return (logits_BLV,)


EXPORT = TaskExport(
    outputs={
        "logits": "[batch, length, tokens], before the softmax: those at a position are for the token after it, from the "
        "tokens up to it",
    },
    of_network=_of_network,
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=lambda _: "text-generation",
    of_columns=_of_columns,
    label_of=lambda labels_N4: labels_N4[:, TOKEN],
    sized=lambda count: f"the next of {count} tokens",
)
