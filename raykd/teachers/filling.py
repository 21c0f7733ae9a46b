"""Fill the target store ahead of the students: each missing answer is computed once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raykd.data import Samples
from raykd.errors import RaykdError
from raykd.targets.positions import SortedIds
from raykd.targets.quarantine_log import quarantined_rows
from raykd.targets.remote import Remote
from raykd.targets.shards import SHARD_ROWS, Shard
from raykd.targets.store import Entry, EntryKey, append
from raykd.teachers.executor import Call, Pool, Steps, finish
from raykd.teachers.pool import ActorFleet
from raykd.teachers.quarantine import Tolerance
from raykd.tracking import Event, events

LEAST_ROWS = 2048
"""Of a part that is cut so that all processes end together."""


@dataclass(frozen=True)
class Part:
    """Rows of one view that one teacher has yet to score.

    Attributes:
        teacher, view, rows: whose, and of what.
        lacking: the entries that lack them.
        outputs: the entry of the teacher's outputs, in whose folder its quarantine lies.
    """

    teacher: str
    view: int
    rows: np.ndarray
    lacking: tuple[EntryKey, ...]
    outputs: EntryKey


def missing_parts(
    root: Path,
    keys: Mapping[str, tuple[EntryKey, ...]],
    samples: Samples,
    rows: np.ndarray,
    views: list[int],
) -> Iterator[Part]:
    """What the store lacks of these rows in these views, quarantine apart, in parts of one shard each, or of a few where rows are large.

    Args:
        root: the store's folder.
        keys: teacher -> the entries that are required, that of its outputs first.
        samples: the data.
        rows: int64, all different.
        views: numbers of views.
    """
    ids, hashes = samples.ids[rows], samples.content_hash(rows)
    sorted_ids = SortedIds(ids)
    for teacher, required in keys.items():
        entries = [Entry(root, key) for key in required]
        quarantined = quarantined_rows(entries[0].folder, ids, hashes)
        for view in views:
            found = [entry.answered(sorted_ids, hashes, view) for entry in entries]
            lacks_NE = ~np.stack(found, axis=1)
            lacks_NE[[row for row, one in quarantined if one == view]] = False
            for lacking, alike in _alike(lacks_NE):
                for start in range(0, len(alike), SHARD_ROWS):
                    yield Part(
                        teacher,
                        view,
                        rows[alike[start : start + SHARD_ROWS]],
                        tuple(required[number] for number in lacking),
                        required[0],
                    )


def _alike(lacks_NE: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which entries are lacking -> the rows [n] that lack just these; what lacks none is left out."""
    packed_NP = np.packbits(lacks_NE, axis=1)  # up to 8 entries one byte, which sorts fast
    codes = packed_NP[:, 0] if packed_NP.shape[1] == 1 else packed_NP
    for code in np.unique(codes, axis=0):
        alike_N = codes == code if codes.ndim == 1 else (codes == code).all(axis=1)
        alike = np.flatnonzero(alike_N)
        if (lacking := np.flatnonzero(lacks_NE[alike[0]])).size:
            yield lacking, alike


