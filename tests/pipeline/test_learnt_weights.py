"""A whole run with snapshots as teachers, weighed by stacking, and feature terms whose weights are learnt."""

from __future__ import annotations

import pytest
import torch

from raykd.config import load_config
from raykd.folders import RunFolder, home, read_json
from raykd.models.weights import load_weights
from raykd.pipeline import run
from raykd.pipeline.preparation import prepare
from raykd.targets import TargetStore
from raykd.tracking.jsonl import METRICS, read_lines

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.mark.soak
def test_snapshots_weighed_by_stacking(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    wide, conv = (dict(one, temperature="fit") for one in tiny_recipe["teachers"])
    tap = {"loss": {"type": "hint"}, "teacher": "conv", "student_tap": "blocks.0", "teacher_tap": "blocks.0", "weight": 1.0}  # fmt: skip
    tiny_recipe |= {
        "teachers": [{**wide, "snapshots": [0.5, 1.0]}, conv],
        "student": {"model": {"type": "cnn", "width": 0.25, "depth": 2}},
        "objective": {"weighting": {"type": "stacking", "prior": 50.0}, "features": [tap], "feature_weighting": "uncertainty"},
        "evaluate": {"controls": []},
    }  # fmt: skip
    result = run(tiny_recipe, output=tmp_path / "run")
    folder, names = RunFolder(result.path), ["wide_at50", "wide", "conv"]
    assert list(result.summary["teachers"]) == names
    lines = read_lines(folder.path / METRICS)
    trained = {line["fit"] for line in lines if line["kind"] == "epoch"}
    assert trained == {"teacher/wide", "teacher/conv", "student/replica0"}, (
        "a snapshot takes no fit of its own"
    )
    cards = {name: read_json(folder.card(name)) for name in names}
    half, whole = (load_weights(cards[name]["weights"], key=name) for name in names[:2])
    assert not all(torch.equal(half[name], whole[name]) for name in half)
    assert read_json(home() / "teachers" / cards["wide_at50"]["weights"].split("/")[-2] / "card.json")["epochs"] == 3  # fmt: skip
    last = [line for line in lines if line["kind"] == "epoch" and line["stage"] == "student"][-1]
    weights = last["weights"]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    expected = _stacked(tiny_recipe, folder, cards)
    assert weights == pytest.approx(expected, abs=1e-4)
    assert len(set(weights.values())) == 3
    assert result.summary["targets"]["stacking"]["student"] == pytest.approx(expected, abs=1e-4)
    assert last["variances"]["features.0"] != 1, "it is trained"
    assert set(last["terms"]) == {"labels", "soft_targets", "features.0"}


def _stacked(recipe, folder, cards):
    """The weights anew, from what is stored of the teachers."""
    from raykd.ensemble import calibration_half
    from raykd.ensemble.stacking import label_log_probs, stacked_weights
    from raykd.pipeline.fits import known_weights
    from raykd.pipeline.recipe_store import RecipeStore
    from raykd.types import ORIGINAL_VIEW

    prepared = prepare(load_config(recipe))
    store: TargetStore = RecipeStore(prepared, prepared.specs(known_weights(prepared))).open()
    samples = prepared.samples
    rows = samples.splits["validation"]
    outputs = store.gather(rows, ORIGINAL_VIEW)
    half_N = calibration_half(torch.from_numpy(samples.ids[rows].copy()))
    labels_N = torch.from_numpy(samples.unit_labels(rows))[half_N]
    own = label_log_probs(
        [outputs[name].values_NC[half_N] for name in cards],
        labels_N,
        [card["temperature"] for card in cards.values()],
    )
    return dict(zip(cards, stacked_weights(own, 50.0).tolist(), strict=True))
