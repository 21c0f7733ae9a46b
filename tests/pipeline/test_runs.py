"""The whole job on Ray, on digits: what it leaves behind, and what a second run finds there."""

from __future__ import annotations

import json
import math
import os
import shutil
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from raykd.config import load_config
from raykd.errors import InputError, TeacherError
from raykd.evaluate import Evaluation
from raykd.folders import read_json
from raykd.models.weights import load_weights
from raykd.pipeline import Options, load_student, run
from raykd.pipeline.preparation import prepare
from raykd.targets.maintenance import verify_store
from raykd.tracking.jsonl import read_lines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.figures,
    pytest.mark.e2e,
    pytest.mark.usefixtures("ray_cluster"),
]
CONTROLS = ("labels", "best_teacher", "hard")


@pytest.fixture
def recipe(finished):
    """What the finished run was made of."""
    return yaml.safe_load(finished.recipe.read_text())


@pytest.fixture
def summary(finished):
    return read_json(finished.path / "summary.json")


@pytest.fixture(scope="module")
def resumed(finished, tmp_path_factory):
    """The finished run resumed: a copy of its folder, before, and what came of it."""
    folder = shutil.copytree(finished.path, tmp_path_factory.mktemp("resumed") / "run")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("checkpoints/*/*/*")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(finished.home))
        result = run(load_config(finished.recipe), Options(output=folder, resume=True))
    return SimpleNamespace(path=folder, before=before, result=result)


@pytest.fixture
def same_home(finished, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))


def lines(path, kind):
    return [line for line in read_lines(path / "metrics.jsonl") if line["kind"] == kind]


def test_the_folder_is_complete(finished):
    expected = [
        "config.json", "environment.json", "metrics.jsonl", "events.jsonl", "summary.json",
        "teachers/wide.json", "teachers/conv.json", "student/model.safetensors",
        "student/model.json", "report/index.html", "report/report.md",
        *(f"checkpoints/{role}/replica0/{which}.safetensors"
          for role in ("student", *CONTROLS) for which in ("last", "best")),
    ]  # fmt: skip
    missing = [name for name in expected if not (finished.path / name).is_file()]
    assert not missing
    assert not (finished.path / "wandb").exists(), "it is disabled"
    assert list((finished.path / "report" / "figures").glob("*.png"))
    assert list((finished.path / "report" / "tables").glob("*.csv"))
    assert not list(finished.path.glob("checkpoints/*/*/state*.pt")), "nothing is left to resume"
    assert load_config(finished.path / "config.json", trust=True) == load_config(
        read_json(finished.path / "config.json")
    )
    card = read_json(finished.path / "teachers" / "wide.json")
    assert load_weights(card["weights"], key="card")
    assert card["validation"]["accuracy"] > 0.3
    assert len(card["fingerprint"]) == 32


