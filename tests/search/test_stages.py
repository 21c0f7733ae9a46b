"""A sweep over a recipe with stages: earlier ones are trained once, and every trial is what a run of its values is."""

from __future__ import annotations

import json

import pytest
import yaml

from raykd.config import check_search, load_config
from raykd.config.chain import searched_part
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
    assert "second is searched" in page


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


EPOCHS = {"space": "choice", "categories": [2, 4]}


def test_another_stage_is_searched_by_its_name(chain, tmp_path):
    aside = {"name": "aside", "teachers": ["first"]}
    chain["stages"] = [STAGES[0], aside, {**STAGES[1], "teachers": ["first", "aside"]}]
    search = {**chain["search"], "parameters": {"stages.first.train.epochs": EPOCHS}}
    options = sweeping.Options(output=tmp_path / "first")
    plan = sweeping.plan_sweep(load_config({**chain, "search": search}), options)
    assert plan.chain is not None
    assert (plan.chain.stages, plan.chain.last.name) == ((), "first")
    assert [one.values for one in plan.proposals] == [{"train.epochs": 2}, {"train.epochs": 4}]
    assert plan.config.student.model.width == 0.5, "as the stage has it"
    search = {
        **search,
        "parameters": {"stages.second.train.epochs": EPOCHS, "student.model.width": EPOCHS},
    }
    part = searched_part(load_config({**chain, "search": search}))
    assert list(part.search.parameters) == ["train.epochs", "student.model.width"]
    search = {**search, "parameters": {"stages.aside.train.epochs": EPOCHS}}
    part = searched_part(load_config({**chain, "search": search}))
    assert [stage.name for stage in part.stages] == ["first", "aside"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["stages.frist.train.epochs"], "stages.frist.train.epochs: names no stage.*'first'"),
        (["stages.first.train.epochs", WIDTH], "is of the stage 'second', and stages.first.*one stage"),
        (["stages.second.train.epochs", "train.epochs"], "searched twice"),
        (["stages.first.train.epochs", "stages.second.train.epochs"], "is of the stage 'second', and stages.first.*one stage"),
        (["stages.first.train.epoch"], r"parameters\.stages\.first\.train\.epoch.*epochs"),
    ],
)  # fmt: skip
def test_keys_of_stages_that_cannot_be_searched(chain, keys, told):
    search = {**chain["search"], "parameters": dict.fromkeys(keys, EPOCHS)}
    with pytest.raises(InputError, match=told):
        check_search(load_config({**chain, "search": search}))


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_trials_of_the_first_stage(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    search = {**chain["search"], "parameters": {"stages.first.train.epochs": EPOCHS}}
    summary = sweep({**chain, "search": search}, output=tmp_path / "sweep").summary
    assert [one["stage"] for one in summary["generations"]] == ["first"]
    trials = {
        one["values"]["train.epochs"]: tmp_path / "sweep/trials" / one["trial"]
        for one in summary["trials"]
    }
    whole = run(
        {**chain, "search": None, "stages": [{**STAGES[0], "train": {"epochs": 4}}, STAGES[1]]},
        output=tmp_path / "run",
    )
    own = RunFolder(whole.path).stage("first").checkpoints("student/replica0") / "best.safetensors"
    assert weights(own) == weights(trials[4] / "checkpoint" / "best.safetensors")


def test_a_sweep_of_a_chain_goes_on_in_its_own_folder_alone(chain, tmp_path):
    (tmp_path / "run").mkdir()
    plain = load_config({**chain, "stages": [], "evaluate": {}})
    (tmp_path / "run" / "config.json").write_text(json.dumps(plain.model_dump(mode="json")))
    with pytest.raises(InputError, match="was started with no stages"):
        sweep(chain, output=tmp_path / "run", resume=True)
