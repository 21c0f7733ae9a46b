"""What 7d0af11 wrote is read today: its run folder, fitted teachers, target store and student.

`run_of_7d0af11.tar.gz` holds what `raykd run recipe.yaml --output run` of that version left of 160 made samples
(without report and environment), all paths relative to its folder.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd.cli import main
from raykd.config import load_config
from raykd.config.optimizers import choosing_samples_as_in
from raykd.errors import InputError
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options, load_student, run
from raykd.pipeline.measuring import measure_again
from raykd.pipeline.session import as_begun, run_folder
from raykd.report import write_report

pytestmark = pytest.mark.figures
SELECT_ON_ALL = [
    "train.select_on=all",
    "teachers.0.fit.select_on=all",
    "teachers.1.fit.select_on=all",
]
ARCHIVE = Path(__file__).parent / "run_of_7d0af11.tar.gz"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The folder in which 7d0af11 ran."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    return tmp_path


def weights_of(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): fingerprint(load_weights(file, key="k"))
            for file in sorted(folder.rglob("*.safetensors"))}  # fmt: skip


@pytest.mark.ray
def test_a_finished_run_is_resumed_without_training_or_scoring_anything(earlier, ray_cluster):
    before = json.loads((earlier / "run" / "summary.json").read_text())
    weights = weights_of(earlier / "run" / "checkpoints")
    epochs = epochs_in(earlier / "run")
    assert epochs > 0
    config = load_config("recipe.yaml")
    after = run(config, Options(output=earlier / "run", resume=True)).summary
    assert after["targets"]["teacher_samples_scored"] == 0
    assert after["targets"]["hit_rate"] == 1.0
    assert weights_of(earlier / "run" / "checkpoints") == weights
    assert epochs_in(earlier / "run") == epochs
    for model in ("student", "ensemble", "teachers"):
        assert shared(after[model], before[model]) == quality(before[model])
    assert len(list((earlier / "home" / "teachers").iterdir())) == 2
    assert len(list((earlier / "home" / "targets").iterdir())) == 4


def epochs_in(folder: Path) -> int:
    return (folder / "metrics.jsonl").read_text().count('"kind": "epoch"')


def shared(value, before):
    """As far as that version wrote it."""
    if isinstance(value, dict) and isinstance(before, dict):
        return {k: shared(value[k], v) for k, v in quality(before).items()}
    return value


def quality(value):
    if isinstance(value, dict):
        return {
            k: quality(v)
            for k, v in value.items()
            if k not in ("latency_ms", "overhead_ms", "flops")
        }
    if isinstance(value, list):
        return [quality(one) for one in value]
    return pytest.approx(value, rel=1e-6) if isinstance(value, float) else value


def test_its_student_loads_and_its_report_is_made_anew(earlier):
    inputs = np.load("samples.npz")["inputs"]
    with torch.inference_mode():
        found = load_student("run")({"inputs": torch.from_numpy(inputs)})
    assert found.shape == (160, 3)
    assert "accuracy" in write_report(earlier / "run").read_text()


def test_its_models_are_measured_again(earlier):
    summary = json.loads((earlier / "run" / "summary.json").read_text())
    assert "latency" not in summary
    assert main(["report", "run", "--measure", "--quiet"]) == 0
    after = json.loads((earlier / "run" / "summary.json").read_text())
    assert after["test_scored_times"] == summary["test_scored_times"]
    assert after["latency"]["seconds"] > 0
    for model in ("student", "ensemble", "teachers"):
        assert shared(after[model], summary[model]) == quality(summary[model])
    assert after["student"]["latency_ms"] != summary["student"]["latency_ms"]
    assert "overhead" in (earlier / "run" / "report" / "index.html").read_text()


def test_a_recipe_without_optimizers_goes_on_with_those_that_its_run_began_with(earlier):
    tree = json.loads((earlier / "run" / "config.json").read_text())
    began, resume = load_config(tree), Options(output=earlier / "run", resume=True)
    tree["train"].pop("optimizer")
    tree["teachers"][0]["fit"]["optimizer"] = None
    folder = run_folder(load_config(tree), resume)
    found = as_begun(load_config(tree), folder)
    # All of validation chose the best epoch in that version, for which it had no key.
    began = choosing_samples_as_in(began, load_config(tree, SELECT_ON_ALL))
    assert (found.train, found.teachers) == (began.train, began.teachers)
    assert found.cluster.student.cpus == began.cluster.student.cpus == 1
    assert found.train.select_on == found.teachers[0].fit.select_on == "all"
    tree["train"]["optimizer"] = {"type": "adamw", "lr": 0.5}
    with pytest.raises(InputError, match=r"train differ; resume with the same one \(.*config.json"):
        run_folder(load_config(tree), resume)


def test_what_cannot_be_measured_again_is_said(earlier):
    shutil.rmtree(earlier / "home" / "teachers")
    with pytest.raises(InputError, match=r"weights of .* not kept any more.*raykd evaluate"):
        measure_again(earlier / "run")
    with pytest.raises(InputError, match="holds no result; give the folder of a finished"):
        measure_again(earlier / "home")


def test_its_config_is_the_recipe_today():
    with tarfile.open(ARCHIVE) as archive:
        written = json.load(archive.extractfile("run/config.json"))
    assert load_config(written).model_dump(mode="json").keys() >= written.keys()
