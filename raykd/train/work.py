"""What the workers of student training get, and what they tell: the same for lanes and for groups of Ray Train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raykd.data import Samples
from raykd.folders import RunFolder
from raykd.runtime import Crew
from raykd.targets import TargetSource
from raykd.targets.source import Asking
from raykd.train.checkpoint import FolderReporter, Reporter
from raykd.train.exchange import Board
from raykd.train.fit import Fit

_TOGETHER_S = 0.5
"""Epochs of this time go to the driver together: one by one, those of small students cost the machine as much as steps."""
MakeSource = Callable[[Samples, Fit], TargetSource | Asking]


class Message(NamedTuple):
    """Why a worker stopped early.

    Attributes:
        failed: whether a fit failed; else it was saved because its node is being taken away.
        text: of what, or where it was saved.
        waits: whether it was saved because it needs what another fit has not made yet.
    """

    failed: bool
    text: str
    waits: bool = False


@dataclass(frozen=True)
class Work:
    """What every worker gets.

    Attributes:
        samples: object reference of the data.
        fits: object reference of the list of fits.
        make_source: gives a fit its targets; called in the worker.
        run: the run folder.
        emit: passes events to the driver, one or several; callable from the worker.
        depth: batches asked for ahead.
        threads: of torch, in each worker.
        lanes: fits trained side by side, where each takes one worker.
        crew: whose processes train fits of one worker; None = processes of their own.
        reporter: where progress and checkpoints go; None = events to `emit`, checkpoints to the run folder.
        board: where peers that are trained apart exchange their weights; None = there are none.
        joins: whether fits that belong together are trained in one process, and share what they ask teachers.
    """

    samples: Any
    fits: Any
    make_source: MakeSource
    run: RunFolder
    emit: Callable[..., None]
    depth: int
    threads: int = 1
    lanes: int = 1
    crew: Crew | None = None
    reporter: Reporter | None = None
    board: Board | None = None
    joins: bool = False

    def companions(self, fit: Fit, fits: Sequence[Fit]) -> list[Fit]:
        """The fits that are trained with one, itself among them, in the order of the list."""
        if not self.joins or fit.together is None:
            return [fit]
        return [one for one in fits if one.together == fit.together]

    @property
    def reports(self) -> Reporter:
        """The reporter that was given, or that of the run folder."""
        return self.reporter or FolderReporter(self.run, self.emit, _TOGETHER_S)

    def results(self, fits: Sequence[Fit]) -> dict[str, dict[str, Any]]:
        """The results of those fits that are finished with all their peers, by fit id; of a fit that of its first piece."""
        found = {fit.fit_id: [self._result(piece) for piece in fit.pieces] for fit in fits}
        return {
            name: results[0]
            for name, results in found.items()
            if results[0] is not None and None not in results
        }

    def _result(self, fit: Fit) -> dict[str, Any] | None:
        return self.reports.folder(fit.fit_id).result_of(fit.identities)