def test_the_summary_s_schema(finished, summary):
    assert set(summary) >= {
        "schema", "status", "task", "student", "controls", "ensemble", "teachers", "fidelity", "gains",
        "labels_used", "test_scored_times", "cost", "timing", "targets",
    }  # fmt: skip
    assert (summary["schema"], summary["status"], summary["task"]) == (
        1,
        "complete",
        "classification",
    )
    metrics = {"accuracy", "precision_macro", "recall_macro", "f1_macro", "nll", "ece", "brier"}
    for model in (summary["student"], *summary["controls"].values()):
        assert set(model) >= {"validation", "test", "test_last"}
        for split in ("validation", "test", "test_last"):
            assert set(model[split]) >= metrics
            for value in model[split].values():
                assert set(value) == {"mean", "std", "n", "values"}
                assert value["n"] == 1
                assert value["std"] is None
                assert value["values"] == [value["mean"]]
    assert set(summary["controls"]) == set(CONTROLS) == set(summary["gains"])
    for model in (summary["ensemble"], *summary["teachers"].values()):
        assert all(isinstance(model["test"][name], float) for name in metrics)
    for model in (summary["student"], *summary["teachers"].values()):
        assert model["parameters"] > 0
        assert set(model["latency_ms"]) == {"1", "256"}
        assert 0 <= model["overhead_ms"] <= model["latency_ms"]["1"]
    assert set(summary["latency"]) == {
        "busy", "others", "cpus", "spread", "threaded", "seconds",
    }  # fmt: skip
    splits = prepare(load_config(finished.path / "config.json", trust=True)).samples.splits
    needed = 2 * (len(splits["validation"]) + len(splits["test"]) + 2 * len(splits["train"]))
    assert summary["targets"]["teacher_samples_scored"] == needed
    assert summary["targets"]["mode"] == "stored"
    assert summary["targets"]["hit_rate"] == 0.0
    assert 0 <= summary["targets"]["teacher_wait_fraction"] < 1
    assert summary["labels_used"]["student"] == 200
    assert summary["labels_used"]["total"] == 300
    assert summary["test_scored_times"] == 1
    assert 0 < summary["kept"]["retention"]["share"] <= 1
    assert summary["kept"]["entropy"]["correlation"]["n"] == 1
    assert summary["cka"] == []  # the objective compares no features
    text = (finished.path / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_another_model_and_a_class_are_measured_beside_the_student(finished, summary):
    test = Evaluation.load(finished.path / "evaluation.safetensors").splits["test"]
    student, labels = test.students["student"][0].argmax(1), test.labels_N
    chance = summary["compare"]["chance"]
    right, lucky = student == labels, labels == 0  # it says the same of all, and the first is taken
    assert chance["test"]["accuracy"] == pytest.approx(float(lucky.double().mean()))
    difference = float(right.double().mean() - lucky.double().mean())
    assert chance["gain"]["values"] == pytest.approx([difference])
    assert chance["mcnemar"]["model_only"] == int((lucky & ~right).sum())
    assert chance["parameters"] == 64 * 10 + 10
    assert chance["latency_ms"]["1"] > 0
    three = summary["slices"]["class 3"]
    assert three["n"] == int((labels == 3).sum())
    recall = float((student[labels == 3] == 3).double().mean())
    assert three["student"]["accuracy"]["mean"] == pytest.approx(recall)
    page = (finished.path / "report" / "index.html").read_text()
    assert "Against other models" in page
    assert "Worst on class 3" in page
    assert "chance" not in summary["teachers"]


def test_requirements_are_held_against_the_summary(resumed, summary):
    held = resumed.result.requirements
    assert [requirement.holds for requirement in held] == [True, False]
    assert held[0].value == summary["student"]["test"]["accuracy"]["mean"]


def test_every_fit_tells_of_its_epochs(finished):
    told = {(line["fit"], line["epoch"]) for line in lines(finished.path, "epoch")}
    fits = [*(f"{role}/replica0" for role in ("student", *CONTROLS))]
    assert told == {(fit, epoch) for fit in fits for epoch in (1, 2)} | {
        (f"teacher/{name}", epoch) for name in ("wide", "conv") for epoch in range(1, 7)
    }
    assert {line["state"] for line in lines(finished.path, "fit")} == {"finished"}
    steps = {
        line["fit"]: line["step"] for line in lines(finished.path, "epoch") if line["epoch"] == 2
    }
    assert len({steps[fit] for fit in fits}) == 1, "controls get as many updates as the student"


def test_the_student_that_is_loaded_is_the_one_that_was_judged(finished, resumed, summary):
    samples = prepare(load_config(finished.path / "config.json", trust=True)).samples
    rows = samples.splits["test"]
    student = load_student(finished.path)
    assert not student.training
    with torch.no_grad():
        logits = student(samples.batch(rows, -1).inputs)
    accuracy = (logits.argmax(dim=1).numpy() == samples.labels[rows]).mean()
    expected = summary["student"]["test"]["accuracy"]["values"][0]
    assert accuracy == pytest.approx(expected, abs=1e-9)
    assert load_student(finished.path / "student") is not None
    with torch.no_grad():
        assert torch.equal(resumed.result.student()(samples.batch(rows, -1).inputs), logits)


@pytest.mark.usefixtures("same_home")
def test_a_second_run_fits_no_teacher_and_scores_nothing(finished, recipe, tmp_path):
    stored = {p: p.stat().st_mtime_ns for p in finished.home.rglob("*.safetensors")}
    run(load_config(recipe), Options(output=tmp_path / "again", until="targets"))
    states = {line["fit"]: line["state"] for line in lines(tmp_path / "again", "fit")}
    assert states == {"teacher/wide": "reused", "teacher/conv": "reused"}
    (said,) = [
        line["text"] for line in lines(tmp_path / "again", "message") if "scored" in line["text"]
    ]
    assert "; 0 teacher samples scored" in said
    assert not lines(tmp_path / "again", "epoch")
    assert {p: p.stat().st_mtime_ns for p in finished.home.rglob("*.safetensors")} == stored


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_another_label_budget_reads_the_same_store_for_teachers_that_stay(
    finished, recipe, tmp_path
):
    """Labels are part of no key: only the teachers that are fitted anew are scored anew."""
    card = read_json(finished.path / "teachers" / "wide.json")
    given = {"name": "wide", "model": card["spec"]["model"], "weights": card["weights"]}
    tree = {**deepcopy(recipe), "teachers": [given]}
    tree["data"]["labels"] = 150
    tree["evaluate"] = {"controls": []}
    run(load_config(tree), Options(output=tmp_path / "again", until="targets"))
    (said,) = [
        line["text"] for line in lines(tmp_path / "again", "message") if "scored" in line["text"]
    ]
    assert "; 0 teacher samples scored" in said


def assert_same_students(one, other, *names):
    """All weights equal in every bit, and all that follows from them."""
    for role in ("student", *CONTROLS):
        for which in ("last", "best"):
            file = f"checkpoints/{role}/replica0/{which}.safetensors"
            first, second = (load_weights(path / file, key="run") for path in (one, other))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first), file
    first, second = (read_json(path / "summary.json") for path in (one, other))
    for name in ("student", "ensemble", "fidelity", "gains"):
        assert strip(first[name]) == strip(second[name])


