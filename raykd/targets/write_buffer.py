"""One teacher's answers in the store, and those on their way there: what is asked for is asked for once.

Shape suffixes: N rows of the data, B rows asked about.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from raykd.targets import codec
from raykd.targets.entries import Entry
from raykd.targets.positions import SortedIds
from raykd.targets.quarantine_log import add_quarantined, quarantined_rows
from raykd.targets.ragged import joined, taken
from raykd.targets.shards import write_shard
from raykd.targets.store import TargetStore

_ABSENT, _CLAIMED, _HELD, _STORED, _QUARANTINED = range(5)
"""Nobody has it; somebody asks for it; it waits to be written; it is stored; the teacher breaks on it."""
BUFFER_ROWS = 4096
"""Answers that are written together, at most: so many may have to be computed again after a kill."""


@dataclass
class _View:
    """What is known of one view.

    Attributes:
        state_N: of each row.
        lacks_NE: which entry lacks which row.
        open: how many of the rows that will be asked about are neither answered nor in quarantine.
        held: rows and answers that wait to be written.
    """

    state_N: np.ndarray
    lacks_NE: np.ndarray
    open: int
    held: codec.Parts = field(default_factory=list)


class WriteBuffer:
    """Knows which answers are there, takes new ones, and writes them in shards.

    Args:
        store: opened for the teacher.
        name: the teacher's.
        rows: int64, all rows that will be asked about; a view is written once it is whole.
    """

    def __init__(self, store: TargetStore, name: str, rows: np.ndarray) -> None:
        self.store, self.name, self.rows = store, name, rows
        self.entries: tuple[Entry, ...] = (store.entries[name], *store.features[name])
        self._asked_N = np.zeros(len(store.ids_N), bool)
        self._asked_N[rows] = True
        self._views: dict[int, _View] = {}

    def reserve(self, rows: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Indices int64 of rows [B] of views [B] that nobody has asked for yet; who calls has to."""
        claimed = []
        for index, (row, number) in enumerate(zip(rows.tolist(), view.tolist(), strict=True)):
            state_N = self._view(number).state_N
            if state_N[row] == _ABSENT:
                state_N[row] = _CLAIMED
                claimed.append(index)
        return np.array(claimed, np.int64)

    def put(self, rows: np.ndarray, view: np.ndarray, arrays: codec.Arrays) -> None:
        """Take the encoded answers to rows [B] in views [B].

        Raises:
            TargetError: they cannot be written.
        """
        for number in np.unique(view).tolist():
            here, known = np.flatnonzero(view == number), self._view(number)
            known.held.append((rows[here], taken(arrays, here)))
            self._settle(known, rows[here], _HELD)
            waiting = sum(len(part) for part, _ in known.held)
            if waiting >= BUFFER_ROWS or not known.open:
                self._write(number)

    def _settle(self, known: _View, rows: np.ndarray, state: int) -> None:
        """Rows that need not be asked for any more."""
        open_rows = rows[(known.state_N[rows] < _HELD) & self._asked_N[rows]]
        known.open -= len(np.unique(open_rows))
        known.state_N[rows] = state

    def release(self, rows: np.ndarray, view: np.ndarray) -> None:
        """Claimed and not answered: whoever needs it may ask again."""
        for row, number in zip(rows.tolist(), view.tolist(), strict=True):
            self._view(number).state_N[row] = _ABSENT

    def quarantine(self, rows: np.ndarray, view: np.ndarray) -> None:
        """The teacher breaks on these: nobody asks again, in later runs either."""
        ids_N, hashes_N = self.store.ids_N, self.store.hashes_N
        for number in np.unique(view).tolist():
            self._settle(self._view(number), rows[view == number], _QUARANTINED)
        pairs = zip(rows.tolist(), view.tolist(), strict=True)
        views = [(int(ids_N[row]), int(hashes_N[row]), number) for row, number in pairs]
        add_quarantined(self.entries[0].folder, views)

    def read(self, rows: np.ndarray, view: np.ndarray) -> codec.Parts:
        """Indices of rows [B] and views [B] that are answered, with the answers; others are left out."""
        there = np.zeros(len(rows), bool)
        for number in np.unique(view).tolist():
            here, known = view == number, self._view(number)
            if (known.state_N[rows[here]] == _HELD).any():
                self._write(number)
            there[here] = known.state_N[rows[here]] == _STORED
        indices = np.flatnonzero(there)
        if not len(indices):
            return []
        return [(indices, self.store.gather_arrays(self.name, rows[indices], view[indices]))]

    def _view(self, number: int) -> _View:
        if number not in self._views:
            self._views[number] = self._look_up(number)
        return self._views[number]

    def _look_up(self, number: int) -> _View:
        ids_N, hashes_N = self.store.ids_N, self.store.hashes_N
        ids = SortedIds(ids_N)
        found = [entry.answered(ids, hashes_N, number) for entry in self.entries]
        lacks_NE = ~np.stack(found, axis=1)
        state_N = np.where(lacks_NE.any(axis=1), _ABSENT, _STORED).astype(np.uint8)
        quarantined = quarantined_rows(self.entries[0].folder, ids_N, hashes_N)
        state_N[[row for row, view in quarantined if view == number]] = _QUARANTINED
        open_rows = np.count_nonzero(self._asked_N & (state_N < _HELD))
        return _View(state_N, lacks_NE, int(open_rows))

    def _write(self, number: int) -> None:
        """What is held of a view, one shard for each entry that lacks some of it."""
        known = self._views[number]
        rows = np.concatenate([part for part, _ in known.held])
        arrays = joined([part for _, part in known.held])
        for column, entry in enumerate(self.entries):
            lacking = np.flatnonzero(known.lacks_NE[rows, column])
            if not len(lacking):
                continue
            part = rows[lacking]
            kept = taken(entry.key.of(arrays), lacking)
            keys = {"ids": self.store.ids_N[part], "hashes": self.store.hashes_N[part]}
            shard = write_shard(entry.folder, number, {**keys, **kept}, entry.key.to_json())
            self.store.enter(entry, shard, part)
        known.state_N[rows] = _STORED
        known.lacks_NE[rows] = False
        known.held.clear()
