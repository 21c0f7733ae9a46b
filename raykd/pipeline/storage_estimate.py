"""What the target store will take, held against the room that its disk has."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from raykd.data import Samples
from raykd.pipeline.candidates import ResolvedTeacher
from raykd.pipeline.fits import shown_views
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.serving import store_root
from raykd.targets import codec
from raykd.targets.maintenance import size_of
from raykd.targets.packing import Arrays
from raykd.tasks import find_task

_KEYS_BYTES = 8 + 8
"""Sample id and content hash."""
_MARGIN = 0.95
"""Part of the room that a store may fill."""


def answer_of(candidate: ResolvedTeacher, samples: Samples, *, held_out: bool = False) -> Arrays:
    """A teacher's encoded answer for one sample, zeros [1, ...]; untransformed or in a view."""
    packing = candidate.packing.whole() if held_out else candidate.packing
    features = {} if held_out else {t: torch.zeros(1, *s) for t, s in candidate.shapes.items()}
    outputs = torch.zeros(1, candidate.answers)
    return codec.encode(outputs, features, find_task(samples.task).metrics.kind, packing)


def whole_bytes(prepared: Prepared) -> int | None:
    """Bytes of all answers that are stored, headers apart; None where views are endless."""
    samples, views = prepared.samples, shown_views(prepared.config)
    if views is None:
        return None
    train = views * len(samples.splits["train"])
    held_out = len(samples.splits["validation"]) + len(samples.splits["test"])
    total = 0
    for candidate in prepared.teachers.values():
        entries = 1 + len(candidate.taps)
        total += train * (_bytes(answer_of(candidate, samples)) + entries * _KEYS_BYTES)
        total += held_out * (_bytes(answer_of(candidate, samples, held_out=True)) + _KEYS_BYTES)
    return total


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def storage_shortage(prepared: Prepared) -> str | None:
    """Why the targets cannot be stored, in words; None where they can.

    What the store takes already counts as room: some of it may be these targets.
    """
    needed, root = whole_bytes(prepared), store_root(prepared.config)
    if needed is None:
        return None
    room = shutil.disk_usage(_existing(root)).free * _MARGIN + size_of(root)
    if needed <= room:
        return None
    return f"the targets take {needed / 1e9:,.2f} GB, {root} has room for {room / 1e9:,.2f} GB"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
