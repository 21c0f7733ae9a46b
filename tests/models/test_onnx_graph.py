"""ONNX graphs as models: what torch says of the same weights, taps by name, errors that help."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
onnx = pytest.importorskip("onnx", reason="the extra export is not installed")

from onnx import TensorProto, helper, numpy_helper

from raykd.cli import main
from raykd.config.models import OnnxModel
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.shapes import TokenShape
from raykd.models.taps import Taps, probe_output
from raykd.models.zoo.foreign import CONTENT

SHAPE, HIDDEN, CLASSES = (2, 4, 4), 6, 3


def two_layers(seed=0):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(32, HIDDEN)).astype(np.float32)
    return first, rng.normal(size=(HIDDEN, CLASSES)).astype(np.float32)


def graph(batch="N", opset=20, answer="logits", kind=TensorProto.FLOAT, shape=SHAPE, seed=0):
    """flatten → linear → ReLU (`block.relu`) → linear (`logits`), and a class number (`best`)."""
    first, second = two_layers(seed)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["block.relu"]),
        helper.make_node("MatMul", ["block.relu", "second"], [answer]),
        helper.make_node("ArgMax", [answer], ["best"], axis=1, keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("pixels", kind, [batch, *shape])],
        [
            helper.make_tensor_value_info("best", TensorProto.INT64, [batch]),
            helper.make_tensor_value_info("block.relu", TensorProto.FLOAT, [batch, HIDDEN]),
            helper.make_tensor_value_info(answer, TensorProto.FLOAT, [batch, CLASSES]),
        ],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(second, "second"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(graph(), path)
    return path


def build(path, shape=SHAPE, weights=None, **given):
    spec = OnnxModel(path=str(path), **given)
    return build_model(
        spec, input_shape=shape, classes=CLASSES, key="model", weights=weights
    ).eval()


def expected(inputs):
    first, second = two_layers()
    hidden = np.maximum(inputs.numpy().reshape(len(inputs), -1) @ first, 0)
    return hidden, hidden @ second


@pytest.mark.parametrize("batch", ["N", 4, 1])
def test_the_answer_and_the_taps_for_any_batch(tmp_path, batch):
    """A graph made for batches of 4 is asked for 1, 4 and 11 all the same."""
    onnx.save(graph(batch), tmp_path / "model.onnx")
    model = build(tmp_path / "model.onnx")
    for size in (1, 4, 11):
        inputs = torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(size))
        with Taps(model, ["block.relu"]) as taps:
            logits, tapped = model(inputs), taps.features["block.relu"]
        hidden, wanted = expected(inputs)
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(tapped, hidden, rtol=1e-5, atol=1e-4)
    assert not list(model.parameters())
    assert logits.dtype == torch.float32


def test_the_answer_is_logits_else_the_first_of_floats_else_as_said(file, tmp_path):
    inputs = torch.ones(3, *SHAPE)
    assert probe_output(build(file), {"x": inputs}, key="model") == (CLASSES,)
    assert probe_output(build(file, output="block.relu"), {"x": inputs}, key="m") == (HIDDEN,)
    np.testing.assert_array_equal(
        build(file, output="best")(inputs), expected(inputs)[1].argmax(axis=1)
    )
    onnx.save(graph(answer="scores"), tmp_path / "other.onnx")
    other = build(tmp_path / "other.onnx")
    assert probe_output(other, {"x": inputs}, key="model") == (HIDDEN,), "block.relu comes first"


def test_the_content_travels_and_the_file_may_be_gone(file):
    model, inputs = build(file), torch.ones(2, *SHAPE)
    wanted, weights = model(inputs), dict(model.state_dict())
    assert set(weights) == {CONTENT}
    file.unlink()
    assert torch.equal(build(file, weights=weights)(inputs), wanted)


def test_weights_in_a_file_of_their_own(file, tmp_path):
    """As large graphs are written: `model.onnx` and `weights.bin` beside it."""
    wanted = build(file)(torch.ones(2, *SHAPE))
    onnx.save(
        graph(), tmp_path / "large.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    assert (tmp_path / "weights.bin").stat().st_size > 0
    model = build(tmp_path / "large.onnx")
    weights = dict(model.state_dict())
    (tmp_path / "weights.bin").unlink()
    again = build(tmp_path / "large.onnx", weights=weights)
    assert torch.equal(again(torch.ones(2, *SHAPE)), wanted)
    with pytest.raises(InputError, match=r"cannot be read as ONNX.*weights\.bin"):
        build(tmp_path / "large.onnx")


def wrong(make, key, *words, **given):
    with pytest.raises(InputError) as caught:
        build(make, **given)
    (problem,) = caught.value.problems
    assert problem.key == key
    for word in words:
        assert word in problem.message, problem.message


def test_a_file_that_is_not_there_or_damaged(file, tmp_path):
    wrong(tmp_path / "none.onnx", "model.path", "no file at", "none.onnx")
    file.write_bytes(b"\xff" * 50)
    wrong(file, "model.path", "cannot be read as ONNX", "copy it again")
    file.write_bytes(b"")
    wrong(file, "model.path", "holds no graph")


def test_an_opset_of_the_future(tmp_path):
    onnx.save(graph(opset=99), tmp_path / "new.onnx")
    wrong(tmp_path / "new.onnx", "model.path", "onnxruntime 1.", "opset", "export it again")


def test_another_input_shape(file):
    words = ("takes [2, 4, 4] per sample", "given [1, 8, 8]", "preprocess")
    wrong(file, "model.path", *words, shape=(1, 8, 8))
    wrong(file, "model.path", "given [32]", shape=(32,))


def test_an_output_that_it_does_not_have(file):
    wrong(file, "model.output", "'logit'", "nearest: logits", output="logit")


def test_whole_numbers_that_it_is_not_given(tmp_path):
    made = graph(kind=TensorProto.INT32)
    made.graph.node[0].input[0] = "cast"
    made.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT))
    onnx.save(made, tmp_path / "whole.onnx")
    model = build(tmp_path / "whole.onnx")
    with pytest.raises(InputError, match=r"takes int32 as 'pixels'; it is given torch.float32"):
        probe_output(model, {"x": torch.rand(2, *SHAPE)}, key="model")
    whole = torch.ones(2, *SHAPE, dtype=torch.int64)
    np.testing.assert_allclose(model(whole), expected(whole.float())[1], rtol=1e-5, atol=1e-4)


def test_what_onnxruntime_refuses_names_the_shapes(file):
    with pytest.raises(InputError, match=r"does not run on x \[2, 2, 4, 9\].*onnxruntime"):
        probe_output(build(file), {"x": torch.rand(2, 2, 4, 9)}, key="model")


def test_inspect_lists_its_outputs(file, capsys):
    assert main(["inspect", f"onnx:{file}", "--input", "2,4,4", "--classes", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][2] == "3"
    assert ["block.relu", "Identity", "6", "0"] in lines
    assert main(["inspect", f"onnx:{file}", "output=best", "--input", "2,4,4"]) == 0
    assert main(["inspect", f"onnx:{file}", "output=worst", "--input", "2,4,4"]) == 2
    assert "model.output: found 'worst'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [("input_ids", "attention_mask"), ("input_ids", "attention_mask", "token_type_ids")]
)
def test_a_graph_of_texts_gets_its_ids_as_transformers_names_them(tmp_path, names):
    """The sum of ids that are there, and of segments, which are all 0."""
    *first, last = names
    total = [helper.make_node("Mul", first[:2] if len(first) > 1 else names, ["there"])]
    total += [helper.make_node("Add", ["there", last], ["all"])] if len(names) > 2 else []
    nodes = [
        *total,
        helper.make_node(
            "Cast", ["all" if len(names) > 2 else "there"], ["floats"], to=TensorProto.FLOAT
        ),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
    ]
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in names]
    answer = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 1])]
    axis = [numpy_helper.from_array(np.array([1]), "axis")]
    made = helper.make_model(
        helper.make_graph(nodes, "sum", ids, answer, axis),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(made, tmp_path / "texts.onnx")
    model = build(tmp_path / "texts.onnx", shape=TokenShape(4, 100, "hf"))
    ids_BL = torch.tensor([[3, 5, 0, 0], [2, 2, 2, 99]])
    assert model(ids_BL).tolist() == [[2.0 + 4.0], [1.0 + 1 + 1 + 98]], "ids + 1, and 0 is none"
