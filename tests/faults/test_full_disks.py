"""Every place that raykd writes to, full at the first byte or at the n-th file: one error, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd.cli import main
from raykd.disks import copy_folder, disk_error, is_full, new_file, why_unwritable, write_whole
from raykd.errors import DiskError, RaykdError
from raykd.evaluate import Evaluation
from raykd.export.predictions import write_table
from raykd.export.task import Predicted
from raykd.folders import replacing, write_json
from raykd.models.weights import save_weights
from raykd.pipeline.prediction import write_npz
from raykd.report.page import write_parts
from raykd.report.style import Picture
from raykd.report.tables import Table
from raykd.search.results import _write_parquet
from raykd.targets.quarantine_log import add_quarantined
from raykd.targets.shards import write_shard
from raykd.tracking import events
from raykd.tracking.jsonl import JsonLines
from raykd.train.checkpoint import FitFolder

_WORDS = os.strerror(errno.EFBIG)
_SAID = (
    rf"({_WORDS}|{os.strerror(errno.ENOSPC)}) \(([\d,]+ bytes are needed, )?[\d,]+ are free there\)"
)
ROWS = 64
WEIGHTS = {"w": torch.zeros(ROWS, 4)}


@contextmanager
def no_room(most=16):
    """No file of this process may have more bytes than so many: what is written beyond is refused, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def evaluation():
    from raykd.evaluate import SplitOutputs

    answers = torch.zeros(ROWS, 3)
    split = SplitOutputs(
        labels_N=torch.zeros(ROWS, dtype=torch.int64), ids_N=torch.arange(ROWS), teachers={"a": answers},
        ensemble=answers, students={"student": answers[None]}, students_last={"student": answers[None]},
    )  # fmt: skip
    return Evaluation(splits={"validation": split, "test": split}, classes=("x", "y", "z"))


def arrays():
    return {
        "ids": np.arange(ROWS),
        "hashes": np.arange(ROWS, dtype=np.uint64),
        "values": np.zeros((ROWS, 3), np.float16),
    }


def log_line(folder):
    sink = JsonLines(folder)
    try:
        sink.on(events.message("data", "x" * 200))
    finally:
        sink.close(None)


def predicted():
    return Predicted(classes=("x", "y"), label_N=np.zeros(ROWS, np.int64), words=("x",) * ROWS,
                     probability_NC=np.zeros((ROWS, 2), np.float32), vector_ND=None)  # fmt: skip


PICTURE = Picture("gains", "Gains", "", "<svg/>", png=b"png" * 100)
TABLE = Table(
    name="results", title="Results", columns=("a",), rows=(), records=(("b" * 100,),), fields=("a",)
)
WRITERS = {
    "a file": lambda folder: write_whole(folder / "name", [b"a" * 100]),
    "JSON": lambda folder: write_json(folder / "name.json", list(range(100))),
    "weights": lambda folder: save_weights(WEIGHTS, folder / "w.safetensors"),
    "a checkpoint": lambda folder: FitFolder(folder).save({"identity": "x"}, WEIGHTS, WEIGHTS),
    "an evaluation": lambda folder: evaluation().save(folder / "evaluation.safetensors"),
    "predictions": lambda folder: write_table(folder / "p.parquet", pa.table({"a": list(range(100))})),
    "predicted arrays": lambda folder: write_npz(folder / "p.npz", np.arange(ROWS), predicted()),
    "a sweep's table": lambda folder: _write_parquet(folder / "r.parquet", [{"a": 1}] * 100),
    "a line of metrics": log_line,
    "pictures and tables": lambda folder: write_parts(folder, {"gains": PICTURE}, {"results": TABLE}),
    "a shard": lambda folder: write_shard(folder, 0, arrays()),
    "a quarantine": lambda folder: add_quarantined(folder, [(number, 1, 0) for number in range(9)]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_one_error_with_place_and_bytes_and_nothing_half_written(tmp_path, name):
    write = WRITERS[name]
    folder = tmp_path / "place"
    with (
        no_room(),
        pytest.raises(RaykdError, match=rf"{folder}.* cannot be written: {_SAID}"),
    ):
        write(folder)
    assert not {path: raw for path, raw in content(folder).items() if raw}, (
        "nothing but empty files and locks"
    )
    write(folder)
    before = content(folder)
    with no_room(), pytest.raises(RaykdError):
        write(folder)
    assert content(folder) == before


def test_room_that_is_needed_and_free_is_told_and_the_error_crosses_processes(tmp_path):
    error = disk_error(
        tmp_path / "new" / "file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 12_345
    )
    assert (
        "new/file cannot be written: No space left on device (12,345 bytes are needed, "
        in error.what
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 (our own)
    assert (
        "free"
        not in disk_error(tmp_path, PermissionError(errno.EACCES, "Permission denied"), 5).what
    )
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EACCES, "no"))


@dataclass
class _Full:
    """A disk on which so many more files and folders can be made."""

    folder: str = ""
    left: int = -1
    made: int = 0

    def __call__(self, event, arguments):
        if (
            not self.folder
            or event not in ("open", "os.mkdir")
            or not str(arguments[0]).startswith(self.folder)
        ):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.made += 1
        if 0 <= self.left < self.made:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))


