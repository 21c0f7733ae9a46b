"""A `TargetSource` that reads the target store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raykd.errors import TargetError
from raykd.targets import codec
from raykd.targets.quarantine_log import assemble, quarantined_rows
from raykd.targets.source import Ticket
from raykd.targets.store import TargetStore
from raykd.types import Batch, Dense, TeacherOutputs


@dataclass(frozen=True)
class StoredTargets:
    """Every answer is there already: submitting asks nothing, collecting is one gather."""

    store: TargetStore

    def submit(self, batch: Batch) -> Ticket:
        """Nothing to wait for."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """The stored answers for the batch's rows and views; samples that broke a teacher are not valid.

        Raises:
            TargetError: the store lacks an answer, or no teacher has one for any of these samples.
        """
        rows, view = ticket.batch.rows.numpy(), ticket.batch.view_B.numpy()
        if not self._gaps:
            return self.store.gather(rows, view)
        found = {name: self._gather(name, rows, view) for name in self.store.entries}
        like = next((answer for answer in found.values() if answer is not None), None)
        if like is None:
            raise TargetError("no teacher answers any sample of a batch: all are in quarantine")
        return {n: codec.absent(like) if answer is None else answer for n, answer in found.items()}

    @cached_property
    def _gaps(self) -> dict[str, set[tuple[int, int]]]:
        """Teacher -> (row, view) that it does not answer; those without any are left out."""
        ids_N, hashes_N = self.store.ids_N, self.store.hashes_N
        found = {
            name: quarantined_rows(entry.folder, ids_N, hashes_N)
            for name, entry in self.store.entries.items()
        }
        return {name: gaps for name, gaps in found.items() if gaps}

    def _gather(self, name: str, rows: np.ndarray, view: np.ndarray) -> Dense | None:
        gaps = self._gaps.get(name, set())
        pairs = zip(rows.tolist(), view.tolist(), strict=True)
        places = np.array([i for i, pair in enumerate(pairs) if pair not in gaps], np.int64)
        if not len(places):
            return None
        arrays = self.store.gather_arrays(name, rows[places], view[places])
        return assemble([(places, arrays)], len(rows), self.store.temperatures.get(name, 1.0))
