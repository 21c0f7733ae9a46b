"""`raykd targets list | verify | prune | import` on a store that a run has filled."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from raykd.folders import RunFolder
from raykd.targets.maintenance import list_entries

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def home(finished, raykd_home, folder):
    """The finished run's home, to be spoiled."""
    shutil.copytree(finished.home, raykd_home)
    return raykd_home


def folders(home):
    return {path.name for path in (home / "targets").iterdir()}


def test_list(home, call, tmp_path):
    ended = call("targets", "list")
    assert ended.code == 0
    assert "4 entries" in ended.out
    assert call("targets", "list", "--store", home / "targets", "--quiet").out.split() == sorted(
        folders(home)
    )
    (tmp_path / "none").mkdir()
    assert "0 entries" in call("targets", "list", "--store", tmp_path / "none").out
    wrong = call("targets", "list", "--store", tmp_path / "nowhere")
    assert wrong.code == 2
    assert "--store: found no folder at" in wrong.err
    assert call("targets", "verify", "more").code == 2


def test_verify_names_the_shard_and_what_differs(home, call):
    ended = call("targets", "verify")
    assert ended.code == 0, ended
    assert "all whole" in ended.out
    shard = sorted((home / "targets").glob("*/view*"))[0]
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 4
    shard.write_bytes(raw)
    other = sorted((home / "targets").glob("*/manifest.json"))[1]
    other.write_text(other.read_text()[:50])
    ended = call("targets", "verify")
    assert ended.code == 1
    assert "2 problems" in ended.out
    first, second = sorted(ended.err.splitlines())
    lines = first + second
    assert f"{shard.parent.name}: shard '{shard.name}' is damaged: its {len(raw):,} bytes" in lines
    assert "checksum" in lines
    assert f"{other} is damaged" in lines


def test_prune_keeps_what_recipes_read(home, finished, call):
    before = folders(home)
    assert call("targets", "prune").code == 2
    kept = call("targets", "prune", finished.recipe)
    assert kept.code == 0, kept
    assert "0 of 4 entries and 0 leftovers deleted: 0 bytes" in kept.out
    other = [finished.recipe, "targets.full_up_to=5", "targets.top_k=3"]
    views = {e.folder.name for e in list_entries(home / "targets") if e.key.views != "original"}
    size = sum(f.stat().st_size for v in views for f in (home / "targets" / v).iterdir())
    would = call("targets", "prune", *other, "--dry-run")
    assert f"2 of 4 entries and 0 leftovers would be deleted: {size:,} bytes" in would.out
    assert folders(home) == before
    assert f"deleted: {size:,} bytes" in call("targets", "prune", *other).out
    assert folders(home) == before - views
    unknown = call("targets", "prune", finished.recipe, "seed=5")
    assert "wide, conv not fitted yet" in unknown.out
    assert folders(home) == set()


def test_prune_keeps_what_runs_have_read(home, finished, call, folder):
    assert "found no run in runs" in call("targets", "prune", "--unused").err
    kept = call("targets", "prune", "--unused", finished.path)
    assert "1 runs in" in kept.out
    assert "0 of 4 entries" in kept.out
    student = RunFolder(finished.path).of_student("tiny")
    student.card("x").parent.mkdir(parents=True)
    try:
        student.config.write_text("{}")
        again = call("targets", "prune", "--unused", finished.path)
        assert "1 runs in" in again.out, "another student of a run is no run"
        only = call("targets", "prune", "--unused", student.path.parent)
        assert (only.code, "found no run in" in only.err) == (2, True)
    finally:
        shutil.rmtree(student.path.parent)
    (folder / "runs" / "one" / "teachers").mkdir(parents=True)
    (folder / "runs" / "one" / "config.json").write_text("{}")
    card = (finished.path / "teachers" / "wide.json").read_text()
    (folder / "runs" / "one" / "teachers" / "wide.json").write_text(card)
    assert "2 of 4 entries" in call("targets", "prune", "--unused").out
    assert len(folders(home)) == 2


def test_import_fills_the_store_with_outputs_of_one_s_own(
    ray_cluster, recipe, tiny_recipe, folder, raykd_home, call
):
    tiny_recipe["teachers"] = tiny_recipe["teachers"][:1]
    tiny_recipe["data"]["views"] = {"count": 1, "policy": []}
    recipe.write_text(yaml.safe_dump(tiny_recipe))
    from sklearn.datasets import load_digits

    labels = load_digits().target
    logits = np.eye(10, dtype=np.float32)[labels] * 5
    save_file({"ids": np.arange(len(labels)), "logits": logits}, folder / "said.safetensors")
    ended = call("targets", "import", recipe, "wide", "said.safetensors", "--output", "out")
    assert ended.code == 0, ended
    assert sum(entry.rows for entry in list_entries(raykd_home / "targets")) == len(labels)
    assert not list(raykd_home.glob("teachers/*")), "nothing was fitted"
    assert call("targets", "import", recipe, "wide").code == 2