_FULL = _Full()


@pytest.fixture(scope="module")
def full():
    """Sets after how many files and folders a folder's disk is full; hooks of Python cannot be taken away again."""
    sys.addaudithook(_FULL)

    @contextmanager
    def after(folder, left):
        _FULL.folder, _FULL.left, _FULL.made = str(folder), left, 0
        try:
            yield _FULL
        finally:
            _FULL.folder = ""

    return after


def said_of(write, folder):
    """The error of a write; None where what has no room is no loss."""
    try:
        write(folder)
    except RaykdError as error:
        return str(error)
    return None


def swapped(folder):
    with replacing(folder / "export") as fresh:
        save_weights(WEIGHTS, fresh / "w.safetensors")
        write_json(fresh / "index.json", [1])
        write_whole(fresh / "README.md", [b"card"])


def copied(folder):
    if not (folder / "own").exists():
        copy_folder(folder / "before", folder / "own")


def saved(folder):
    FitFolder(folder / "fit").save({"identity": "x"}, WEIGHTS, WEIGHTS)


SEQUENCES = {
    "a folder that is swapped in": swapped,
    "a checkpoint": saved,
    "a copied fit": copied,
    "parts of a report": WRITERS["pictures and tables"],
    "a shard and its lock": WRITERS["a quarantine"],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_full_at_the_nth_file(tmp_path, name, full):
    write = SEQUENCES[name]

    def place(number):
        folder = tmp_path / str(number)
        (folder / "before" / "inner").mkdir(parents=True)
        for path in ("a", "inner/b"):
            (folder / "before" / path).write_text(path)
        return folder

    whole = place("whole")
    with full(whole, -1) as counted:
        write(whole)
    wanted, count = content(whole), counted.made
    assert count >= 2
    for number in range(count):
        folder = place(number)
        with full(folder, number):
            said = said_of(write, folder)
        assert said is None or (str(folder) in said and os.strerror(errno.ENOSPC) in said)
        found = {path: raw for path, raw in content(folder).items() if raw}
        assert found.items() <= wanted.items(), (
            f"{number}: something else than what was to be written"
        )
        assert said or found == {path: raw for path, raw in wanted.items() if raw}
        if name != "a copied fit" or not (folder / "own").exists():
            write(folder)
        assert {path: raw for path, raw in content(folder).items() if path in wanted} == wanted


def test_a_fit_s_state_outlives_a_full_disk(tmp_path):
    fit = FitFolder(tmp_path)
    fit.save({"identity": "x", "step": 1}, WEIGHTS, WEIGHTS)
    with no_room(most=1400), pytest.raises(DiskError):  # its weights have room, its state has not
        fit.save({"identity": "x", "step": 2, "more": torch.zeros(1000)}, WEIGHTS, WEIGHTS)
    assert fit.load(["x"]).state["step"] == 1


def test_a_full_disk_is_found_before_a_job_begins(tmp_path):
    with no_room():
        assert why_unwritable(tmp_path) == why_unwritable(tmp_path / "a" / "b") == _WORDS
    assert why_unwritable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_the_block_raises_is_not_taken_for_the_disk_s(tmp_path):
    def write():
        with new_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    def act(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "file"))

    monkeypatch.setattr("raykd.cli.recipes._show", act)
    monkeypatch.setattr(
        "raykd.cli.entry.parse", lambda argv: __import__("argparse").Namespace(act=act, command="x")
    )
    assert main(["config", "show", "digits"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error  {tmp_path / 'file'} cannot be written: No space left on device ("
    )
    assert "an error in raykd" not in line


def test_a_new_recipe_that_has_no_room_is_refused(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    with no_room(0):
        assert main(["init", str(file)]) == 2
    assert f"{file} cannot be written: {_WORDS}" in capsys.readouterr().err
    assert not file.exists()


def test_numbers_of_a_line_that_had_no_room_are_not_half_there(tmp_path):
    log_line(tmp_path)
    before = content(tmp_path)
    with (
        no_room(len(before["metrics.jsonl"]) + 20),
        pytest.raises(DiskError, match=r"metrics\.jsonl"),
    ):
        log_line(tmp_path)
    assert content(tmp_path) == before
    json.loads(Path(tmp_path / "metrics.jsonl").read_text())


def test_standard_output_on_a_full_disk_is_one_line(monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["recipes"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error  standard output, or a file without a name, cannot be written: No space left on device"
    )
