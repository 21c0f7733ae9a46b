"""What a teacher does not answer: samples that break it, written down beside an entry's manifest.

What is quarantined is one view of one sample. The store holds no answer for it and does not ask again; whoever
reads gets zeros that are not valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from raykd.errors import TargetError
from raykd.folders import read_json
from raykd.targets.entries import locked
from raykd.targets.positions import SortedIds
from raykd.targets.shards import write_file

QUARANTINE = "quarantine.json"
QuarantinedView = tuple[int, int, int]
"""Sample id, content hash, view."""


def read_quarantined(folder: Path) -> set[QuarantinedView]:
    """The quarantined views of an entry.

    Raises:
        TargetError: the file is damaged.
    """
    path = folder / QUARANTINE
    if not path.is_file():
        return set()
    try:
        return {(int(g["id"]), int(g["hash"]), int(g["view"])) for g in read_json(path)}
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{path} is damaged ({error!r}); delete it") from None


def add_quarantined(folder: Path, views: Iterable[QuarantinedView]) -> None:
    """Add to the quarantined views of an entry; deleting the file has them asked again.

    Raises:
        TargetError: it cannot be written.
    """
    with locked(folder):
        every = sorted(read_quarantined(folder) | set(views))
        text = json.dumps([to_json(one) for one in every], indent=2) + "\n"
        write_file(folder / QUARANTINE, [text.encode()])


def to_json(view: QuarantinedView) -> dict[str, int]:
    """As plain values."""
    return dict(zip(("id", "hash", "view"), view, strict=True))


def quarantined_rows(folder: Path, ids_N: np.ndarray, hashes_N: np.ndarray) -> set[tuple[int, int]]:
    """The quarantined views of an entry that concern these data, as (row, view).

    Args:
        folder: of the entry.
        ids_N: int64, sample ids in the data's row order, all different.
        hashes_N: uint64, their contents.
    """
    quarantined = read_quarantined(folder)
    if not quarantined:
        return set()
    rows = SortedIds(ids_N).rows(np.array([one for one, _, _ in quarantined], np.int64)).tolist()
    return {
        (row, view)
        for row, (_, content, view) in zip(rows, quarantined, strict=True)
        if row >= 0 and hashes_N[row] == content
    }
