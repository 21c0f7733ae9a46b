"""A run with stages: original teachers are scored once, a stage's student by its weights; single stages; invalidation."""

from __future__ import annotations

import json

import pytest

from raykd.config import load_config
from raykd.config.load import chain_of
from raykd.errors import InputError
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options, run
from raykd.pipeline.preparation import prepare
from raykd.tracking.jsonl import METRICS, read_lines

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
STAGES = [
    {"name": "first", "student": {"model": {"width": 0.5}}},
    {"name": "second", "teachers": ["first", "conv"]},
]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))


@pytest.fixture
def chain(tiny_recipe):
    controls = {"controls": ["labels", "direct"]}
    return {**tiny_recipe, "seeds": 2, "evaluate": controls, "stages": STAGES}


def trained(folder, role="student"):
    """Hash of the weights of both replicas."""
    files = [folder.checkpoints(f"{role}/replica{r}") / "best.safetensors" for r in range(2)]
    return [fingerprint(load_weights(file, key="checkpoints")) for file in files]


def fitted(folder):
    """Fits of a job of which an epoch was trained there."""
    lines = read_lines(folder.path / METRICS)
    return {line["fit"] for line in lines if line["kind"] == "epoch"}


@pytest.mark.soak
def test_a_chain_scores_its_new_teacher_only(chain, tmp_path, call):
    result = run(chain, output=tmp_path / "run")
    folder, summary = RunFolder(tmp_path / "run"), result.summary
    samples = prepare(load_config(chain, ["stages=[]", "evaluate.controls=[]"])).samples
    train, held = (sum(len(samples.splits[n]) for n in names) for names in (["train"], ["validation", "test"]))  # fmt: skip
    once = 2 * train + held
    first, second = summary["generations"]
    assert (first["stage"], second["stage"]) == ("first", "second")
    assert first["teacher_samples_scored"] == 2 * once, "two original teachers, two views"
    assert second["teacher_samples_scored"] == once, "the first stage's student alone"
    control = read_json(folder.stage("direct").summary)
    assert (control["targets"]["teacher_samples_scored"], control["test_scored_times"]) == (0, 0)
    assert (first["test"], summary["test_scored_times"]) == (None, 1)
    assert second["validation"] == summary["student"]["validation"]
    assert set(summary["controls"]) == {"labels", "direct"}
    assert summary["gains"]["direct"]["n"] == 2
    stage = folder.stage("first")
    taught = fingerprint(load_weights(stage.student / "model.safetensors", key="student"))
    assert taught == trained(stage)[first["replica"]]
    values = first["validation"]["accuracy"]["values"]
    assert values[first["replica"]] == max(values)
    assert set(summary["teachers"]) == {"first", "conv"}
    assert summary["labels_used"]["teachers"] == {"first": 200, "conv": 200}
    page = (folder.path / "report" / "index.html").read_text(encoding="utf-8")
    for text in (
        "Along the chain",
        "without stages",
        "is best on validation and teaches all replicas",
    ):
        assert text in page
    status = json.loads(call("status", folder.path, "--json").out)
    assert status["status"] == "complete"
    assert status["fits"]["stages/first"]["state"] == "finished"
    again = run(chain, output=tmp_path / "run", resume=True).summary
    assert again["student"]["test"] == summary["student"]["test"]
    assert read_json(folder.stage("first").summary)["replica"] == first["replica"]
    assert call("report", stage.path).code == 2
    assert "is a stage of a run" in call("export", stage.path).err


@pytest.mark.soak
@pytest.mark.parametrize("teach", ["each", "ensemble"])
def test_replicas_that_all_teach_are_asked_once_each(chain, tmp_path, teach):
    chain |= {"stages": [{**STAGES[0], "teach": teach}, STAGES[1]], "evaluate": {"controls": ["best_teacher"]}}  # fmt: skip
    result = run(chain, output=tmp_path / "run")
    first, second = result.summary["generations"]
    folder = RunFolder(result.path)
    cards = [read_json(folder.card(f"first-{r}")) for r in range(2)]
    stage = folder.stage("first")
    assert [fingerprint(load_weights(card["weights"], key="card")) for card in cards] == trained(stage)  # fmt: skip
    assert second["teacher_samples_scored"] == first["teacher_samples_scored"], "two each"
    assert (second["teachers"], second["taught_by"]) == (["first-0", "first-1", "conv"], ["first", "conv"])  # fmt: skip
    own = first["validation"]["accuracy"]["values"]
    as_teachers = [result.summary["teachers"][f"first-{r}"]["validation"]["accuracy"] for r in range(2)]  # fmt: skip
    assert as_teachers == pytest.approx(own)
    # Replica 0 of the student is the same as one of a run that has but the teachers which it heard.
    config = read_json(folder.config)
    assert [one["teaches"] for one in config["teachers"]] == ([0, 1, None] if teach == "each" else [None] * 3)  # fmt: skip
    config["teachers"] = [one for one in config["teachers"] if one["teaches"] in (None, 0)]
    alone = run(config, output=tmp_path / "alone")
    assert trained(RunFolder(alone.path))[0] == trained(folder)[0]
    if teach == "each":
        assert trained(RunFolder(alone.path))[1] != trained(folder)[1]


