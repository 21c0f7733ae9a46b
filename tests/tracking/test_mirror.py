"""Which artefacts a job's W&B run makes and which it only uses, from its folder and events; no wandb needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.folders import RunFolder, write_json
from raykd.tracking import RunMirror, events


class FakeSink:
    def __init__(self) -> None:
        self.used, self.kept, self.events, self.summary = [], [], [], ()

    def on(self, event) -> None:
        self.events.append(event)

    def use_artefacts(self, find) -> None:
        self.used += find()

    def log_artefacts(self, find) -> None:
        self.kept += find()

    def close(self, summary) -> None:
        self.summary = summary


def card(folder: RunFolder, name: str, fingerprint: str) -> None:
    weights = folder.path / f"{name}.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"w")
    told = {"name": name, "fingerprint": fingerprint, "weights": str(weights), "labels": "all"}
    write_json(folder.card(name), {**told, "validation": {"accuracy": 0.5}})


def targets(folder: RunFolder, mode: str, *names: str) -> None:
    entries = [{"folder": name} for name in names]
    write_json(folder.targets, {"store": "/store", "mode": mode, "entries": entries})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Of a run with two teachers, of which `a` is fitted in it, and its student."""
    folder = RunFolder(tmp_path / "my-run")
    card(folder, "a", "f" * 64)
    card(folder, "b", "e" * 64)
    folder.student.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder.student / name).write_text("s")
    return folder


def mirrored(folder: RunFolder, *samples: int, mode: str = "stored", summary=None) -> FakeSink:
    sink = FakeSink()
    mirror = RunMirror(sink, folder)
    mirror.on(events.fit("teachers", "teacher/a", state="finished"))
    mirror.on(events.fit("teachers", "teacher/b", state="reused"))
    for done in samples:
        mirror.on(events.progress("targets", done=done, total=None, unit="samples"))
    targets(folder, mode, "y", "x")
    mirror.on(events.stage("targets", state="finished", seconds=1.0))
    targets(folder, mode, "y", "x", *(["z"] if mode == "write_through" else []))
    mirror.close(summary)
    return sink


def test_what_the_run_made_is_kept_and_what_it_found_is_used(folder: RunFolder) -> None:
    sink = mirrored(folder, 10, summary={"status": "complete"})
    assert [one.name for one in sink.used] == ["teacher-b-" + "e" * 12]
    teacher, made, student = sink.kept
    assert teacher.name == "teacher-a-" + "f" * 12
    assert teacher.files == {"card.json": folder.card("a")}
    assert list(teacher.references) == ["a.safetensors"]
    assert teacher.metadata["validation"] == {"accuracy": 0.5}
    assert made.made_from == (teacher.name, "teacher-b-" + "e" * 12)
    assert list(made.references.values()) == [Path(f"/store/{n}/manifest.json") for n in ("x", "y")]
    assert made.files == {}
    assert (student.name, student.kind, student.made_from) == ("student-my-run", "student", (made.name,))  # fmt: skip
    assert set(student.files) == {"model.json", "model.safetensors"}
    assert len(sink.events) == 4
    assert sink.summary == {"status": "complete"}


def test_targets_that_were_there_are_used_and_a_failed_run_has_no_student(
    folder: RunFolder,
) -> None:
    sink = mirrored(folder)
    assert [one.kind for one in sink.used] == ["teacher", "targets"]
    assert [one.kind for one in sink.kept] == ["teacher"]
    assert sink.summary is None


def test_targets_written_through_are_kept_as_they_are_at_the_end(folder: RunFolder) -> None:
    sink = mirrored(folder, mode="write_through", summary={})
    assert [one.kind for one in sink.used] == ["teacher"]
    (made,) = (one for one in sink.kept if one.kind == "targets")
    assert len(made.references) == 3


def test_the_same_targets_have_the_same_name_in_every_run(
    folder: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "other")
    targets(other, "stored", "x", "y")
    first = mirrored(folder, 10).kept[1].name
    sink = FakeSink()
    mirror = RunMirror(sink, other)
    mirror.on(events.stage("targets", state="finished", seconds=1.0))
    assert [one.name for one in sink.used] == [first]
    targets(other, "stored", "x", "z")
    mirror.on(events.stage("targets", state="finished", seconds=1.0))
    assert sink.used[1].name != first
