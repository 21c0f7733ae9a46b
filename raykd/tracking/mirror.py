"""A job as one W&B run: its teachers and targets are sections of it, and artefacts with its student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.folders import RunFolder
from raykd.tracking.artefacts import Artefact, student_of, targets_of, teachers_of
from raykd.tracking.events import Event
from raykd.tracking.wandb_sink import WandbSink

_WRITE_THROUGH = "write_through"


class Making:
    """Listens for what a job makes itself, as against what was there before.

    Attributes:
        fitted: teachers that were fitted.
        filled: whether targets were added to the store.
    """

    def __init__(self) -> None:
        self.fitted: set[str] = set()
        self.filled = False

    def on(self, event: Event) -> None:
        """Take note."""
        if event.stage == "teachers" and event.fit and event.values.get("state") == "finished":
            self.fitted.add(event.fit.removeprefix("teacher/"))
        self.filled |= event.stage == "targets" and event.kind == "progress"


def targets_done(event: Event) -> bool:
    """Whether all targets and the teachers' cards are there now."""
    return (
        event.stage == "targets"
        and event.kind == "stage"
        and event.values.get("state") == "finished"
    )


class RunMirror:
    """A listener that mirrors a job to one W&B run, and keeps what it used and made as artefacts.

    Args:
        sink: the run; closed with the job.
        folder: of the job.
    """

    def __init__(self, sink: WandbSink, folder: RunFolder) -> None:
        self._sink = sink
        self._folder = folder
        self._making = Making()

    def on(self, event: Event) -> None:
        """Mirror the event; the artefacts of teachers go in when they have answered."""
        self._making.on(event)
        self._sink.on(event)
        if targets_done(event):
            self._sink.use(lambda: [*self._teachers(made=False), *self._targets(made=False)])
            self._sink.keep(lambda: self._teachers(made=True))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Keep the targets, which may have been completed while students trained, and the student."""
        self._sink.keep(lambda: self._targets(made=True))
        if summary is not None:
            self._sink.keep(self._student)
        self._sink.close(summary)

    def _teachers(self, *, made: bool) -> list[Artefact]:
        """Those that this job made, or those that it found."""
        teachers, fitted = teachers_of(self._folder), self._making.fitted
        return [one for name, one in teachers.items() if (name in fitted) is made]

    def _targets(self, *, made: bool) -> list[Artefact]:
        targets = targets_of(self._folder)
        if targets is None:
            return []
        own = self._making.filled or targets.metadata["mode"] == _WRITE_THROUGH
        return [targets] if own is made else []

    def _student(self) -> list[Artefact]:
        files = {path.name: path for path in sorted(self._folder.student.glob("model.*"))}
        return [student_of(self._folder, self._folder.path.name, files)] if files else []
