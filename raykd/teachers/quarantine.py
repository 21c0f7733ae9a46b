"""Samples that break a teacher: found by halving the batch, then answered as absent. No Ray.

What is quarantined is a view of a sample, so that an answer still depends on (teacher, sample, view)
alone, whoever asked first; the limit counts samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from raykd.errors import TeacherError
from raykd.targets import codec
from raykd.types import Dense

Found = TypeVar("Found")
_NAMED = 8


@dataclass(frozen=True, eq=False)
class Tolerance:
    """How many samples may be left out.

    Attributes:
        ids_N: int64, sample ids in the data's row order.
        max_fraction: of all samples, by teacher; from `data.bad_samples.max_fraction`.
    """

    ids_N: np.ndarray
    max_fraction: float

    @property
    def most(self) -> int:
        """Samples that one teacher may break on."""
        return int(self.max_fraction * len(self.ids_N))

    def named(self, rows: Sequence[int]) -> str:
        """The ids of some rows, in words."""
        ids = [str(int(self.ids_N[row])) for row in sorted(set(rows))]
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"sample id{'s' * (len(ids) > 1)} {', '.join(ids[:_NAMED])}{more}"

    def exceeded(self, teacher: str, rows: Sequence[int]) -> str:
        """Why it is too much, in words."""
        count = len(set(rows))
        return (
            f"teacher {teacher!r} breaks on {count} of {len(self.ids_N):,} samples ({self.named(rows)}), more than "
            f"data.bad_samples.max_fraction={self.max_fraction:g} allows; remove them, or raise it"
        )


@dataclass
class Quarantine:
    """What one teacher is not asked any more.

    Attributes:
        known: (row, view) of what broke it.
    """

    known: set[tuple[int, int]] = field(default_factory=set)

    @property
    def rows(self) -> set[int]:
        """Samples that broke it in any view."""
        return {row for row, _ in self.known}

    def add(self, row: int, view: int) -> None:
        """Ask this view of this sample no more."""
        self.known.add((row, view))

    def sort(self, rows: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in a batch that are asked together, and those that are asked alone.

        Args:
            rows: int64 [B].
            view: int64 [B].

        Returns:
            Everything but what is in quarantine; alone are samples that are so in another view.
        """
        everything = np.arange(len(rows))
        if not self.known:
            return everything, everything[:0]
        pairs = list(zip(rows.tolist(), view.tolist(), strict=True))
        free = np.array([pair not in self.known for pair in pairs], bool)
        suspect = free & np.isin(rows, sorted(self.rows))
        return np.flatnonzero(free & ~suspect), np.flatnonzero(suspect)


@dataclass(frozen=True)
class Isolated(Generic[Found]):
    """What a search found.

    Attributes:
        answered: places with what was found for them.
        bad: places that broke the teacher, each alone and twice.
        exceeded: whether the search was given up, as there were more than allowed.
    """

    answered: list[tuple[np.ndarray, Found]]
    bad: list[int]
    exceeded: bool


def isolate(
    places: np.ndarray, attempt: Callable[[np.ndarray], Found | None], room: int
) -> Isolated[Found]:
    """Halve a batch that broke a teacher until only single samples are left that do.

    One bad sample among n takes about 2 + 2·log2(n) attempts, half of which break the teacher.

    Args:
        places: of the batch's samples.
        attempt: the answer for some places, or None when it broke the teacher.
        room: bad samples allowed; the search ends with the next one.
    """
    answered: list[tuple[np.ndarray, Found]] = []
    bad: list[int] = []
    waiting = _halves(places)
    while waiting:
        part = waiting.pop()
        found = attempt(part)
        if found is None and len(part) == 1:
            found = attempt(part)  # one process may die for reasons of its own, two hardly do
        if found is not None:
            answered.append((part, found))
        elif len(part) > 1:
            waiting += _halves(part)
        else:
            bad.append(int(part[0]))
            if len(bad) > room:
                return Isolated(answered, bad, exceeded=True)
    return Isolated(answered, bad, exceeded=False)


def _halves(places: np.ndarray) -> list[np.ndarray]:
    """Both halves, the first one last, since the list is worked off from its end."""
    middle = len(places) // 2
    return [half for half in (places[middle:], places[:middle]) if len(half)]


def assemble(
    parts: Sequence[tuple[np.ndarray, codec.Arrays]], size: int, temperature: float = 1.0
) -> Dense | None:
    """One teacher's answer for a batch from answers for parts of it; None where there is none.

    Args:
        parts: places in the batch, and the encoded answer for them.
        size: of the batch; rows that no part has are zeros and not valid.
        temperature: at which the logits are going to be used.
    """
    if not parts:
        return None
    if len(parts) == 1 and len(parts[0][0]) == size:
        return codec.decode(parts[0][1], temperature)
    arrays = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    places = torch.from_numpy(np.concatenate([places for places, _ in parts]))
    answer = codec.decode(arrays, temperature)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.new_zeros((size, *tensor.shape[1:]))
        whole[places] = tensor
        return whole

    return replace(
        answer,
        values_NC=spread(answer.values_NC),
        valid_N=spread(answer.valid_N),
        features={tap: spread(feature) for tap, feature in answer.features.items()},
    )


def check_room(tolerance: Tolerance, teacher: str, rows: set[int]) -> None:
    """Refuse more bad samples than allowed.

    Raises:
        TeacherError: names them.
    """
    if len(rows) > tolerance.most:
        raise TeacherError(tolerance.exceeded(teacher, sorted(rows)))
