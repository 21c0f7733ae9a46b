"""The export's folder is replaced as a whole or not at all, and nothing else is ever deleted."""

from __future__ import annotations

import json

import pytest

from raykd.errors import InputError, RaykdError
from raykd.export.folder import check_output, listed
from raykd.folders import replacing


@pytest.fixture
def export(tmp_path):
    """An export of before."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    (folder / "export.json").write_text(json.dumps({"files": listed(folder)}))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_one_takes_its_place(export):
    check_output(export)
    with replacing(export) as fresh:
        (fresh / "new.txt").write_text("new")
        assert names(export) == ["export.json", "old.txt"]
    assert names(export) == ["new.txt"]
    assert names(export.parent) == ["export"]


@pytest.mark.parametrize("error", [RaykdError("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_failure_leaves_the_old_one(export, error):
    def fail():
        with replacing(export) as fresh:
            (fresh / "new.txt").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(export) == ["export.json", "old.txt"]
    assert names(export.parent) == ["export"]


def test_a_swap_that_fails_puts_the_old_one_back(export):
    with pytest.raises(RaykdError, match="could not be replaced"), replacing(export) as fresh:
        fresh.rmdir()
    assert names(export) == ["export.json", "old.txt"]
    assert names(export.parent) == ["export"]


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    check_output(tmp_path / "a" / "b")
    with replacing(tmp_path / "a" / "b") as fresh:
        (fresh / "x").write_text("")
    assert names(tmp_path / "a" / "b") == ["x"]


def test_what_no_export_wrote_is_never_deleted(export, tmp_path):
    (export / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.md"):
        check_output(export)
    (export / "notes.md").unlink()
    (export / "old.txt").unlink()
    (export / "old.txt").mkdir()
    with pytest.raises(InputError, match=r"old\.txt"):
        check_output(export)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be made"), replacing(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("index", ["{", "[]", '{"files": 3}', "{}"])
def test_a_damaged_index_lists_nothing(export, index):
    (export / "export.json").write_text(index)
    with pytest.raises(InputError, match=r"old\.txt"):
        check_output(export)
    (export / "old.txt").unlink()
    check_output(export)
