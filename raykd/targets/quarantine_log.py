"""What a teacher does not answer: samples that break it, beside an entry's manifest and in a batch.

What is quarantined is one view of one sample. The store holds no answer for it and does not ask again; whoever
reads gets zeros that are not valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from raykd.errors import TargetError
from raykd.folders import read_json, write_json
from raykd.targets import codec
from raykd.targets.entries import locked
from raykd.types import Dense

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
    """Add to the quarantined views of an entry; deleting the file has them asked again."""
    with locked(folder):
        every = sorted(read_quarantined(folder) | set(views))
        write_json(folder / QUARANTINE, [to_json(one) for one in every])


def to_json(view: QuarantinedView) -> dict[str, int]:
    """As plain values."""
    return dict(zip(("id", "hash", "view"), view, strict=True))


def quarantined_rows(folder: Path, ids_N: np.ndarray, hashes_N: np.ndarray) -> set[tuple[int, int]]:
    """The quarantined views of an entry that concern these data, as (row, view).

    Args:
        folder: of the entry.
        ids_N: int64, sample ids in the data's row order.
        hashes_N: uint64, their contents.
    """
    quarantined = read_quarantined(folder)
    if not quarantined:
        return set()
    pairs = zip(ids_N.tolist(), hashes_N.tolist(), strict=True)
    row_of = {pair: row for row, pair in enumerate(pairs)}
    return {(row_of[i, h], view) for i, h, view in quarantined if (i, h) in row_of}


def assemble(
    parts: Sequence[tuple[np.ndarray, codec.Arrays]], size: int, temperature: float = 1.0
) -> Dense | None:
    """One teacher's answer for a batch from answers for parts of it; None where there is none.

    Args:
        parts: indices in the batch, and the encoded answer for them.
        size: of the batch; rows that no part has are zeros and not valid.
        temperature: at which the logits are going to be used.
    """
    if not parts:
        return None
    if len(parts) == 1 and len(parts[0][0]) == size:
        return codec.decode(parts[0][1], temperature)
    arrays = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    indices = torch.from_numpy(np.concatenate([part for part, _ in parts]))
    answer = codec.decode(arrays, temperature)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((size, *tensor.shape[1:]))
        whole[indices] = tensor
        return whole

    return replace(
        answer,
        values_NC=spread(answer.values_NC),
        valid_N=spread(answer.valid_N),
        features={tap: spread(feature) for tap, feature in answer.features.items()},
    )
