"""Parts of the pipeline that need no cluster: the hub, the student as an artefact, drift, failures."""

from __future__ import annotations

import json
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.errors import InputError, TargetError
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import save_weights
from raykd.pipeline import Options, load_student
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.event_bus import EventBus
from raykd.pipeline.fits import shown_views
from raykd.pipeline.job import times_tested
from raykd.pipeline.preparation import prepare
from raykd.pipeline.recipe_store import store_keys
from raykd.pipeline.runs import check_required, run
from raykd.pipeline.session import run_folder
from raykd.pipeline.student import save_student
from raykd.pipeline.teacher_validation import check_drift, score_probes
from raykd.targets import TargetStore
from raykd.targets.shards import write_shard
from raykd.targets.store import append
from raykd.teachers import TeacherModel
from raykd.tracking import events


@pytest.fixture
def hub():
    return EventBus([], SimpleNamespace(say=print, warn=print))


def test_the_hub_counts_what_the_summary_needs(hub):
    hub(events.epoch("student", "student/replica0", epoch=1, teacher_wait_fraction=0.2))
    hub(events.epoch("student", "student/replica1", epoch=1, teacher_wait_fraction=0.4))
    hub(events.epoch("student", "labels/replica0", epoch=1, teacher_wait_fraction=0.0))
    hub(events.epoch("teachers", "teacher/wide", epoch=1, teacher_wait_fraction=0.9))
    assert hub.wait_fraction("student") == pytest.approx(0.3)
    assert hub.wait_fraction("hard") is None
    for decision in ("retry", "restart", "stop", None):
        hub(events.failure("fleet", "words", decision=decision))
    assert hub.retries == 2
    assert not hub.degraded
    hub(events.failure("fleet", "words", decision="leave_out", teacher="wide"))
    assert hub.degraded
    assert hub.lost == {"wide"}


def test_a_run_with_samples_in_quarantine_is_degraded_and_live_epochs_are_kept(hub):
    hub(events.failure("fleet", "words", decision="quarantine"))
    assert hub.degraded
    live = {"teacher_wait_fraction": 0.5, "teacher_work_s_per_step": {"wide": 0.1}}
    hub(events.epoch("student", "student/replica0", epoch=2, **live))
    hub(events.epoch("student", "labels/replica0", epoch=2, teacher_wait_fraction=0.0))
    assert [line["fit"] for line in hub.live] == ["student/replica0"]


def test_a_resumed_run_knows_what_happened_before(hub, tmp_path):
    """Else a run that lost a teacher would call itself complete once it is resumed."""
    from raykd.tracking import JsonLines
    from raykd.tracking.jsonl import METRICS, read_lines

    first = EventBus([JsonLines(tmp_path)], SimpleNamespace(say=print, warn=print))
    first(events.stage("student", state="started", fits=["student/replica0"]))
    first(events.epoch("student", "student/replica0", epoch=1, teacher_wait_fraction=0.5))
    first(events.failure("fleet", "words", decision="leave_out", teacher="wide"))
    first(events.failure("fleet", "words", decision="retry"))
    first(events.message("student", "words"))
    for line in read_lines(tmp_path / METRICS):
        hub.recall(line)
    assert hub.degraded
    assert hub.lost == {"wide"}
    assert hub.retries == 1
    assert hub.wait_fraction("student") == 0.5


@pytest.fixture
def prepared(tiny_recipe):
    return prepare(load_config(tiny_recipe))


@pytest.fixture
def saved(prepared, tmp_path):
    """A student's folder, as the end of a run writes it."""
    folder = RunFolder(tmp_path / "run")
    torch.manual_seed(4)
    best = folder.checkpoints("student/replica0") / "best.safetensors"
    from raykd.models import build_model

    shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
    spec = prepared.config.student.model
    save_weights(build_model(spec, input_shape=shape, classes=10, key="m"), best)
    save_student(prepared, folder)
    return folder.path


