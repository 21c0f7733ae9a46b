"""Samples that break a teacher: found by halving the batch, then answered as absent. No Ray.

What is quarantined is a view of a sample, so that an answer still depends on (teacher, sample, view)
alone, whoever asked first; the limit counts samples.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from raykd.data import Samples
from raykd.targets.quarantine_log import QUARANTINE, add_quarantined, quarantined_rows
from raykd.tracking import Event, events

Found = TypeVar("Found")
Waited = TypeVar("Waited")
_NAMED = 8


@dataclass(frozen=True, eq=False)
class Tolerance:
    """How many samples may be left out.

    Attributes:
        samples: the data.
        max_fraction: of all samples, by teacher; from `data.bad_samples.max_fraction`.
        folders: teacher -> where those that are left out are written down for whoever asks after; without
            it they are forgotten.
    """

    samples: Samples
    max_fraction: float
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def ids(self) -> np.ndarray:
        """Sample ids in the data's row order."""
        return self.samples.ids

    @property
    def hashes(self) -> np.ndarray:
        """Content hashes in the same order."""
        return self.samples.content_hashes

    @property
    def most(self) -> int:
        """Samples that one teacher may break on."""
        return int(self.max_fraction * len(self.ids))

    def recall(self, teacher: str) -> set[tuple[int, int]]:
        """What was written down of a teacher, as (row, view).

        Raises:
            TargetError: it is damaged.
        """
        folder = self.folders.get(teacher)
        if (
            folder is None or not (folder / QUARANTINE).is_file()
        ):  # hashing all samples takes a while
            return set()
        return quarantined_rows(folder, self.ids, self.hashes)

    def keep(self, teacher: str, row: int, view: int) -> None:
        """Write down one view of one sample."""
        if teacher in self.folders:
            content = int(self.samples.content_hash(np.array([row]))[0])
            add_quarantined(self.folders[teacher], [(int(self.ids[row]), content, view)])

    def named(self, rows: Sequence[int]) -> str:
        """The ids of some rows, in words."""
        ids = self.samples.named(np.array(sorted(set(rows)), np.int64))
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"sample id{'s' * (len(ids) > 1)} {', '.join(ids[:_NAMED])}{more}"

    def exceeded(self, teacher: str, rows: Sequence[int]) -> str:
        """Why it is too much, in words."""
        count = len(set(rows))
        return (
            f"teacher {teacher!r} breaks on {count} of {len(self.ids):,} samples ({self.named(rows)}), more than "
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

    def sort(self, rows: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of a batch that are asked together, and those that are asked alone.

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
        answered: indices with what was found for them.
        bad: indices that broke the teacher, each alone and twice.
    """

    answered: list[tuple[np.ndarray, Found]]
    bad: list[int]


def isolate(
    indices: np.ndarray,
    attempt: Callable[[np.ndarray], Generator[Waited, None, Found | None]],
    room: int,
) -> Generator[Waited, None, Isolated[Found]]:
    """Halve a batch that broke a teacher until only single samples are left that do.

    One bad sample among n takes about 2 + 2·log2(n) attempts, half of which break the teacher.

    Args:
        indices: of the batch's samples.
        attempt: the answer for some indices, or None when it broke the teacher; yields what it waits for.
        room: bad samples allowed; the search ends with the next one.
    """
    answered: list[tuple[np.ndarray, Found]] = []
    bad: list[int] = []
    waiting = _halves(indices)
    while waiting and len(bad) <= room:
        part = waiting.pop()
        found = yield from attempt(part)
        if found is None and len(part) == 1:
            found = yield from attempt(part)  # one process may die by accident, two hardly do
        if found is not None:
            answered.append((part, found))
        elif len(part) > 1:
            waiting += _halves(part)
        else:
            bad.append(int(part[0]))
    return Isolated(answered, bad)


def _halves(indices: np.ndarray) -> list[np.ndarray]:
    """Both halves, the first one last, since the list is worked off from its end."""
    middle = len(indices) // 2
    return [half for half in (indices[middle:], indices[:middle]) if len(half)]


def quarantined(
    stage: events.Stage, tolerance: Tolerance, teacher: str, row: int, view: int
) -> Event:
    """The event that tells of one sample that breaks a teacher."""
    (sample,) = tolerance.samples.named(np.array([row]))
    text = (
        f"teacher {teacher!r} breaks on sample id {sample} in view {view}; it is answered as absent"
    )
    return events.failure(
        stage, text, decision="quarantine", teacher=teacher, sample_id=sample, view=view
    )