def fill(
    root: Path,
    parts: Sequence[Part],
    fleet: ActorFleet,
    emit: Callable[[Event], None],
    tolerance: Tolerance | None = None,
    remote: Remote | None = None,
) -> dict[str, int]:
    """Score `parts` on the fleet's actors, which write the shards themselves.

    Each finished shard is entered in its manifest at once, so that a kill loses no finished one. A part that
    breaks its teacher twice is halved until the samples that do it are found; these go into the entry's
    quarantine. Of a store in a bucket the actors upload them; what was written on other nodes is left there
    until somebody pulls it.

    Args:
        root: the store's folder.
        parts: what is missing.
        fleet: who scores.
        emit: where progress and failures are reported.
        tolerance: how many samples may break a teacher; None = none.
        remote: the bucket that the store is in.

    Returns:
        teacher -> samples scored.

    Raises:
        TeacherError: a teacher answers NaN, fails, hangs or died more often than allowed, or breaks on more
            samples than allowed.
        OSError: the store cannot be written.
    """
    if fleet.shared is not None:  # so that all processes end together
        parts = list(_cut(parts, len(fleet.shared.outstanding)))
    filling = _Filling(root, parts, fleet, emit, remote)
    if tolerance is not None:
        folders = {part.teacher: root / part.outputs.folder for part in parts}
        tolerance = replace(tolerance, folders=folders)
    pools = {
        name: Pool(name, actors, fleet.settings, emit, "targets", "stop", tolerance, fleet.shared)
        for name, actors in fleet.actors.items()
    }
    if fleet.shared is not None:
        every = deque(parts)
        lines = [filling.work_off(pools, every) for _ in fleet.shared.outstanding]
    else:
        lines = []
        for name, pool in pools.items():
            own = deque(part for part in parts if part.teacher == name)
            lines += [filling.work_off(pools, own) for _ in pool.actors]
    finish(lines)
    return filling.scored


def _cut(parts: Sequence[Part], processes: int) -> Iterator[Part]:
    """The same in smaller parts: a process has about eight of them."""
    rows = sum(len(part.rows) for part in parts) // (8 * processes)
    size = min(SHARD_ROWS, max(LEAST_ROWS, rows))
    for part in parts:
        for start in range(0, len(part.rows), size):
            yield replace(part, rows=part.rows[start : start + size])


class _Filling:
    """One pass over the parts: each actor of a teacher is kept busy by a line of steps of its own."""

    def __init__(
        self,
        root: Path,
        parts: Sequence[Part],
        fleet: ActorFleet,
        emit: Callable[[Event], None],
        remote: Remote | None,
    ) -> None:
        self.root, self.emit, self.remote = root, emit, remote
        self.scored = dict.fromkeys(fleet.actors, 0)
        self.total, self.done = sum(len(part.rows) for part in parts), 0
        self.begun = time.monotonic()

    def work_off(self, pools: Mapping[str, Pool], parts: deque[Part]) -> Steps[None]:
        """Take parts until none is left."""
        while parts:
            part = parts.popleft()
            yield from self._score(pools[part.teacher], part)

    def _score(self, pool: Pool, part: Part) -> Steps[None]:
        """Have a part scored; of one that breaks the teacher what does not."""

        def attempt(indices: np.ndarray, *, searching: bool = True) -> Steps[int | None]:
            rows = part.rows[indices]
            call = Call(
                lambda actor: actor.fill.remote(
                    self.root, rows, part.view, part.lacking, self.remote
                ),
                len(rows),
                long=True,
                fatal=(RaykdError, OSError),
            )
            written = yield from pool.settle(pool.send(call), searching=searching)
            return None if written is None else self._enter(part, written)

        indices = np.arange(len(part.rows))
        if (yield from attempt(indices, searching=False)) is None:
            views = np.full(len(part.rows), part.view)
            found = yield from pool.search(indices, part.rows, views, attempt)
            self.done += len(found.bad)

    def _enter(self, part: Part, written: Sequence[Sequence[Shard]]) -> int:
        """Make shards visible, of each entry in turn, and report; the samples in them."""
        for key, shards in zip(part.lacking, zip(*written, strict=True), strict=True):
            here = [
                shard
                for shard in shards
                if self.remote is None or (self.root / key.folder / shard.file).is_file()
            ]
            if here:
                append(self.root, key, here)
        samples = sum(shards[0].rows for shards in written)
        self.scored[part.teacher] += samples
        self.done += samples
        rate = self.done / max(1e-9, time.monotonic() - self.begun)
        self.emit(
            events.progress(
                "targets", done=self.done, total=self.total, unit="samples", rate_per_s=rate
            )
        )
        return samples
