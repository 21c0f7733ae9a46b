from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raykd.errors import RaykdError
from raykd.tracking import JsonLines, events, read_lines
from raykd.tracking import jsonl as module


def _epoch(epoch: int, **values):
    event = events.epoch("student", "student/replica0", epoch=epoch, **values)
    return replace(event, time=float(epoch))


def test_every_event_but_progress_is_stored_and_failures_twice(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run")
    lines.on(events.stage("student", state="started", fits=["student/replica0"]))
    lines.on(_epoch(1, train_loss=0.5))
    lines.on(events.progress("targets", done=1, total=2, unit="views"))
    lines.on(events.failure("fleet", "died", fit="teacher/a"))
    stored = read_lines(tmp_path / "run" / "metrics.jsonl")  # whole already, before it is closed
    lines.close(None)

    assert [line["kind"] for line in stored] == ["stage", "epoch", "failure"]
    assert stored[1]["train_loss"] == 0.5
    assert read_lines(tmp_path / "run" / "events.jsonl") == stored[2:]


@pytest.mark.parametrize("tail", [b'{"time": 3.0, "st', b"{", b'{"whole": 1}', b"\x00" * 200_000])
def test_a_line_cut_by_a_kill_is_repaired_on_resume(tmp_path: Path, tail: bytes) -> None:
    lines = JsonLines(tmp_path)
    lines.on(_epoch(1))
    lines.close(None)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert [line["epoch"] for line in read_lines(path)] == [1]

    lines = JsonLines(tmp_path)
    assert path.read_bytes() == whole
    lines.on(_epoch(2))
    lines.close(None)
    assert [line["epoch"] for line in read_lines(path)] == [1, 2]


def test_a_file_of_half_a_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"time"')
    JsonLines(tmp_path).close(None)
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_odd_values_do_not_lose_a_line(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path)
    lines.on(
        _epoch(
            1,
            train_loss=float("nan"),
            terms={"kl": float("inf"), "ce": np.float32(0.5)},
            weights=np.array([0.25, np.nan]),
            seen=np.int64(3),
            good=np.bool_(True),
            where=Path("a/b"),
            several={"x"},
            name="Łódź \ud800",
        )
    )
    lines.close(None)
    raw = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(raw, parse_constant=lambda constant: pytest.fail(f"{constant} in {raw}"))
    assert line["train_loss"] is None
    assert line["terms"] == {"kl": None, "ce": 0.5}
    assert line["weights"] == [0.25, None]
    assert (line["seen"], line["good"], line["where"]) == (3, True, "a/b")
    assert line["several"] == ["x"]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n[1]\n{"a": 2}\n')
    with pytest.raises(RaykdError, match="line 2: damaged"):
        read_lines(path)
    path.write_text('{"a": 1}\n{"a"\n')
    assert read_lines(path) == [{"a": 1}]
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "none.jsonl")


def test_a_full_disk_stops_the_run_and_leaves_whole_lines(tmp_path: Path, monkeypatch) -> None:
    class Full(module.FileIO):
        room = 10_000

        def write(self, line: bytes) -> int:
            written = super().write(line[: self.room])
            Full.room -= written
            return written

    monkeypatch.setattr(module, "FileIO", Full)
    lines = JsonLines(tmp_path)
    lines.on(_epoch(1))
    Full.room = 20
    with pytest.raises(
        RaykdError,
        match=r"metrics\.jsonl cannot be written: No space left on device \([\d,]+ bytes are needed",
    ):
        lines.on(_epoch(2))
    assert [line["epoch"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1]
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"\n")


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RaykdError, match="file cannot be written: File exists"):
        JsonLines(tmp_path / "file")
