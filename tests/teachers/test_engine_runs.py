"""A recipe with a server as a teacher beside an n-gram, from the command to the report, on Ray."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import yaml
from raykd_engine_server import byte_bigrams, serving
from test_engine_recipes import LIMIT, recipe

from raykd.targets import TargetStore

# Before the cluster starts, whose processes inherit them.
os.environ |= {"RAYKD_TEST_KEY": "sesame", "no_proxy": "127.0.0.1"}
pytestmark = [pytest.mark.ray, pytest.mark.e2e]


@pytest.mark.soak
def test_a_run_with_a_server_as_a_teacher(ray_cluster, tmp_path, monkeypatch, call):
    """Its store, its report, and that it goes on when the server is gone, or has moved."""
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    with serving(byte_bigrams(), LIMIT) as server:
        tree = recipe(server, key_from="RAYKD_TEST_KEY")
        tree["train"]["epochs"] = 3
        path.write_text(yaml.safe_dump(tree))
        ended = call("targets", path, "--output", run)
        assert ended.code == 0, ended.err
        asked = server.asked
        keys = {one["key"] for one in server.heard}
    assert keys == {"Bearer sesame"}
    store = TargetStore.open(run)
    assert store.verify().problems == ()
    counts = {name: sum(s.rows for s in entry.shards) for name, entry in store.entries.items()}
    assert counts == {"big": 67, "counts": 67}
    rows = np.flatnonzero(store.holds("big", np.arange(len(store.ids_N)), 0))
    assert store.gather_arrays("big", rows, 0)["kept"].shape[1] == 8
    # All that is needed of it is stored: the server may be gone, and the address another one.
    moved = run / "moved.yaml"
    moved.write_text(
        yaml.safe_dump(recipe(9, key_from="RAYKD_TEST_KEY") | {"train": tree["train"]})
    )
    ended = call("run", moved, "--output", run, "--resume")
    assert ended.code == 0, ended.err
    summary = json.loads((run / "summary.json").read_text())
    assert asked > 83
    assert summary["teachers"]["big"]["test"]["bits_per_byte"] < 4
    assert summary["teachers"]["big"]["parameters"] is None
    assert summary["status"] == "complete"
    everything = [p for p in run.rglob("*") if p.is_file() and p.suffix != ".safetensors"]
    assert all(b"sesame" not in p.read_bytes() for p in everything)
    card = json.loads((run / "teachers" / "big.json").read_text())
    assert card["spec"]["license"] == "apache-2.0"
    # Of other answers it has nothing.
    ended = call("run", moved, "targets.top_k=9", "--output", tmp_path / "other")
    assert ended.code == 2
    assert "does not answer" in ended.err
    assert "the store lacks 83 of its answers" in ended.err
    assert not (tmp_path / "other").exists()
