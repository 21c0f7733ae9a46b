"""A run with peers: weights of each, numbers, controls, report; those that are trained apart by lanes."""

from __future__ import annotations

import pytest

from raykd.folders import RunFolder, read_json
from raykd.pipeline import run
from raykd.tracking.jsonl import METRICS, read_lines

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
TYPES = [
    {"type": "codistillation", "share": 1.0, "exchange_every": 3},
    pytest.param({"type": "dml", "share": 0.5}, marks=pytest.mark.soak),
]


@pytest.mark.parametrize("peers", TYPES)
@pytest.mark.soak
def test_a_run_tells_what_each_peer_is_worth(tiny_recipe, tmp_path, call, peers):
    recipe = {
        **tiny_recipe,
        "evaluate": {"controls": ["without_peers"]},
        "peers": {**peers, "count": 2},
    }
    result = run(recipe, output=tmp_path / "run")
    found, folder = result.summary["peers"], RunFolder(result.path)
    assert (found["type"], found["count"]) == (peers["type"], 2)
    student = result.summary["student"]["test"]["accuracy"]["values"]
    assert found["test"]["each"]["peer0"]["accuracy"]["values"] == student
    assert found["test"]["ensemble"]["accuracy"]["n"] == len(student)
    peer = folder.checkpoints("student/replica0") / "peers" / "1"
    assert read_json(peer / "result.json")["best"]["accuracy"] == pytest.approx(
        found["validation"]["each"]["peer1"]["accuracy"]["values"][0]
    )
    assert not list(folder.path.glob("checkpoints/**/state*.pt"))
    assert result.summary["gains"]["without_peers"]["n"] == len(student)
    assert result.summary["overrides"]["without_peers"] == "peers=null"
    told = [e for e in read_lines(folder.path / METRICS) if e["kind"] == "epoch"]
    alike = [e["peers"]["agreement"] for e in told if e["fit"] == "student/replica0"]
    assert len(alike) == 2
    assert all(0 <= one <= 1 for one in alike)
    assert not any("peers" in e for e in told if e["fit"].startswith("without_peers"))
    page = (folder.path / "report" / "index.html").read_text(encoding="utf-8")
    for text in ("Learning from each other", "their ensemble", "without peers"):
        assert text in page
    assert "the peers; mean" in call("report", folder.path).out