@pytest.mark.soak
def test_a_single_stage_is_the_ordinary_run_bit_for_bit(chain, tmp_path):
    plain = {**chain, "stages": [], "evaluate": {"controls": ["labels"]}}
    expected = run(plain, output=tmp_path / "plain")
    single = run({**plain, "stages": [{"name": "only"}]}, output=tmp_path / "single")
    for role in ("student", "labels"):
        assert trained(RunFolder(single.path), role) == trained(RunFolder(expected.path), role)
    for key in ("student", "controls", "teachers", "ensemble", "gains", "fidelity", "kept"):
        ours, theirs = (json.dumps(_untimed(one.summary[key])) for one in (single, expected))
        assert ours == theirs, key


def _untimed(value):
    """Numbers of models without their latencies."""
    if isinstance(value, dict):
        return {name: _untimed(one) for name, one in value.items() if not name.endswith("_ms")}
    return value


@pytest.mark.soak
def test_a_changed_stage_invalidates_what_depends_on_it_alone(chain, tmp_path):
    chain["evaluate"] = {"controls": []}
    before = run(chain, output=tmp_path / "before")
    later = {**chain, "stages": [STAGES[0], {**STAGES[1], "train": {"epochs": 3}}]}
    after = run(later, output=tmp_path / "after")
    assert [one["teacher_samples_scored"] for one in after.summary["generations"]] == [0, 0]
    stages = [RunFolder(one.path).stage("first") for one in (before, after)]
    assert trained(stages[0]) == trained(stages[1])
    assert fitted(stages[0]) >= {"student/replica0", "student/replica1"}
    assert not fitted(stages[1]), "they are kept"
    earlier = {**chain, "stages": [{**STAGES[0], "train": {"epochs": 3}}, STAGES[1]]}
    changed = run(earlier, output=tmp_path / "changed").summary["generations"]
    assert changed[0]["teacher_samples_scored"] == 0, "the original teachers are as they were"
    assert changed[1]["teacher_samples_scored"] > 0, "the stage's student is another one"


@pytest.mark.soak
def test_replicas_go_on_from_their_own_weights(chain, tmp_path):
    tuned = {"name": "tuned", "start": "first", "student": {"model": {"width": 0.5}}, "train": {"epochs": 1}}  # fmt: skip
    chain |= {"stages": [STAGES[0], tuned], "evaluate": {"controls": []}}
    result = run(chain, output=tmp_path / "run")
    folder = RunFolder(result.path)
    config = chain_of(load_config(chain), folder.path)[0][1].config
    prepared = prepare(config)
    starts = [fingerprint(prepared.student_weights_of(replica)) for replica in range(2)]
    assert starts == trained(folder.stage("first"))
    assert result.summary["generations"][1]["teacher_samples_scored"] == 0


@pytest.mark.soak
def test_a_student_of_a_regression_teaches_in_the_unit_of_the_data(tmp_path, chain):
    data = {"source": {"type": "diabetes"}, "splits": {"validation": 0.2, "test": 0.2}}
    teachers = [{**one, "model": {"type": "mlp", "depth": 1}} for one in chain["teachers"]]
    chain |= {"task": "regression", "data": data, "teachers": teachers}
    chain["evaluate"] = {"controls": []}
    summary = run(chain, output=tmp_path / "run").summary
    first = summary["generations"][0]
    own = first["validation"]["rmse"]["values"][first["replica"]]
    assert summary["teachers"]["first"]["validation"]["rmse"] == pytest.approx(own, rel=1e-3)


def test_what_takes_no_stages_says_so(chain, tmp_path):
    with pytest.raises(InputError, match=r"stages: found 2; this is for `raykd run`"):
        prepare(load_config(chain))
    with pytest.raises(InputError, match="not before the earlier ones are trained"):
        run(chain, Options(output=tmp_path / "run", until="targets"))
