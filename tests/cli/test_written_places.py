"""Every place that a job writes into is tried before work starts: exit 2, the key or variable and the place named.

At 7d0af11 `check`, `plan` and `--dry-run` ended with exit 0, and `run` fitted the teachers first, then ended with 1.
"""

from __future__ import annotations

import errno
import os
import sys

import pytest

from raykd.disks import why_unwritable
from raykd.errors import InputError
from raykd.folders import claim_new
from raykd.runtime import engine

COMMANDS = {
    "check": ["check", "RECIPE"],
    "plan": ["plan", "RECIPE", "--no-timing"],
    "dry": ["run", "RECIPE", "--output", "out", "--dry-run"],
    "run": ["run", "RECIPE", "--output", "out"],
    "targets": ["targets", "RECIPE", "--output", "out"],
    "compare": ["compare", "RECIPE", "--losses", "kl,mse", "--output", "out"],
    "sweep": ["sweep", "RECIPE", "--output", "out"],
    "ablate": ["ablate", "RECIPE", "--output", "out"],
    "rank": ["teachers", "rank", "RECIPE", "--output", "out"],
}
STORES = ("/dev/null", "/dev/null/x", "file", "file/store", "/proc/store", f"deep/{'n' * 300}")
SPACE = (
    "search.scheduler.type=none",
    "search.parameters={student.model.width: {space: choice, categories: [0.25, 0.5]}}",
)


@pytest.fixture
def started(folder, monkeypatch):
    """What began nevertheless: no command may load data, start Ray or leave a file."""
    (folder / "file").write_text("mine")
    begun = []
    monkeypatch.setattr(
        "raykd.pipeline.loading.build_samples", lambda *_, **__: begun.append("data")
    )
    engines = sys.modules[engine.__module__]
    monkeypatch.setattr(engines, "Engine", lambda *_: begun.append("ray"))
    return begun


@pytest.mark.parametrize(
    ("command", "store"),
    [*(("check", store) for store in STORES), *((command, STORES[0]) for command in COMMANDS)],
)
def test_a_store_that_cannot_be_written(call, folder, recipe, started, command, store):
    words = [recipe if word == "RECIPE" else word for word in COMMANDS[command]]
    ended = call(*words, f"targets.store={store}", *(SPACE if command == "sweep" else ()))
    assert ended.code == 2, ended.err
    assert f"targets.store: {(folder / store)} cannot be written: " in ended.err
    assert not started
    assert not list(folder.glob("out*")) + list(folder.glob("deep*"))
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_cannot_be_written(call, folder, recipe, started, monkeypatch, command):
    monkeypatch.setenv("RAYKD_HOME", "file")
    words = [recipe if word == "RECIPE" else word for word in COMMANDS[command]]
    ended = call(*words, *(SPACE if command == "sweep" else ()))
    assert ended.code == 2
    assert f"$RAYKD_HOME: {folder / 'file'} cannot be written: Not a directory" in ended.err
    assert not started
    assert not (folder / "out").exists()


def test_a_home_whose_parts_are_taken(call, folder, recipe, started, raykd_home):
    raykd_home.mkdir()
    (raykd_home / "teachers").write_text("")
    ended = call("check", recipe)
    assert (ended.code, started) == (2, [])
    assert f"$RAYKD_HOME: {raykd_home / 'teachers'} cannot be written" in ended.err


@pytest.mark.parametrize("flag", ["--quiet", "--dry-run"])
@pytest.mark.parametrize("output", ["file/run", "/dev/null/run", "/proc/run"])
def test_an_output_that_cannot_be_written(call, folder, recipe, started, output, flag):
    ended = call("run", recipe, "--output", output, flag)
    assert (ended.code, started) == (2, [])
    assert f"--output: {folder / output} cannot be " in ended.err


def test_all_places_are_told_at_once(call, recipe, started, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", "/dev/null/home")
    ended = call("run", recipe, "--output", "file/run", "--dry-run", "targets.store=/proc/store")
    assert ended.code == 2
    assert all(key in ended.err for key in ("--output:", "targets.store:", "$RAYKD_HOME:"))


def test_no_folder_for_default_names(folder, call, recipe, started):
    """It hung at 7d0af11: the next number was tried without end."""
    (folder / "runs").write_text("")
    ended = call("run", recipe)
    assert (ended.code, started) == (2, [])
    assert f"--output: {folder / 'runs'} cannot be written: Not a directory" in ended.err
    with pytest.raises(InputError, match="cannot be written"):
        claim_new(folder / "file" / "x")


def test_a_read_only_file_system(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert (
        why_unwritable(tmp_path) == why_unwritable(tmp_path / "a" / "b") == "Read-only file system"
    )


def test_nothing_is_left_where_it_was_tried(tmp_path):
    assert why_unwritable(tmp_path) is None
    assert why_unwritable(tmp_path / "a" / "b") is None
    assert not list(tmp_path.iterdir())
