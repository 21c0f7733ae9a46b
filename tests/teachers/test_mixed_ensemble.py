"""A torch CNN, an ONNX graph, a scikit-learn forest and a teacher of half of the classes teach one student."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from raykd_foreign_models import fitted

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from onnx import TensorProto, helper, numpy_helper

from raykd.config import load_config
from raykd.evaluate import Evaluation
from raykd.models import build_model
from raykd.models.weights import load_weights, save_weights
from raykd.pipeline import Options, run
from raykd.pipeline.preparation import prepare
from raykd.pipeline.recipe_store import RecipeStore
from raykd.targets import StoredTargets
from raykd.targets.codec import decode
from raykd.teachers import ActorFleet, LiveTargets, TeacherModel, TeacherResources

pytestmark = [pytest.mark.ray]
HALF = [8, 1, 3, 9, 5]
RAW = {"normalize": "none"}


def write_graph(path):
    """A linear discriminant of all digits, made for batches of 16 samples of 1×8×8; `scaled` are its features."""
    model = fitted()
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Mul", ["flat", "two"], ["scaled"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
    ]
    tensors = {
        "two": np.full(1, 2.0),
        "weights": model.coef_.T,
        "bias": model.intercept_,
    }
    graph = helper.make_graph(
        nodes,
        "discriminant",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [16, 1, 8, 8])],
        [
            helper.make_tensor_value_info("scaled", TensorProto.FLOAT, [16, 64]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [16, 10]),
        ],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, path)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "discriminant.onnx"
    write_graph(path)
    fit = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
    half = {"path": "raykd_foreign_models:regression", "kwargs": {"classes": HALF}}
    return {
        "data": {
            "source": {"type": "digits"},
            "splits": {"validation": 100, "test": 0.2},
            "labels": 200,
            "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
        },
        "teachers": [
            {"name": "conv", "model": {"type": "cnn", "width": 0.25, "depth": 2}, "fit": fit},
            {"name": "graph", "model": f"onnx:{path}", "preprocess": RAW},
            {"name": "forest", "model": "raykd_foreign_models:forest", "kind": "probabilities",
             "preprocess": RAW},
            {"name": "half", "model": {"type": "factory", **half}, "label_map": HALF,
             "preprocess": RAW},
        ],
        "student": {"model": {"type": "mlp", "width": 0.5, "depth": 1}},
        "objective": {
            "soft_targets": {"temperature": 2.0},
            "features": [{"loss": {"type": "hint"}, "teacher": "graph", "student_tap": "blocks.0",
                          "teacher_tap": "scaled", "weight": 0.01}],
        },
        "train": {"epochs": 4, "batch_size": 64, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": ["hard"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }  # fmt: skip


def same(one, other):
    return one.values_NC.equal(other.values_NC) and all(
        one.features[tap].equal(other.features[tap]) for tap in one.features
    )


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "one_thread")
def test_live_stored_and_this_process_give_the_same_bits(recipe, heard, tmp_path):
    """Each library in its own actor; the ONNX file is gone by then."""
    ready = {**recipe, "teachers": recipe["teachers"][1:3]}
    conv = {"name": "conv", "model": {"type": "cnn", "width": 0.25, "depth": 2}}
    spec = load_config({**ready, "teachers": [{**conv, "fit": {}}, *ready["teachers"]]}).teachers[0]
    save_weights(
        build_model(spec.model, input_shape=(1, 8, 8), classes=10, key="conv"),
        tmp_path / "conv.safetensors",
    )
    conv["weights"] = str(tmp_path / "conv.safetensors")
    ready["teachers"] = [conv, *ready["teachers"]]
    graph = tmp_path / "gone.onnx"
    write_graph(graph)
    ready["teachers"][1] = {**ready["teachers"][1], "model": f"onnx:{graph}"}
    prepared = prepare(load_config(ready))
    graph.unlink()
    specs = prepared.specs({name: one.weights for name, one in prepared.teachers.items()})
    samples, names = prepared.samples, list(specs)
    places = {name: TeacherResources(1, 0.5, 0) for name in specs}
    cluster = prepared.config.cluster.teachers
    with ActorFleet(specs, places, ray.put(samples), cluster, heard) as fleet:
        stored = RecipeStore(prepared, specs)
        _, parts = stored.missing(2)
        stored.fill(parts, fleet, heard)
        store = stored.open()
        rows, views = samples.splits["train"][5:42], np.arange(37) % 2
        batch = samples.batch(rows, views)
        live, stored = LiveTargets(fleet.client, names), StoredTargets(store)
        heard_live = live.collect(live.submit(batch), 600)
        read = stored.collect(stored.submit(batch), 600)
        for name in names:
            alone = decode(TeacherModel(specs[name]).score(samples, rows, views))
            assert same(heard_live[name], read[name]), name
            assert same(heard_live[name], alone), name
    assert set(read["graph"].features) == {"scaled"}


@pytest.fixture(scope="module")
def runs(ray_cluster, recipe, tmp_path_factory):
    """The recipe with stored targets, then with live ones, in one home."""
    root = tmp_path_factory.mktemp("mixed")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        for mode in ("stored", "live"):
            config = load_config({**recipe, "targets": {"mode": mode}})
            found[mode] = run(config, Options(output=root / mode))
    return SimpleNamespace(**found)


def weights(result, role="student"):
    return load_weights(
        result.path / f"checkpoints/{role}/replica0/best.safetensors", key="weights"
    )


@pytest.mark.soak
def test_stored_and_live_give_the_same_bits(runs):
    for role in ("student", "hard"):
        one, other = weights(runs.stored, role), weights(runs.live, role)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert runs.live.summary["targets"]["mode"] == "live"
    said = [
        Evaluation.load(result.path / "evaluation.safetensors") for result in vars(runs).values()
    ]
    for split in ("validation", "test"):
        first, second = (evaluation.splits[split] for evaluation in said)
        for name in ("conv", "graph", "forest", "half"):
            assert torch.equal(first.teachers[name], second.teachers[name])


@pytest.mark.soak
def test_every_teacher_says_what_it_should_and_the_student_learns(runs):
    summary = runs.stored.summary
    accuracy = {name: one["test"]["accuracy"] for name, one in summary["teachers"].items()}
    assert accuracy["graph"] > 0.9
    assert accuracy["forest"] > 0.9
    assert 0.4 < accuracy["half"] < 0.6, "it is right on half of the samples, those that it knows"
    assert summary["ensemble"]["test"]["accuracy"] > 0.9
    assert summary["student"]["test"]["accuracy"]["mean"] > 0.8
    costs = {name: one["parameters"] for name, one in summary["teachers"].items()}
    assert costs["graph"] is None
    assert costs["forest"] is None
    assert costs["half"] == 64 * 5 + 5
    assert summary["cost"] is not None
