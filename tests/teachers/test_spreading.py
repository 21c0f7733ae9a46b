"""A model of transformers over several devices: what is asked for is checked, and it lies where the map says."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from dataclasses import replace

import pytest
import torch

from raykd.config import load_config
from raykd.errors import InputError, TeacherError
from raykd.models import spreading
from raykd.models.network import Network

transformers = pytest.importorskip("transformers")
HAS_ACCELERATE = importlib.util.find_spec("accelerate") is not None
HF = "teachers.wide.model={type: hf, name: some/model}"
OWN = "teachers.wide.resources"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([f"{OWN}.device_map=auto"], "device_map: found beside a teacher of type mlp"),
        ([HF, "teachers.wide.fit=null", f"{OWN}.device_map=auto"],
         "device_map: found auto, but its actor has 0 GPUs"),
        ([HF, "teachers.wide.fit=null", f"{OWN}.device_map=balanced", f"{OWN}.gpus=1.5"],
         "found balanced, but its actor has 1.5 GPUs"),
        ([HF, "teachers.wide.fit=null", f"{OWN}.device_map={{bert: 0, head: 2}}", f"{OWN}.gpus=2"],
         "names GPU 2, but its actor has 2 of them"),
        ([HF, "teachers.wide.fit=null", f"{OWN}.device_map={{'': cpu}}", f"{OWN}.gpus=2"],
         "found everything on the CPU"),
        ([HF, f"{OWN}.device_map={{'': cpu}}"], "device_map: found beside fit"),
        ([HF, "teachers.wide.fit=null", f"{OWN}.device_map={{'': cpu}}", "cluster.teachers.where=student"],
         "device_map: found with cluster.teachers.where: student"),
        ([f"{OWN}.device_map=spread"], "device_map"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tiny_recipe, given, problem):
    with pytest.raises(InputError, match=re.escape(problem)):
        load_config(tiny_recipe, given)


@pytest.mark.parametrize(
    "given", [["=auto", "2"], ["={bert: 0, head: 1}", "2"], ["={'': cpu}", "0"], ["={a: 0, b: cpu}", "1"]]
)  # fmt: skip
def test_what_does_is_taken(tiny_recipe, given):
    found, gpus = given
    config = load_config(
        tiny_recipe,
        [HF, "teachers.wide.fit=null", f"{OWN}.device_map{found}", f"{OWN}.gpus={gpus}"],
    )
    (own,) = (one.resources for one in config.teachers if one.name == "wide")
    assert own.device_map is not None


@pytest.fixture
def folder(tmp_path):
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3,
        layer_type="basic",
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def network(folder):
    return Network(transformers.ResNetForImageClassification.from_pretrained(folder).eval())


@pytest.mark.skipif(HAS_ACCELERATE, reason="accelerate is there")
def test_without_accelerate_the_extra_is_named(network):
    with pytest.raises(InputError, match=r"pip install 'raykd\[large\]'") as caught:
        spreading.spread(network, {"": "cpu"}, torch.device("cpu"), key="some.key")
    assert caught.value.problems[0].key == "some.key"


def test_on_a_cpu_it_says_the_same_bits_and_is_the_same_teacher(
    folder, make_spec, samples, monkeypatch, one_thread
):
    from raykd.config.models import HfModel
    from raykd.teachers import TeacherModel

    if not HAS_ACCELERATE:
        monkeypatch.setattr(spreading, "require_accelerate", lambda _: None)
    spec = make_spec(HfModel(name=str(folder)), taps=("resnet.embedder",))
    laid = replace(spec, device_map={"": "cpu"})
    rows = samples.splits["train"][:5]
    one, other = (
        TeacherModel(own).score(samples, rows, rows * 0 + 1).items() for own in (spec, laid)
    )
    for (name, array), (_, same) in zip(one, other, strict=True):
        assert array.tobytes() == same.tobytes(), name
    assert laid.fingerprint == spec.fingerprint


class Fake:
    """Stands for accelerate on a machine with GPUs: writes down what it is asked."""

    def __init__(self, found):
        self.found, self.memory, self.laid = found, [], None
        self.utils = types.SimpleNamespace(get_balanced_memory=self._balanced)

    def _balanced(self, model, no_split_module_classes):
        self.memory.append(no_split_module_classes)
        return {0: 10, 1: 10}

    def infer_auto_device_map(self, model, max_memory, no_split_module_classes):
        assert max_memory == ({0: 10, 1: 10} if self.memory else None)
        return self.found

    def dispatch_model(self, model, device_map, main_device):
        if not device_map:
            raise ValueError("leaves out resnet")
        self.laid = model, device_map, main_device


@pytest.mark.parametrize(
    ("asked", "balanced"), [("auto", 1), ("balanced", 1), ("sequential", 0), ({"resnet": 0, "classifier": 1}, 0)]
)  # fmt: skip
def test_layers_go_where_the_map_says(network, monkeypatch, asked, balanced):
    found = {"resnet": 0, "classifier": 1}
    fake = Fake(found)
    monkeypatch.setattr(spreading, "require_accelerate", lambda _: fake)
    spreading.spread(network, asked, torch.device("cuda"), key="k")
    assert fake.laid == (network.model, found, 0)
    assert len(fake.memory) == balanced
    if balanced:
        assert fake.memory == [sorted(network.model._no_split_modules)]


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_model_that_does_not_fit_is_not_moved_to_the_host(network, monkeypatch, place):
    monkeypatch.setattr(spreading, "require_accelerate", lambda _: Fake({"resnet": 0, "classifier": place}))  # fmt: skip
    with pytest.raises(TeacherError, match=r"k: found auto, but the model does not fit"):
        spreading.spread(network, "auto", torch.device("cuda"), key="k")


def test_a_map_that_leaves_modules_out_is_told(network, monkeypatch):
    monkeypatch.setattr(spreading, "require_accelerate", lambda _: Fake({}))
    with pytest.raises(TeacherError, match=r"k: the map does not fit the model: leaves out resnet"):
        spreading.spread(network, {}, torch.device("cuda"), key="k")


@pytest.mark.skipif(not HAS_ACCELERATE, reason="accelerate is not there")
def test_accelerate_is_asked_as_it_wants_to_be(network):
    """Its own functions take what they are given; on one device nothing is moved."""
    accelerate = spreading.require_accelerate("k")
    kept = sorted(network.model._no_split_modules)
    memory = {"cpu": 10**9}
    found = accelerate.infer_auto_device_map(
        network.model, max_memory=memory, no_split_module_classes=kept
    )
    assert set(found.values()) == {"cpu"}
    accelerate.dispatch_model(network.model, dict(found), main_device="cpu")
    assert "accelerate" in sys.modules