def test_the_student_is_loaded_back_with_its_preprocessing(prepared, saved):
    from raykd.models.weights import load_weights

    rows = prepared.samples.splits["test"][:50]
    inputs = prepared.samples.batch(rows, -1).inputs
    weights = load_weights(saved / "student" / "model.safetensors", key="k")
    with torch.no_grad():
        expected = student_network(prepared, weights)(inputs)
        assert torch.equal(load_student(saved)(inputs), expected)
        assert torch.equal(load_student(saved / "student")(inputs), expected)
    about = read_json(saved / "student" / "model.json")
    assert about["classes"] == list("0123456789")
    assert about["teachers"] == ["wide", "conv"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(json.dumps({**read_json(path), "model": {"type": "evil"}})),
        lambda path: path.write_text(json.dumps({**read_json(path), "preprocessing": {"x": 1}})),
        lambda path: path.write_text(
            json.dumps({**read_json(path), "model": {"type": "cnn", "width": -1}})
        ),
        lambda path: path.unlink(),
        lambda path: (path.parent / "model.safetensors").write_bytes(b"no"),
        lambda path: (path.parent / "model.safetensors").unlink(),
    ],
)
def test_a_damaged_student_is_the_user_s_to_know(saved, damage):
    damage(saved / "student" / "model.json")
    with pytest.raises(InputError):
        load_student(saved)


def test_what_an_artefact_names_is_never_imported(saved, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    path = saved / "student" / "model.json"
    evil = {"type": "factory", "path": "evil_module:make", "kwargs": {}}
    write_json(path, {**read_json(path), "model": evil})
    with pytest.raises(InputError, match="not imported from an artefact; pass it"):
        load_student(saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "evil",
    [
        {"type": "torchscript", "path": "evil.pt", "trusted": True},
        {"type": "pt2", "path": "evil.pt2", "trusted": True},
        {"type": "onnx", "path": "evil.onnx"},
        {"type": "hf", "name": "evil/model"},
        {"type": "timm", "name": "hf_hub:evil/model"},
        {"type": "timm", "name": "resnet10t", "kwargs": {"checkpoint_path": "evil.pt"}},
        {"type": "torchvision", "name": "resnet18", "kwargs": {"weights": "evil"}},
    ],
)
def test_what_an_artefact_names_is_not_opened_or_downloaded_either(saved, evil):
    path = saved / "student" / "model.json"
    write_json(path, {**read_json(path), "model": evil})
    with pytest.raises(InputError, match="not imported from an artefact; pass it"):
        load_student(saved)


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match="holds no student"):
        load_student(tmp_path)


def test_code_that_was_changed_since_its_answers_were_stored(
    prepared, make_spec, tmp_path, monkeypatch
):
    """A model's code is in no fingerprint, so a few samples are scored again."""
    from raykd.config.models import FactoryModel

    samples = prepared.samples
    spec = make_spec(
        FactoryModel(path="raykd_test_models:drifting", kwargs={"classes": 10, "inputs": 64}),
        data=samples, batch_size=16,
    )  # fmt: skip
    specs = {"wide": spec}
    keys = store_keys(specs, samples)
    rows = samples.splits["validation"]
    arrays = TeacherModel(spec).score(samples, rows, np.full(len(rows), -1))
    named = {"ids": samples.ids[rows], "hashes": samples.content_hash(rows), **arrays}
    append(
        tmp_path,
        keys["wide"].originals,
        [write_shard(tmp_path / keys["wide"].originals.folder, -1, named)],
    )
    hashes = samples.content_hash(np.arange(len(samples)))
    store = TargetStore.open(tmp_path, keys, samples.ids, hashes)
    check_drift(prepared, {"wide": score_probes(samples, spec)}, specs, store)
    monkeypatch.setenv("RAYKD_TEST_DRIFT", "1")
    with pytest.raises(
        TargetError,
        match=r"'wide' no longer matches its stored outputs .*its code, or .* was changed since; delete",
    ):
        check_drift(prepared, {"wide": score_probes(samples, spec)}, specs, store)


