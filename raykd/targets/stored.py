"""A `TargetSource` that reads the target store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raykd.errors import TargetError
from raykd.targets import codec
from raykd.targets.quarantine_log import quarantined_rows
from raykd.targets.source import Deadline, Ticket
from raykd.targets.store import TargetStore
from raykd.types import Batch, LearntOutputs, Output


@dataclass(frozen=True)
class StoredTargets:
    """Every answer is there already: submitting asks nothing, collecting is one gather."""

    store: TargetStore
    at_once = True

    def submit(self, batch: Batch) -> Ticket:
        """Nothing to wait for."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> LearntOutputs:
        """The stored answers for the batch's rows and views; samples that broke a teacher are not valid.

        Raises:
            TargetTimeoutError: reading takes longer than that.
            TargetError: the store lacks an answer, or no teacher has one for any of these samples.
        """
        deadline, found = Deadline(timeout_s), {}
        for name in self.store.entries:
            found[name] = self._gather(name, ticket.batch)
            deadline.check(f"teacher {name!r} in the store {self.store.root}")
        answers = codec.completed(found)
        if answers is None:
            raise TargetError("no teacher answers any sample of a batch: all are in quarantine")
        return answers

    @cached_property
    def _quarantined(self) -> dict[str, set[tuple[int, int]]]:
        """Teacher -> (row, view) that it has no answer for; those without any are left out."""
        ids_N, hashes_N = self.store.ids_N, self.store.hashes_N
        found = {
            name: quarantined_rows(entry.folder, ids_N, hashes_N)
            for name, entry in self.store.entries.items()
        }
        return {name: pairs for name, pairs in found.items() if pairs}

    def _gather(self, name: str, batch: Batch) -> Output | None:
        rows, view = batch.rows.numpy(), batch.view_B.numpy()
        indices = np.arange(len(rows))
        if quarantined := self._quarantined.get(name):
            pairs = zip(rows.tolist(), view.tolist(), strict=True)
            indices = indices[[pair not in quarantined for pair in pairs]]
        if not len(indices):
            return None
        arrays = self.store.gather_arrays(name, rows[indices], view[indices])
        return codec.assemble(
            [(indices, arrays)],
            len(rows),
            self.store.temperatures.get(name, 1.0),
            batch.unit_offsets,
        )
