"""How figures are taken: rows of a table take turns, so that their ratios hold on a busy machine, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

_CALLS = 10
_ACTIVATIONS_BYTES = 2**24

Row = dict[str, str | float]
"""`name` of what was measured, `unit`, `median`, `min`, `spread` over the repeats, and what follows of it."""


@dataclass(frozen=True)
class Sizes:
    """How large a benchmark is.

    Attributes:
        units: rows of a batch.
        classes: of the logits.
        teachers: how many.
        samples: of the data that students are trained on.
        repeats: how often each row is measured.
        images: of Fashion-MNIST, end to end.
        epochs: end to end.
        fits: how often the rows of `end_to_end` are measured, which take minutes.
        peer_images: of Fashion-MNIST, beside another library.
        peer_epochs: the same.
        peer_repeats: how often.
        vocabulary: classes of answers of which a few are kept.
        tokens: units of a loss over them.
        rows: samples of `scale`.
    """

    units: int = 256
    classes: int = 1000
    teachers: int = 4
    samples: int = 4096
    repeats: int = 5
    images: int = 10000
    epochs: int = 20
    fits: int = 5
    peer_images: int = 60000
    peer_epochs: int = 6
    peer_repeats: int = 1
    vocabulary: int = 128_256
    tokens: int = 4096
    rows: int = 20_000_000


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Milliseconds of each call: a repeat is the median of ten calls of one, then of the next.

    A first turn warms up. Something as large as a student's activations is allocated and freed before:
    the allocator then keeps freed memory, as it does in training, and does not fetch it page by page.
    """
    torch.zeros(_ACTIVATIONS_BYTES, dtype=torch.uint8)
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            times_ms[name].append(median(_once_ms(call) for _ in range(_CALLS)))
    return [row_of(name, "ms", values[1:]) for name, values in times_ms.items()]


def rotated(names: Sequence[str], repeat: int) -> list[str]:
    """Another one first in each repeat."""
    first = repeat % len(names)
    return [*names[first:], *names[:first]]


def row_of(name: str, unit: str, values: Sequence[float]) -> Row:
    """Median, smallest and spread of some repeats."""
    return {
        "name": name,
        "unit": unit,
        "median": median(values),
        "min": min(values),
        "spread": max(values) - min(values),
    }


def against(table: Sequence[Row], reference: str) -> None:
    """Add `ratio` to each row: its median over that of the row `reference`."""
    (base,) = (float(row["median"]) for row in table if row["name"] == reference)
    for row in table:
        row["ratio"] = float(row["median"]) / base


def paired(name: str, treatment: Sequence[float], reference: Sequence[float], *, bar: str) -> Row:
    """Ratios of repeats that took turns, with the bar they are held to, such as `<= 1.05`."""
    ratios = [one / other for one, other in zip(treatment, reference, strict=True)]
    return {**row_of(name, "ratio", ratios), "bar": bar}


def _once_ms(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start_s)