def test_wrong_input_leaves_no_folder(tiny_recipe, tmp_path, monkeypatch):
    tiny_recipe["teachers"][0] = {"name": "wide", "model": "mlp", "weights": "none.safetensors"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        run(load_config(tiny_recipe), Options(output=tmp_path / "run"))
    with pytest.raises(InputError):
        run(load_config(tiny_recipe))
    assert not list(tmp_path.glob("run*"))


def test_more_workers_than_processors_is_found_before_a_cluster_starts(
    tiny_recipe, tmp_path, monkeypatch
):
    from raykd.runtime import Resources

    module = import_module("raykd.pipeline.session")
    monkeypatch.setattr(module, "is_connected", lambda: False)
    monkeypatch.setattr(module, "machine", lambda: Resources(2, 0, local=True))
    monkeypatch.setattr(module, "connect", None)
    config = load_config(tiny_recipe, ["cluster.student.workers=3"])
    with pytest.raises(InputError, match=r"cluster\.student\.workers"):
        run(config, Options(output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_may_differ_when_a_run_is_resumed(tiny_recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = load_config(tiny_recipe)
    write_json(folder.config, config.model_dump(mode="json"))
    options = Options(output=tmp_path / "run", resume=True)
    free = ["tracking.wandb.mode=offline", "cluster.student.workers=2", "evaluate.controls=[hard]"]
    assert run_folder(load_config(tiny_recipe, free), options).path == tmp_path / "run"
    with pytest.raises(InputError, match="data, objective differ"):
        run_folder(
            load_config(tiny_recipe, ["data.labels=150", "objective.labels.weight=0.2"]), options
        )


def test_a_run_of_before_a_setting_was_there_is_resumed(tiny_recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = load_config(tiny_recipe)
    before = config.model_dump(mode="json")
    del before["data"]["license"], before["student"]["license"], before["teachers"][0]["license"]
    write_json(folder.config, before)
    options = Options(output=tmp_path / "run", resume=True)
    assert run_folder(config, options).path == tmp_path / "run"
    with pytest.raises(InputError, match="data differ"):
        run_folder(load_config(tiny_recipe, ["data.license=mit"]), options)


def test_how_often_test_was_scored_survives_a_failure(tmp_path):
    folder = RunFolder(tmp_path)
    assert times_tested(folder) == 0
    write_json(folder.summary, {"status": "complete", "test_scored_times": 3})
    assert times_tested(folder) == 3


def test_a_requirement_on_what_the_summary_will_not_have_is_refused_before_the_run(tiny_recipe):
    wrong = ["student.test.acuracy > 0.5", "gains.hard.mean > 0", "teachers.nobody.test.nll < 1"]
    right = ["student.test.accuracy > 2", "gains.labels.ci95.0 > 0", "targets.hit_rate >= 0",
             "timing.teachers_s < 9", "fidelity.kl_ensemble_nats < 1", "labels_used.total < 1000"]  # fmt: skip
    config = load_config(tiny_recipe, [f"evaluate.require={json.dumps([*right, *wrong])}"])
    with pytest.raises(InputError) as caught:
        check_required(prepare(config))
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["evaluate.require.6", "evaluate.require.7", "evaluate.require.8"]
    assert "student.test.accuracy" in str(caught.value), "the nearest name is told"
    check_required(prepare(load_config(tiny_recipe, [f"evaluate.require={json.dumps(right)}"])))


def test_views_that_no_epoch_shows_are_not_asked_for(tiny_recipe):
    config = load_config(tiny_recipe, ["data.views.count=5", "train.epochs=3"])
    assert shown_views(config) == 3
    assert shown_views(load_config(config.model_dump(), ["train.epochs=9"])) == 5
    assert shown_views(load_config(config.model_dump(), ["data.views.count=null"])) is None
