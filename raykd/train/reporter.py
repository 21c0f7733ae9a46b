"""What the training loop talks to: progress goes out, checkpoints come back. One loop, several shells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from raykd.folders import RunFolder
from raykd.tracking import Event
from raykd.train.checkpoint import FitFolder


class Reporter(Protocol):
    """The loop's only way out; only rank 0 reports."""

    def report(self, event: Event) -> None:
        """Tell of an epoch, or of a fit's start or end."""
        ...

    def folder(self, fit_id: str) -> FitFolder:
        """Where a fit's checkpoints lie."""
        ...


@dataclass(frozen=True)
class FolderReporter:
    """Checkpoints in the run folder, events to a callable."""

    run: RunFolder
    emit: Callable[[Event], None]

    def report(self, event: Event) -> None:
        """Pass the event on."""
        self.emit(event)

    def folder(self, fit_id: str) -> FitFolder:
        """`checkpoints/<fit>` of the run."""
        return FitFolder(self.run.checkpoints(fit_id))
