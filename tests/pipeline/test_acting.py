"""A run whose models act: rolled by the crew, with the control by rewards, and the same once more from what was kept."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.folders import RunFolder
from raykd.pipeline import run
from raykd.train.checkpoint import FitFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
WALK = {
    "task": "control",
    "seeds": 2,
    "data": {
        "source": {
            "type": "gymnasium",
            "id": "raykd_test_environments:Walk",
            "wrappers": [{"type": "time_limit", "steps": 12}],
            "episodes": {"train": 4, "validation": 2, "test": 2},
            "take": "sample",
        }
    },
    "teachers": [
        {"name": "home", "model": {"type": "rule", "path": "raykd_test_environments:home"}},
        {"name": "seer", "model": "privileged:raykd_test_environments:seer"},
    ],
    "student": {"model": {"type": "mlp", "width": 0.1, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 16},
    "evaluate": {
        "controls": ["rl"],
        "episodes": 6,
        "variants": {"pulled": {"attributes": {"pull": 0.4}}},
    },
    "tracking": {"wandb": {"mode": "disabled"}},
    "cluster": {"teachers": {"cpus": 0.5}},
}


def test_the_packaged_cartpole_is_balanced(tmp_path):
    """Cloning and one round of DAgger: as good as the best teacher, and far better than chance."""
    folder = RunFolder(tmp_path / "run")
    fewer = ["seeds=1", "evaluate.controls=[]", "evaluate.episodes=16", "stages.1.rounds=1"]
    fewer += ["data.source.wrappers.0.steps=100", "data.source.episodes.train=6"]
    summary = run(load_config("cartpole", fewer), output=folder.path).summary
    assert [one["stage"] for one in summary["generations"]] == ["cloned", "dagger"]
    earned = summary["returns"]["nominal"]
    student, random = earned["student"]["return"]["mean"], earned["random"]["return"]
    best = max(earned[name]["return"] for name in ("nominal", "heavy", "long"))
    assert student > 0.9 * best > 2 * random
    scored = [stage["teacher_samples_scored"] for stage in summary["generations"]]
    assert 0 < scored[1] < scored[0], "the round's own states alone"


@pytest.mark.soak
def test_returns_are_in_the_summary_and_the_same_when_read_again(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    folder = RunFolder(tmp_path / "run")
    first = run(load_config(WALK), output=folder.path).summary
    assert list(first["returns"]) == ["nominal", "pulled"]
    nominal = first["returns"]["nominal"]
    assert set(nominal) == {"student", "rl", "home", "seer", "ensemble", "random"}
    for name, model in (("student", first["student"]), ("rl", first["controls"]["rl"]), ("home", first["teachers"]["home"])):  # fmt: skip
        assert model["test"]["return"] == nominal[name]["return"]
    assert "return" in first["student"]["validation"]
    assert first["returns_overall"]["episodes"] == 6
    for replica, states in enumerate(first["states"]):
        steps = FitFolder(folder.checkpoints(f"rl/replica{replica}")).result()["steps"]
        assert states <= steps <= states + 2
    kept = {path: path.stat().st_mtime_ns for path in folder.returns.glob("*.npz")}
    assert len(kept) == 4
    folder.summary.unlink()
    again = run(load_config(WALK), output=folder.path, resume=True).summary
    assert again["returns"] == first["returns"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
