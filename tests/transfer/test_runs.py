"""A run on Ray whose student learns from made samples alone: what is scored, stored, said and reported."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from raykd.config import load_config
from raykd.folders import read_json
from raykd.forecast.counts import count
from raykd.pipeline import Options, run
from raykd.pipeline.preparation import prepare

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.e2e,
    pytest.mark.usefixtures("ray_cluster"),
]
SIZES = {"blends": 150, "noise": 90}


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    root = tmp_path_factory.mktemp("transfer")
    fit = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
    sets = {
        "blends": {"type": "mixup", "count": SIZES["blends"]},
        "noise": {"type": "noise", "count": SIZES["noise"]},
    }
    tree = {
        "data": {
            "source": {"type": "digits"},
            "splits": {"validation": 100, "test": 0.2},
            "labels": 200,
            "transfer": {"replace": True, "sets": sets},
        },
        "teachers": [
            {"name": name, "model": {"type": "mlp", "width": width, "depth": 1}, "fit": fit}
            for name, width in (("wide", 1.0), ("thin", 0.5))
        ],
        "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
        "train": {"epochs": 2, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": ["labels"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        config = load_config(tree)
        planned = count(prepare(config)).to_json()
        first = run(config, Options(output=root / "first"))
        more = load_config(tree, ["data.transfer.sets.blends.count=160"])
        second = run(more, Options(output=root / "second"))
    return SimpleNamespace(planned=planned, first=first, second=second, path=root / "first")


def test_only_made_samples_are_scored_for_the_student(finished):
    held_out = 100 + round(0.2 * 1797)
    probes = sum(SIZES.values())
    expected = 2 * (held_out + probes + sum(SIZES.values()))
    assert finished.first.summary["targets"]["teacher_samples_scored"] == expected
    assert finished.planned["stored"]["passes"] == expected


def test_more_samples_have_only_the_new_ones_scored_and_teachers_are_not_fitted_again(finished):
    # Ten new samples in view 0; untransformed they are probes, at most 500 of a set.
    assert finished.second.summary["targets"]["teacher_samples_scored"] == 2 * 2 * 10
    cards = [
        read_json(one.path / "teachers" / "wide.json") for one in (finished.first, finished.second)
    ]
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]


def test_summary_and_report_say_how_much_the_ensemble_is_at_home(finished):
    found = finished.first.summary["transfer"]
    assert {name: one["samples"] for name, one in found.items()} == {**SIZES, "validation": 100}
    assert {name: one["learnt"] for name, one in found.items()} == {**SIZES, "validation": 0}
    assert found["noise"]["as_sure"] < 0.5 <= found["validation"]["as_sure"]
    assert found["validation"]["shift"] == 0
    page = (finished.path / "report" / "index.html").read_text()
    assert "At home on transfer sets" in page
    table = (finished.path / "report" / "tables" / "transfer.csv").read_text().splitlines()
    assert table[0].startswith("set,samples,learnt,entropy_nats")
    assert len(table) == 1 + len(found)


def test_the_student_has_learnt_no_label_and_the_control_all_of_them(finished):
    used = finished.first.summary["labels_used"]
    assert used["student"] == 0
    assert used["teachers"] == {"wide": 200, "thin": 200}
    assert finished.first.summary["training"]["train"] is None
    assert np.isfinite(finished.first.summary["gains"]["labels"]["mean"])
