"""A run of several students: one live fleet serves all of them, and each has a folder that every command takes."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from raykd.config import load_config
from raykd.errors import InputError
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options, run
from raykd.pipeline.preparation import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
STUDENTS = {"tiny": {"model": {"width": 0.1}}, "maps": {"model": {"type": "cnn", "width": 0.2, "depth": 2}}}  # fmt: skip


@pytest.fixture
def live(tiny_recipe):
    """New views in each epoch, which cannot be stored."""
    tiny_recipe["data"]["views"]["count"] = None
    return {**tiny_recipe, "evaluate": {"controls": []}, "students": STUDENTS}


def trained(path, name="student", replica=0):
    file = RunFolder(path).checkpoints(f"{name}/replica{replica}") / "best.safetensors"
    return fingerprint(load_weights(file, key="checkpoints"))


@pytest.mark.soak
def test_one_live_fleet_serves_all_and_each_has_a_folder(live, tmp_path, call):
    path = tmp_path / "run"
    result = run(
        {**live, "evaluate": {"controls": [], "require": ["students.tiny.test.accuracy >= 0"]}},
        output=path,
    )
    summary = result.summary
    samples = prepare(load_config({**live, "students": {}})).samples
    train, held = (sum(len(samples.splits[n]) for n in names) for names in (["train"], ["validation", "test"]))  # fmt: skip
    asked = 2 * (live["train"]["epochs"] * train + held)
    assert summary["targets"]["mode"] == "live"
    assert summary["targets"]["teacher_samples_scored"] == asked, "as of one student"
    assert [one.holds for one in result.requirements] == [True]
    assert (list(summary["students"]), summary["controls"]) == (["tiny", "maps"], {})
    for name, one in summary["students"].items():
        folder = RunFolder(path).of_student(name)
        assert fingerprint(load_weights(folder.student / "model.safetensors", key="x")) == trained(path, name)  # fmt: skip
        own = read_json(folder.summary)
        assert own["student"]["test"] == one["test"]
        difference = (
            one["test"]["accuracy"]["mean"] - summary["student"]["test"]["accuracy"]["mean"]
        )
        assert one["gain"]["mean"] == pytest.approx(difference)
        assert one["parameters"] < summary["student"]["parameters"] or name == "maps"
    assert trained(path) != trained(path, "tiny")

    page = (path / "report" / "index.html").read_text(encoding="utf-8")
    assert "The students" in page
    status = json.loads(call("status", path, "--json").out)
    assert {name: fit["state"] for name, fit in status["fits"].items() if "teacher" not in name} == {
        f"{name}/replica0": "finished" for name in ("student", "tiny", "maps")
    }  # fmt: skip
    own = call("status", RunFolder(path).of_student("tiny").path, "--json")
    told = json.loads(own.out)
    assert (told["run"], told["student"], told["status"]) == (str(path), "tiny", "complete")
    assert {name: fit["state"] for name, fit in told["fits"].items()} == {"tiny/replica0": "finished"}  # fmt: skip
    assert told["stages"] == status["stages"]
    data = tmp_path / "new.npz"
    np.savez(data, inputs=np.zeros((3, 1, 8, 8), np.float32))
    answers = {name: call("predict", path, data, "--student", name) for name in ("student", "tiny")}
    assert all(one.code == 0 for one in answers.values()), answers
    first, tiny = (list(csv.reader(io.StringIO(one.out))) for one in answers.values())
    assert (first[0], len(first)) == (tiny[0], 4)
    assert first[1] != tiny[1]
    wrong = call("predict", path, data, "--student", "tinny")
    assert (wrong.code, "did you mean 'tiny'" in wrong.err) == (2, True)
    exported = call("export", path, "--student", "tiny", "--format", "safetensors", "--quiet")
    assert exported.code == 0, exported.err
    assert (RunFolder(path).of_student("tiny").path / "export" / "model.safetensors").is_file()


@pytest.mark.soak
def test_each_has_the_bits_of_a_run_of_its_own(live, tmp_path):
    recipe = {**live, "seeds": 2}
    whole = run(recipe, output=tmp_path / "whole")
    own_store = {
        "store": str(tmp_path / "store")
    }  # that of the home has answers to test samples by now
    alone = run({**recipe, "students": {}, "targets": own_store}, output=tmp_path / "alone")
    for key in ("teacher_samples_scored", "mode"):
        assert whole.summary["targets"][key] == alone.summary["targets"][key]
    assert alone.summary["student"]["test"] == whole.summary["student"]["test"]
    tiny = {**recipe["student"]["model"], **STUDENTS["tiny"]["model"]}
    other = run({**recipe, "students": {}, "student": {"model": tiny}}, output=tmp_path / "tiny")
    stored = {
        **recipe,
        "data": {**recipe["data"], "views": {**recipe["data"]["views"], "count": 2}},
    }
    read = run(stored, output=tmp_path / "stored").summary
    assert read["targets"]["mode"] == "stored"
    for replica in range(2):
        assert trained(alone.path, "student", replica) == trained(whole.path, "student", replica)
        assert trained(other.path, "student", replica) == trained(whole.path, "tiny", replica)
        names = ("student", *STUDENTS)
        shown = [trained(tmp_path / "stored", name, replica) for name in names]
        assert shown == [trained(whole.path, name, replica) for name in names], (
            "two epochs: the same two views"
        )
    again = run(recipe, Options(output=tmp_path / "whole", resume=True)).summary
    assert again["students"]["tiny"]["test"] == whole.summary["students"]["tiny"]["test"]


def test_what_is_wrong_with_one_of_them_is_told_by_its_key(live):
    config = load_config(live, ["students.tiny.limits.parameters=10"])
    with pytest.raises(InputError) as error:
        prepare(config)
    (problem,) = error.value.problems
    assert problem.key.startswith("students.tiny")
    assert "10" in problem.message
