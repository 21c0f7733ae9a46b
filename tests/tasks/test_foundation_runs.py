"""Several foundation teachers into encoders of three widths, whole runs: stored and live targets give the same bits."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import run
from raykd.pipeline.preparation import prepare
from raykd.pipeline.token_scales import scale_rows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster"), pytest.mark.soak]
SHORT = [
    "seeds=1", "train.epochs=2", "data.views.count=2", "data.splits.validation=100", "students={tiny: {model: {width: 0.1}}}",
    "evaluate.controls=[best_teacher]", "tracking.wandb.mode=disabled", "teachers.cnn.fit.epochs=4", "teachers.vit.fit.epochs=4",
    "teachers.mlp.fit.epochs=4", "teachers.cnn.model.width=0.25",
]  # fmt: skip


def trained(path, name):
    file = RunFolder(path).checkpoints(f"{name}/replica0") / "best.safetensors"
    return fingerprint(load_weights(file, key="checkpoints"))


def test_stored_and_live_targets_have_the_same_scales_and_bits(tmp_path, monkeypatch):
    config = load_config("digits_foundation", SHORT)
    stored = run(config, output=tmp_path / "stored")
    summary = stored.summary
    assert set(summary["heads"]) == {"cnn", "vit", "mlp"}
    for numbers in summary["heads"].values():
        assert 0 < numbers["cosine"]["mean"] < 1.2
        assert 0 < numbers["smooth_l1"]["mean"] < 1.2
    card = read_json(RunFolder(stored.path).card("cnn"))
    assert set(card["scales"]) == {"vector", "blocks.1"}
    assert {"knn", "probe", "recall_1", "map_10"} <= set(summary["teachers"]["vit"]["test"])
    page = (stored.path / "report" / "index.html").read_text(encoding="utf-8")
    assert "How far the heads are from each teacher" in page
    student = load_weights(RunFolder(stored.path).student / "model.safetensors", key="student")
    assert not [name for name in student if "projector" in name or "matches" in name]

    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "another"))
    live = run(
        load_config("digits_foundation", [*SHORT, "targets.mode=live"]), output=tmp_path / "live"
    )
    for name in ("student", "tiny", "best_teacher"):
        assert trained(live.path, name) == trained(stored.path, name)
    assert read_json(RunFolder(live.path).card("cnn"))["scales"] == card["scales"]
    prepared = prepare(config)
    train, held = len(prepared.samples.splits["train"]), sum(len(prepared.samples.splits[n]) for n in ("validation", "test"))  # fmt: skip
    expected = 3 * (2 * train + held + len(scale_rows(prepared))) + 2 * train
    assert live.summary["targets"]["teacher_samples_scored"] == expected, (
        "two students, and a control with one teacher"
    )
