"""A job's folder is its own: claimed when it is chosen, locked while the job lives, free again after its death."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from raykd.errors import InputError
from raykd.folders import claim, claim_new, is_taken, is_worked_in, release
from raykd.pipeline import Options
from raykd.pipeline.session import own_folder

_OTHER = """
import sys
from pathlib import Path
from raykd.folders import claim, claim_new
{call}
print("claimed", flush=True)
sys.stdin.readline()
"""


@contextmanager
def another_job(call):
    """A process that has claimed a folder, and dies without a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OTHER.format(call=call)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "claimed\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_second_job_with_the_same_output_is_refused(folder, recipe, call, resume):
    """At 7d0af11 both ended with 0, and the results of one were lost."""
    with another_job("claim(Path('out'))"):
        ended = call("run", recipe, "--output", "out", *resume)
        assert (ended.code, ended.out) == (2, "")
        assert "error  --output: " in ended.err
        assert "out is in use: another raykd is working in it" in ended.err
        assert is_worked_in(Path("out"))
    assert not is_worked_in(Path("out"))
    assert not is_taken(Path("out")), "a dead job that wrote nothing leaves the name free"
    with own_folder(Options(output=Path("out"))):
        assert is_worked_in(Path("out"))
    assert not Path("out").exists()


def test_default_names_of_one_second_differ(folder):
    """At 7d0af11 two runs of one second had one folder."""
    base = Path("runs/digits-20260101-000000")
    with another_job(f"claim_new(Path({str(base)!r}))"):
        mine = [claim_new(base), claim_new(base)]
        assert [path.name[len(base.name) :] for path in mine] == ["-2", "-3"]
        for path in mine:
            release(path)
        assert [path.name for path in base.parent.iterdir()] == [base.name]


def test_what_a_job_wrote_stays_and_what_it_only_claimed_goes(tmp_path):
    path = tmp_path / "runs" / "first"
    with pytest.raises(ValueError, match="wrong"), own_folder(Options(output=path)):
        raise ValueError("wrong input")
    assert not path.parent.exists()
    with own_folder(Options(output=path)) as own:
        assert own.output == path
        (path / "config.json").write_text("{}")
        with own_folder(Options(output=path, resume=True)):
            pass
        assert is_worked_in(path), "its own process may work in it twice"
    assert path.is_dir()
    with pytest.raises(InputError, match="exists; add --resume"), own_folder(Options(output=path)):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output: .*file/run cannot be made or written"):
        claim(tmp_path / "file" / "run")


def test_a_folder_whose_job_was_killed_while_it_wrote_its_first_file_is_new(folder):
    """At 6a6538d neither the command again nor --resume would have it: "is no run's folder"."""
    path = folder / "run"
    path.mkdir()
    for name in (".lock", ".config.json.0a1b2c3d"):
        (path / name).touch()
    with own_folder(Options(output=path)):
        pass
    assert not path.exists(), "nothing was written into it by then"
    path.mkdir()
    for name in (".lock", ".config.json.0a1b2c3d", "notes.txt"):
        (path / name).touch()
    with pytest.raises(InputError, match="exists"), own_folder(Options(output=path)):
        pass
