"""The artefacts of a run, read from its folder, and the listener that mirrors a job to W&B with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.folders import STUDENTS, RunFolder, read_json
from raykd.tracking.events import Event
from raykd.tracking.wandb_service import Artefact
from raykd.tracking.wandb_sink import WandbSink

_MANIFEST = "manifest.json"
_WRITE_THROUGH = "write_through"


def teachers_of(folder: RunFolder) -> dict[str, Artefact]:
    """Teacher -> its card with a reference to its weights or outputs; teachers without a card are left out."""
    found = {}
    for path in sorted(folder.card("x").parent.glob("*.json")):
        card = read_json(path)
        weights = card["weights"] and Path(card["weights"]).absolute()
        found[card["name"]] = Artefact(
            name=f"teacher-{card['name']}-{card['fingerprint'][:12]}",
            kind="teacher",
            files={"card.json": path},
            references={weights.name: weights} if weights and weights.is_file() else {},
            metadata={key: card[key] for key in ("fingerprint", "weights", "labels", "validation")},
        )
    return found


def targets_of(folder: RunFolder) -> Artefact | None:
    """The manifests of the targets in the store, by reference; None before there are any."""
    if not folder.targets.is_file():
        return None
    note = read_json(folder.targets)
    names = sorted(entry["folder"] for entry in note["entries"])
    content = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    manifests = {f"{name}/{_MANIFEST}": Path(note["store"]) / name / _MANIFEST for name in names}
    return Artefact(
        name=f"targets-{content}",
        kind="targets",
        references=manifests,
        metadata={"store": note["store"], "mode": note["mode"]},
        made_from=tuple(artefact.name for artefact in teachers_of(folder).values()),
    )


def student_of(folder: RunFolder, name: str, files: Mapping[str, Path]) -> Artefact:
    """The artefact of a student.

    Args:
        folder: of the run, for what the student was made from.
        name: of the run, and of the student if the run has several.
        files: name -> file.
    """
    targets = targets_of(folder)
    made_from = () if targets is None else (targets.name,)
    return Artefact(f"student-{name}", "student", files=files, made_from=made_from)


class NewOutputs:
    """Notes which teachers and targets a job makes itself, rather than finding them.

    Attributes:
        fitted: teachers that were fitted.
        filled: whether targets were added to the store.
    """

    def __init__(self) -> None:
        self.fitted: set[str] = set()
        self.filled = False

    def on(self, event: Event) -> None:
        """Note the event."""
        if event.stage == "teachers" and event.fit and event.values.get("state") == "finished":
            self.fitted.add(event.fit.removeprefix("teacher/"))
        self.filled |= event.stage == "targets" and event.kind == "progress"


def targets_done(event: Event) -> bool:
    """Whether all targets and the teachers' cards exist now."""
    return (
        event.stage == "targets"
        and event.kind == "stage"
        and event.values.get("state") == "finished"
    )


class RunMirror:
    """A listener that mirrors a job to one W&B run, and logs what it used and made as artefacts.

    Args:
        sink: the run; closed with the job.
        folder: of the job.
    """

    def __init__(self, sink: WandbSink, folder: RunFolder) -> None:
        self._sink = sink
        self._folder = folder
        self._new = NewOutputs()

    def on(self, event: Event) -> None:
        """Mirror the event; the artefacts of the teachers are logged when the targets are done."""
        self._new.on(event)
        self._sink.on(event)
        if targets_done(event):
            self._sink.use_artefacts(
                lambda: [*self._teachers(made=False), *self._targets(made=False)]
            )
            self._sink.log_artefacts(lambda: self._teachers(made=True))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Log the targets, which may have been completed while students trained, and the student."""
        self._sink.log_artefacts(lambda: self._targets(made=True))
        if summary is not None:
            self._sink.log_artefacts(self._student)
        self._sink.close(summary)

    def _teachers(self, *, made: bool) -> list[Artefact]:
        """The teachers that this job made, or those that it found."""
        teachers, fitted = teachers_of(self._folder), self._new.fitted
        return [one for name, one in teachers.items() if (name in fitted) is made]

    def _targets(self, *, made: bool) -> list[Artefact]:
        targets = targets_of(self._folder)
        if targets is None:
            return []
        own = self._new.filled or targets.metadata["mode"] == _WRITE_THROUGH
        return [targets] if own is made else []

    def _student(self) -> list[Artefact]:
        """The run's student, and its others, named after the run and their own names."""
        run = self._folder.path
        places = {run.name: self._folder.student}
        places |= {
            f"{run.name}-{path.name}": RunFolder(path).student
            for path in sorted((run / STUDENTS).glob("*"))
        }
        every = {name: sorted(place.glob("model.*")) for name, place in places.items()}
        return [
            student_of(self._folder, name, {path.name: path for path in files})
            for name, files in every.items()
            if files
        ]
