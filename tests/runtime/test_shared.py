"""Folders that not every node sees are refused before anything is written there."""

from __future__ import annotations

import pytest
import ray

from raykd.errors import InputError
from raykd.runtime import check_shared
from raykd.runtime.cluster import find_unshared


def nodes(**blind):
    """Two nodes; one does not see files below the folders named for it."""

    def ask(files):
        assert all(file.is_file() for file in files)
        return {
            name: [not any(file.is_relative_to(folder) for folder in folders) for file in files]
            for name, folders in blind.items()
        }

    return ask


def test_shared_folders_pass_and_nothing_is_left(tmp_path):
    find_unshared({"--output": tmp_path / "runs" / "new"}, nodes(first=[], second=[]))
    assert list(tmp_path.iterdir()) == []


def test_every_unshared_folder_is_named_with_the_nodes_that_lack_it(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    folders = {"--output": here / "run", "targets.store": there, "$RAYKD_HOME": tmp_path}
    with pytest.raises(InputError) as refused:
        find_unshared(folders, nodes(first=[here], second=[here, there]))
    output, store = refused.value.problems
    assert (output.key, store.key) == ("--output", "targets.store")
    assert "first, second do not see it" in output.message
    assert "second does not see it" in store.message
    assert list(here.iterdir()) == list(there.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="--output: /proc/run cannot be written"):
        find_unshared({"--output": type(tmp_path)("/proc/run")}, nodes(first=[]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_node_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "remote", None)
    check_shared({"--output": tmp_path})
