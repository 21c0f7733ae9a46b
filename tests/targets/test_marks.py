"""What live jobs use is not pruned, whatever clocks say; what is gone nevertheless is said."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import raykd_forked_writers as writers

from raykd.cli import main
from raykd.errors import TargetError
from raykd.targets import TargetStore, TeacherKeys, marks
from raykd.targets.buckets import Bucket
from raykd.targets.maintenance import leftovers, leftovers_in
from raykd.targets.marks import LASTS_S, MARKS, BucketBoard, FolderBoard, Mark, hold, in_use
from raykd.targets.remote import Remote
from raykd.targets.shards import write_shard
from raykd.targets.store import ORIGINAL, Entry, append

KEY = writers.KEY
OWN = Mark.own("reads", ["a", "b"], "runs/first")
PRUNER = Mark.own("prunes", (), "raykd targets prune")
ELSEWHERE = replace(OWN, host="another", boot="another start")


@pytest.fixture(params=["folder", "bucket"])
def board(request, tmp_path, monkeypatch):
    """Where marks lie, in a folder and in a bucket."""
    if request.param == "folder":
        return FolderBoard(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket, options = (request.getfixturevalue(f"s3_{name}") for name in ("bucket", "options"))
    return BucketBoard(Bucket(f"{bucket}/store{options}"))


def test_what_a_live_job_uses_is_known_until_it_ends(board):
    with hold(board, OWN), hold(board, replace(OWN, entries=frozenset("c"), job="runs/second")):
        found = in_use(board)
        assert {name: mark.job for name, mark in found.items()} == {
            "a": "runs/first", "b": "runs/first", "c": "runs/second"}  # fmt: skip
        assert found["a"].who == f"runs/first (process {os.getpid()} on {OWN.host})"
    assert not in_use(board)
    if isinstance(board, FolderBoard):
        assert not board.folder.exists(), "nothing is left in the store"


def test_who_begins_while_somebody_prunes_waits(board):
    told, order = [], []

    def job():
        with hold(board, OWN, told.append):
            order.append("job")

    with hold(board, PRUNER):
        thread = threading.Thread(target=job)
        thread.start()
        while not told:
            time.sleep(0.02)
        assert set(in_use(board)) == {"a", "b"}, "it is marked while it waits"
        order.append("pruned")
    thread.join(60)
    assert order == ["pruned", "job"]
    assert [one.work for one in told] == ["prunes"]


def put_aged(root, mark, age_s):
    """A mark that was renewed so long ago, by somebody who holds no lock that this machine sees."""
    path = root / MARKS / "other.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mark.to_bytes())
    os.utime(path, (time.time() - age_s,) * 2)


@pytest.mark.parametrize(
    ("mark", "age_s", "counts"),
    [(ELSEWHERE, 0, True), (ELSEWHERE, LASTS_S - 60, True), (ELSEWHERE, LASTS_S + 60, False),
     (ELSEWHERE, -3600, True), (OWN, 0, False)],
    ids=["fresh", "still", "over", "of a clock that was set back since", "of a process of this machine that ended"],
)  # fmt: skip
def test_a_mark_counts_for_so_long(tmp_path, monkeypatch, mark, age_s, counts):
    put_aged(tmp_path, mark, age_s)
    monkeypatch.setattr(
        marks.time, "time", lambda: 0.0
    )  # of this machine: it is the store's that counts
    assert bool(in_use(FolderBoard(tmp_path))) is counts


def test_a_job_that_was_stopped_for_hours_still_counts_and_one_that_was_killed_does_not(tmp_path):
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        with hold(FolderBoard(tmp_path), OWN):
            signal.pause()
    board = FolderBoard(tmp_path)
    try:
        while not in_use(board):
            time.sleep(0.02)
        os.kill(child, signal.SIGSTOP)
        (path,) = (tmp_path / MARKS).glob("*.json")
        os.utime(path, (0, 0))
        assert set(in_use(board)) == {"a", "b"}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not in_use(board)


def test_a_mark_is_renewed_and_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "_RENEWED_S", 0.02)
    with hold(FolderBoard(tmp_path), OWN):
        (path,) = (tmp_path / MARKS).glob("*.json")
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            time.sleep(0.01)
        shutil.rmtree(tmp_path / MARKS)
        while not in_use(FolderBoard(tmp_path)):
            time.sleep(0.01)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"work": "other"}', '{"work": "reads", "entries": 1}']
)
def test_what_is_no_mark_is_none(tmp_path, text):
    (tmp_path / MARKS).mkdir()
    (tmp_path / MARKS / "x.json").write_text(text)
    assert in_use(FolderBoard(tmp_path)) == {}


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / MARKS).write_text("a file")
    with (
        pytest.raises(TargetError, match=r"cannot be written: .*File exists.*targets\.store"),
        hold(FolderBoard(tmp_path), OWN),
    ):
        pass  # fmt: skip


def filled(root, key=KEY, rows=4):
    """An entry of one shard."""
    arrays = {"ids": writers.IDS[:rows], "hashes": writers.HASHES[:rows]}
    arrays |= writers.answers(np.arange(rows), 0)
    shard = write_shard(root / key.folder, 0, arrays, key.to_json())
    append(root, key, [shard])
    return shard


@pytest.fixture
def runs(tmp_path):
    """A folder with a run that has read nothing: all entries are unused."""
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.json").write_text("{}")
    return str(tmp_path / "runs")


def test_prune_keeps_what_is_in_use_and_says_so(tmp_path, runs, capsys):
    root, other = tmp_path / "store", replace(KEY, teacher="of another")
    filled(root)
    filled(root, other)
    old = root / KEY.folder / ".view+00000-abc.safetensors.tmp"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    command = ["targets", "prune", "--unused", runs, "--store", str(root)]
    with hold(FolderBoard(root), replace(OWN, entries=frozenset([KEY.folder]))):
        assert main([*command, "--dry-run"]) == 0
        assert f"would delete {root}/{other.folder}" in capsys.readouterr().out
        assert main(command) == 0
        said = capsys.readouterr().out
        assert f"kept {root}/{KEY.folder}: in use by runs/first (process {os.getpid()} on" in said
        assert "1 of 2 entries and 0 leftovers deleted" in said
        assert old.is_file(), "its writer may be at work"
        assert Entry(root, KEY).shards
        assert not (root / other.folder).exists()
    assert leftovers(root) == [old]
    assert main(command) == 0
    assert list(root.iterdir()) == []


def test_prune_of_a_bucket_from_another_node(tmp_path, runs, capsys, monkeypatch):
    bucket = tmp_path / "bucket"
    remote = Remote(f"file://{bucket}", tmp_path / "mirror")
    remote.keep(KEY, [filled(tmp_path / "mirror")])
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "other node"))
    command = ["targets", "prune", "--unused", runs, "--store", remote.uri]
    with hold(BucketBoard(remote.bucket), replace(ELSEWHERE, entries=frozenset([KEY.folder]))):
        assert main(command) == 0
        assert "in use by runs/first" in capsys.readouterr().out
        assert list(bucket.glob("*/*.safetensors"))
        assert not leftovers_in(remote.bucket, older_than_s=-1)
    assert main(command) == 0
    assert not list(bucket.glob("*/*.safetensors"))


def test_an_entry_that_is_gone_is_said_to_be(tmp_path):
    shard = filled(tmp_path)
    keys = {"wide": TeacherKeys(KEY, replace(KEY, views=ORIGINAL))}
    rows, ids, hashes = np.arange(4), writers.IDS[:4], writers.HASHES[:4]
    open_before = TargetStore.open(tmp_path, keys, ids, hashes)
    (tmp_path / KEY.folder / shard.file).unlink()
    with pytest.raises(TargetError, match=r"is missing; delete the folder to score it anew"):
        TargetStore.open(tmp_path, keys, ids, hashes).gather(rows, 0)
    shutil.rmtree(tmp_path / KEY.folder)
    for store in (open_before, TargetStore.open(tmp_path, keys, ids, hashes)):
        with pytest.raises(
            TargetError, match=rf"{KEY.folder}: this entry .* is gone.*prune.*resume the job"
        ):
            store.gather(rows, 0)


def test_the_folder_of_marks_is_no_leftover(tmp_path):
    (tmp_path / MARKS).mkdir()
    os.utime(tmp_path / MARKS, (0, 0))
    assert leftovers(Path(tmp_path)) == []