@pytest.mark.soak
def test_write_through_gives_the_bit_identical_student_and_scores_each_sample_once(
    finished, recipe, summary, tmp_path, monkeypatch
):
    stored = summary["targets"]
    tree = {**recipe, "targets": {"mode": "write_through"}}
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))
    written = run(load_config(tree), Options(output=tmp_path / "run"))
    assert_same_students(finished.path, written.path)
    found = written.summary["targets"]
    assert found["mode"] == "write_through"
    assert found["teacher_samples_scored"] == stored["teacher_samples_scored"]
    assert found["hit_rate"] == 0.0
    assert verify_store(tmp_path / "home" / "targets").rows == stored["teacher_samples_scored"]
    live = [line for line in lines(tmp_path / "run", "epoch") if "teacher_busy_fraction" in line]
    assert {line["fit"] for line in live} == {"student/replica0"}, "all others read"


@pytest.mark.slow
@pytest.mark.usefixtures("same_home")
def test_live_targets_give_the_bit_identical_student(finished, recipe, tmp_path):
    tree = {**recipe, "targets": {"mode": "live"}}
    live = run(load_config(tree), Options(output=tmp_path / "live"))
    assert_same_students(finished.path, live.path)
    assert live.summary["targets"]["mode"] == "live"
    assert live.summary["targets"]["teacher_samples_scored"] > 0


@pytest.mark.usefixtures("same_home")
def test_teachers_in_the_student_s_process_give_the_bit_identical_student(
    finished, recipe, summary, tmp_path
):
    tree = {**recipe, "cluster": {"teachers": {"where": "student"}}}
    inside = run(load_config(tree), Options(output=tmp_path / "inside"))
    assert_same_students(finished.path, inside.path)
    told = inside.summary["targets"]
    assert (told["mode"], told["teachers_in"]) == ("live", "student")
    epochs = [line for line in lines(inside.path, "epoch") if "teacher_samples_scored" in line]
    assert {line["fit"] for line in epochs} == {
        "student/replica0",
        "best_teacher/replica0",
        "hard/replica0",
    }
    scored = sum(sum(line["teacher_samples_scored"].values()) for line in epochs)
    assert told["teacher_samples_scored"] == scored, "validation and test were stored before"
    shown = (2 + 1 + 2) * 2 * len(prepare(load_config(tree)).samples.splits["train"])
    assert scored == shown, "of two epochs, by two teachers, by one and by two"
    assert "advice" not in told


