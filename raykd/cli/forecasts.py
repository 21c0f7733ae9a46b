"""How often teachers are asked and what the store will take, counted before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from raykd.data import Samples
from raykd.evaluate import TASKS
from raykd.objective import Role, lesson
from raykd.pipeline.fits import shown_views
from raykd.pipeline.placement import target_mode
from raykd.pipeline.preparation import Candidate, Prepared
from raykd.targets import codec

_KEYS_BYTES = 8 + 8
"""Sample id and content hash."""


@dataclass(frozen=True)
class Forecast:
    """What a recipe will ask of its teachers.

    Attributes:
        mode: `stored` or `live`, as the run will choose.
        reason: why.
        stored_passes: teacher samples scored when every view is stored; None where views are endless.
        stored_bytes: bytes of the stored rows; each file adds a header below 1 kB.
        live_passes: teacher samples scored when each student asks anew, without early stopping.
        better: the mode with fewer teacher passes.
    """

    mode: str
    reason: str
    stored_passes: int | None
    stored_bytes: int | None
    live_passes: int
    better: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def row_bytes(candidate: Candidate, samples: Samples, *, held_out: bool = False) -> int:
    """Bytes of one teacher's answer for one sample: outputs, features, keys; untransformed or in a view."""
    packing = candidate.packing.whole() if held_out else candidate.packing
    features = {} if held_out else {t: torch.zeros(1, *s) for t, s in candidate.shapes.items()}
    outputs = torch.zeros(1, samples.class_count)
    arrays = codec.encode(outputs, features, TASKS[samples.task].kind, packing)
    return sum(array.nbytes for array in arrays.values()) + _KEYS_BYTES


def forecast(prepared: Prepared) -> Forecast:
    """Count, as if the store were empty: what it holds already is not scored again."""
    config, samples = prepared.config, prepared.samples
    mode, reason = target_mode(config)
    train = len(samples.splits["train"])
    held_out = len(samples.splits["validation"]) + len(samples.splits["test"])
    teachers = len(prepared.teachers)
    live = teachers * held_out + config.seeds * config.train.epochs * train * _voices(prepared)
    count = shown_views(config)
    if count is None:
        return Forecast(mode, reason, None, None, live, "live")
    stored = teachers * (count * train + held_out)
    size = sum(
        count * train * row_bytes(candidate, samples)
        + held_out * row_bytes(candidate, samples, held_out=True)
        for candidate in prepared.teachers.values()
    )
    better = "stored" if stored <= live else "live"
    return Forecast(mode, reason, stored, size, live, better)


def _voices(prepared: Prepared) -> int:
    """Teachers asked about each sample, over the student and its controls."""
    names = list(prepared.teachers)
    taught: list[Role] = ["student", *prepared.config.evaluate.controls]
    return sum(
        len(lesson(role, prepared.config.objective, names, names[0]).teachers) for role in taught
    )
