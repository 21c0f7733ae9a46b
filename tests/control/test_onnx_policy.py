"""An ONNX graph as a teacher that acts: the episodes of the same weights in torch, and named by its file's content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
onnx = pytest.importorskip("onnx", reason="the extra export is not installed")

from onnx import TensorProto, helper, numpy_helper

from raykd.config import load_config
from raykd.control import roll
from raykd.control.environments import spaces
from raykd.control.policies import ModelPolicy
from raykd.errors import InputError
from raykd.pipeline.policies import acting_teachers, first_policy

WALK = {
    "task": "control",
    "data": {
        "source": {
            "type": "gymnasium",
            "id": "raykd_test_environments:Walk",
            "wrappers": [{"type": "time_limit", "steps": 12}],
        }
    },
    "student": {"model": {"type": "mlp", "width": 0.1, "depth": 1}},
}


def written(path, inputs=2, seed=0):
    """A linear policy of two actions, batches of any size; its weights [O, A]."""
    weights = np.random.default_rng(seed).normal(size=(inputs, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["seen", "weights"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return weights


def acting(path, take="best"):
    teachers = [{"name": "graph", "model": {"type": "onnx", "path": str(path)}}]
    config = load_config({**WALK, "teachers": teachers})
    environment = config.data.source.environment
    (teacher,) = acting_teachers(config, None)
    return environment, *first_policy(config, teacher, spaces(environment), take)


@pytest.mark.parametrize("take", ["best", "sample"])
def test_its_episodes_are_those_of_the_same_weights(tmp_path, take):
    weights = written(tmp_path / "policy.onnx")
    environment, policy, _ = acting(tmp_path / "policy.onnx", take)
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights.T))
    found = roll(environment, policy, range(6))
    expected = roll(environment, ModelPolicy(linear, discrete=True, take=take), range(6))
    np.testing.assert_array_equal(found.actions, expected.actions)
    np.testing.assert_array_equal(found.observations, expected.observations)
    assert set(found.actions.tolist()) == {0, 1}


def test_another_content_in_the_same_place_is_another_teacher(tmp_path):
    path, known = tmp_path / "policy.onnx", []
    for seed in (0, 0, 1):
        written(path, seed=seed)
        known.append(acting(path)[2])
    first, again, other = known
    assert first == again
    assert first != other


def test_one_that_sees_something_else_is_refused(tmp_path):
    written(tmp_path / "wide.onnx", inputs=3)
    with pytest.raises(InputError, match=r"teachers\.graph\.model"):
        acting(tmp_path / "wide.onnx")
