"""A sweep over a recipe with stages: earlier ones are trained once, and every trial is what a run of its values is."""

from __future__ import annotations

import json

import pytest
import yaml

from raykd.config import load_config
from raykd.errors import InputError, TrainingError
from raykd.folders import RunFolder
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import run
from raykd.search import sweep, sweeping
from raykd.tracking.jsonl import METRICS

WIDTH = "student.model.width"
STAGES = [
    {"name": "first", "student": {"model": {"width": 0.5}, "limits": {}}},
    {"name": "second", "teachers": ["first", "wide"]},
]


@pytest.fixture
def chain(sweep_tree):
    """Two trials, of which the second one is the recipe itself."""
    widths = {"space": "choice", "categories": [1.0, 0.25]}
    tree = sweep_tree(
        parameters={WIDTH: widths},
        trials=None,
        searcher={"type": "grid"},
        scheduler={"type": "none"},
        finalists={"top": 2, "seeds": 2},
    )
    return {**tree, "seeds": 2, "stages": STAGES, "evaluate": {"controls": ["direct"]}}


def weights(file):
    return fingerprint(load_weights(file, key="weights"))


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.figures
@pytest.mark.usefixtures("ray_cluster")
def test_trials_share_the_stages_before_the_last_one(chain, tmp_path, monkeypatch, call):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    output, folder = tmp_path / "sweep", RunFolder(tmp_path / "sweep")
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "_search", cut_off)
        with pytest.raises(TrainingError, match="power cut"):
            sweep(chain, output=output)
    status = json.loads(call("status", output, "--json").out)
    assert list(status["fits"]) == ["stages/first", "teacher/wide"], "no control of the chain"
    assert (status["fits"]["stages/first"]["state"], status["command"]) == ("finished", "sweep")
    before = (folder.stage("first").path / METRICS).read_text()
    summary = sweep(chain, output=output, resume=True).summary
    assert (folder.stage("first").path / METRICS).read_text() == before, "trained once"
    scored = 100 + 359 + 2 * 1338
    first, second = summary["generations"]
    assert (first["stage"], first["teacher_samples_scored"]) == ("first", scored)
    assert (second["teachers"], second["test"]) == (["first", "wide"], None)
    assert summary["targets"]["teacher_samples_scored"] == scored, "its new teacher alone"
    assert summary["test_scored_times"] == 1
    trials = {one["values"][WIDTH]: output / "trials" / one["trial"] for one in summary["trials"]}
    one = {**chain, "search": None, "student": {**chain["student"], "model": {"type": "mlp", "width": 1.0, "depth": 1}}}  # fmt: skip
    wide = run(one, output=tmp_path / "wide")
    assert wide.summary["generations"][0]["teacher_samples_scored"] == 0, "kept from the sweep"
    own = RunFolder(wide.path).checkpoints("student/replica0") / "best.safetensors"
    assert weights(own) == weights(trials[1.0] / "checkpoint" / "best.safetensors")
    assert weights(trials[1.0] / "checkpoint" / "best.safetensors") != weights(trials[0.25] / "checkpoint" / "best.safetensors")  # fmt: skip
    best = load_config(output / "best.yaml")
    assert [teacher.name for teacher in best.teachers] == ["first", "wide"]
    assert best.teachers[0].weights == str(folder.stage("first").student / "model.safetensors")
    page = (output / "report" / "index.html").read_text(encoding="utf-8")
    assert "The last stage is searched" in page


def cut_off(*_):
    raise TrainingError("power cut")


def test_a_plan_names_the_stages(chain, tmp_path, call):
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(yaml.safe_dump(chain))
    ended = call("sweep", recipe, "--output", tmp_path / "out", "--dry-run")
    assert ended.code == 0, ended.err
    plan = json.loads(ended.out)
    assert (plan["stages"], plan["trials"]) == (["first"], 2)
    assert plan["student_fits"] == 2 + 3 * 2 + 2, "trials, finalists and the recipe, the stage"
    wrong = call("sweep", recipe, "--dry-run", "search.finalists=null",
                 "search.parameters={stages.first.train.epochs: {space: choice, categories: [2, 4]}}")  # fmt: skip
    assert (wrong.code, "a search is of the last stage" in wrong.err) == (2, True)


def test_a_sweep_of_a_chain_goes_on_in_its_own_folder_alone(chain, tmp_path):
    (tmp_path / "run").mkdir()
    plain = load_config({**chain, "stages": [], "evaluate": {}})
    (tmp_path / "run" / "config.json").write_text(json.dumps(plain.model_dump(mode="json")))
    with pytest.raises(InputError, match="was started with no stages"):
        sweep(chain, output=tmp_path / "run", resume=True)
