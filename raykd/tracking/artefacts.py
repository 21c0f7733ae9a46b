"""What a run leaves for W&B's lineage: teachers, the targets made by them, the student; read from its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raykd.folders import RunFolder, read_json

ArtefactKind = Literal["teacher", "targets", "student"]
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """One version of something made; two with the same files are the same to W&B.

    Attributes:
        name: of its kind and content, so that it means the same in every run.
        kind: W&B's type of artefact.
        files: name -> file that is uploaded.
        references: name -> file that stays where it is; W&B learns path and checksum.
        metadata: shown beside it.
        made_from: names of the artefacts that it was made from.
    """

    name: str
    kind: ArtefactKind
    files: Mapping[str, Path] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()


def teachers_of(folder: RunFolder) -> dict[str, Artefact]:
    """Teacher -> its card, with a reference to its weights or outputs; of those that have a card."""
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
    noted = read_json(folder.targets)
    names = sorted(entry["folder"] for entry in noted["entries"])
    content = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    manifests = {f"{name}/{_MANIFEST}": Path(noted["store"]) / name / _MANIFEST for name in names}
    return Artefact(
        name=f"targets-{content}",
        kind="targets",
        references=manifests,
        metadata={"store": noted["store"], "mode": noted["mode"]},
        made_from=tuple(artefact.name for artefact in teachers_of(folder).values()),
    )


def student_of(folder: RunFolder, name: str, files: Mapping[str, Path]) -> Artefact:
    """A student by its files.

    Args:
        folder: of the run, for what it was made from.
        name: of the run, and of the student where it has several.
        files: name -> file.
    """
    targets = targets_of(folder)
    made_from = () if targets is None else (targets.name,)
    return Artefact(f"student-{name}", "student", files=files, made_from=made_from)