def test_resuming_a_finished_run_trains_nothing(resumed, summary):
    after = {p: p.stat().st_mtime_ns for p in resumed.path.glob("checkpoints/*/*/*")}
    assert after == resumed.before
    found = resumed.result.summary
    assert json.loads(json.dumps(found)) == read_json(resumed.path / "summary.json")
    for name in ("student", "ensemble", "fidelity", "gains"):
        assert strip(found[name]) == strip(summary[name])
    assert found["targets"]["teacher_samples_scored"] == 0
    assert found["targets"]["hit_rate"] == 1.0
    assert found["targets"]["teacher_wait_fraction"] == pytest.approx(
        summary["targets"]["teacher_wait_fraction"]
    )
    assert found["test_scored_times"] == 2


def strip(value):
    """Without what is measured by the clock."""
    if isinstance(value, dict):
        return {k: strip(v) for k, v in value.items() if k not in ("latency_ms", "overhead_ms")}
    return value


def test_resuming_with_another_recipe_is_refused(finished, recipe):
    tree = {**recipe, "train": {**recipe["train"], "epochs": 3}, "seeds": 2}
    with pytest.raises(InputError, match=r"started with another recipe: seeds, train differ"):
        run(load_config(tree), Options(output=finished.path, resume=True))
    with pytest.raises(InputError, match="exists; add --resume"):
        run(load_config(recipe), Options(output=finished.path))
    assert read_json(finished.path / "config.json")["train"]["epochs"] == 2


@pytest.mark.usefixtures("same_home")
@pytest.mark.soak
def test_a_teacher_at_chance_stops_the_run_before_any_student(recipe, tmp_path):
    tree = {**recipe, "teachers": recipe["evaluate"]["compare"], "evaluate": {"controls": []}}
    with pytest.raises(TeacherError, match=r"'chance' has .* no better than chance"):
        run(load_config(tree), Options(output=tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["status"] == "failed"
    assert "no better than chance" in summary["error"]
    assert not lines(tmp_path / "run", "epoch")


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.usefixtures("same_home")
def test_a_teacher_lost_on_the_way_is_left_out_and_the_run_marked(finished, recipe, tmp_path):
    card = read_json(finished.path / "teachers" / "wide.json")
    wide = {"name": "wide", "model": card["spec"]["model"], "weights": card["weights"]}
    mortal = {
        "name": "mortal",
        "model": {"type": "factory", "path": "raykd_test_models:mortal",
                  "kwargs": {"calls": 24, "spared": os.getpid()}},
        "expect": {"accuracy": 0.0},
    }  # fmt: skip
    tree = {
        **recipe,
        "teachers": [wide, mortal],
        "targets": {"mode": "live"},
        "cluster": {"teachers": {"max_restarts": 0, "on_failure": "renormalise"}},
        "evaluate": {"controls": []},
    }
    result = run(load_config(tree), Options(output=tmp_path / "run"))
    assert result.summary["status"] == "degraded"
    decisions = [line["decision"] for line in read_lines(tmp_path / "run" / "events.jsonl")]
    assert decisions == ["leave_out"]
    last = [line for line in lines(tmp_path / "run", "epoch") if line["stage"] == "student"][-1]
    assert last["weights"]["wide"] == pytest.approx(1.0)
    assert last["weights"]["mortal"] == 0.0
    assert result.summary["teachers"]["mortal"]["parameters"] is None, "nobody asks it any more"
    assert result.summary["teachers"]["wide"]["parameters"] > 0
    assert math.isfinite(last["train_loss"])
    assert np.isfinite(result.summary["student"]["test"]["accuracy"]["mean"])
