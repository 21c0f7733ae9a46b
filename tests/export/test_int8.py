"""ONNX in 8 bits: scales and zero points as a reference in float64 has them, what is refused, the same bytes twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raykd.errors import ExportError, InputError
from raykd.export import FORMATS
from raykd.export.graph_model import GraphModel
from raykd.export.writing import choose, write_formats
from raykd.models.preprocess import Preprocessing
from raykd.models.tokens import HashedTokens

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from raykd.export.int8_format import quantized, read_quantization

HASHED = Preprocessing(tokens=HashedTokens("hashed", size=60, length=9, ngrams=1, lower=True))
TEXTS = {"shape": (64,), "preprocessing": HASHED}
STUDENTS = [
    ({"type": "mlp"}, {}, {"Gemm": 3}),
    ({"type": "mlp"}, {"task": "regression", "outputs": 1}, {"Gemm": 3}),
    ({"type": "mlp"}, {"task": "multilabel"}, {"Gemm": 3}),
    ({"type": "mlp"}, {"task": "embedding"}, {"Gemm": 3}),
    ({"type": "cnn", "width": 0.25, "depth": 2, "norm": "batch"}, {}, {"Conv": 2, "Gemm": 1}),
    ({"type": "vit", "width": 0.25, "depth": 1}, {}, {"Conv": 1, "Gemm": 1, "MatMul": 4}),
    ({"type": "bag", "width": 0.25}, TEXTS, {"Gather": 1, "Gemm": 2}),
    ({"type": "text_cnn", "width": 0.125, "depth": 2}, TEXTS, {"Conv": 4, "Gather": 1, "Gemm": 1}),
]  # fmt: skip


def linear(weight_ID, bias_D):
    """`y = x W + b` as a graph."""
    from onnx import TensorProto, helper, numpy_helper

    floats = TensorProto.FLOAT
    node = helper.make_node("Gemm", ["x", "W", "b"], ["y"])
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", floats, ["batch", weight_ID.shape[0]])],
        [helper.make_tensor_value_info("y", floats, ["batch", weight_ID.shape[1]])],
        [numpy_helper.from_array(weight_ID, "W"), numpy_helper.from_array(bias_D, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def constants(graph):
    return {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}


def test_scales_and_zero_points_are_those_of_a_reference_in_float64():
    rng = np.random.default_rng(0)
    weight_ID = rng.normal(size=(6, 4)).astype(np.float32)
    weight_ID[:, 1] *= 100  # a channel of its own size: one scale for all would lose the others
    bias_D = rng.normal(size=4).astype(np.float32)
    x_BI = rng.uniform(-1, 3, size=(50, 6)).astype(np.float32)
    made, how = quantized(linear(weight_ID, bias_D), [{"x": x_BI[:20]}, {"x": x_BI[20:]}])
    assert (how.method, dict(how.operators), how.weights) == ("static", {"Gemm": 1}, 1.0)
    assert (how.left, how.samples) == ((), 50)

    scale_D = np.abs(weight_ID).max(axis=0).astype(float) / 63.5  # 7 bits: −64 to 63
    low, high = float(x_BI.min()), float(x_BI.max())
    step = (high - low) / 255
    zero = round(-low / step)
    found = constants(made)
    np.testing.assert_allclose(found["W_scale"], scale_D, rtol=0.01)
    assert found["W_quantized"].dtype == np.int8
    assert np.abs(found["W_quantized"].astype(int)).max() <= 64
    assert not found["W_zero_point"].any()
    assert found["x_scale"] == pytest.approx(step, rel=1e-5)
    assert found["x_zero_point"] == zero
    assert found["x_zero_point"].dtype == np.uint8

    q_BI = np.clip(np.round(x_BI.astype(float) / step) + zero, 0, 255)
    x_again = step * (q_BI - zero)
    w_again = found["W_quantized"].astype(float) * found["W_scale"].astype(float)
    assert (np.abs(w_again - weight_ID) <= 0.5001 * found["W_scale"]).all()
    session = onnxruntime.InferenceSession(made.SerializeToString())
    (y_BD,) = session.run(None, {"x": x_BI})
    reference = x_again @ w_again + bias_D
    bias_step = step * found["W_scale"].astype(float)
    assert (np.abs(y_BD - reference) <= bias_step + 1e-4 * np.abs(reference)).all()


def test_zero_and_what_is_beyond_the_range_stay_what_they_are():
    """Padding is 0 also where all that was seen is far from it; what is larger is cut off."""
    weight_ID, bias_D = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    made, _ = quantized(linear(weight_ID, bias_D), [{"x": np.full((4, 3), 10, np.float32)}])
    session = onnxruntime.InferenceSession(made.SerializeToString())
    (y_BD,) = session.run(None, {"x": np.array([[0, 10, 1000]], np.float32)})
    assert y_BD[0, 0] == 0
    np.testing.assert_allclose(y_BD[0, 1:], [10, 10], rtol=0.02)


def calibrated(student):
    return replace(student, calibration=student.random_inputs(100, seed=3).numpy())


@pytest.mark.parametrize(
    ("settings", "given", "operators"),
    [pytest.param(*one, id=f"{one[0]['type']}-{one[1].get('task', '')}") for one in STUDENTS],
)
def test_students_of_every_task_are_near_and_small(
    make_student, tmp_path, settings, given, operators
):
    student = calibrated(make_student(settings, **given))
    FORMATS["onnx"].write(student, tmp_path)
    FORMATS["int8"].write(student, tmp_path)
    first = (tmp_path / "model.int8.onnx").read_bytes()
    FORMATS["int8"].write(student, tmp_path)
    assert (tmp_path / "model.int8.onnx").read_bytes() == first, "the same bytes twice"
    assert read_quantization(tmp_path / "model.int8.onnx").operators == operators
    inputs = student.random_inputs(64, seed=9).numpy()
    exact, near = (FORMATS[name].open(student, tmp_path)(inputs) for name in ("onnx", "int8"))
    for one, other in zip(exact, near, strict=True):
        assert one.shape == other.shape
        assert 0 < np.abs(one - other).max() <= 0.25 * one.std() + 0.02


def test_the_file_says_what_the_float_one_says_and_how_it_was_made(make_student, tmp_path):
    student = calibrated(make_student({"type": "mlp", "depth": 1}))
    written, _ = write_formats(student, choose(["safetensors"], int8=True)[0], tmp_path)
    assert list(written) == ["safetensors", "onnx", "int8"]
    metas = {
        name: onnxruntime.InferenceSession(tmp_path / name).get_modelmeta().custom_metadata_map
        for name in ("model.onnx", "model.int8.onnx")
    }
    own = dict(metas["model.int8.onnx"])
    assert json.loads(own.pop("quantization"))["method"] == "static"
    assert own == metas["model.onnx"]
    time = written["int8"].latency_ms["1"]
    assert 0 < time.p50 <= time.p95 <= time.p99
    assert written["int8"].bytes < written["onnx"].bytes
    assert written["int8"].parity["logits"] > 0


class Recurrent(nn.Module):
    """A recurrent layer whose last state is answered from."""

    def __init__(self, kind, size=32):
        super().__init__()
        self.layer = kind(8, size, batch_first=True)
        self.head = nn.Linear(size, 3)

    def forward(self, images):
        outputs, _ = self.layer(images[:, 0])
        return self.head(outputs[:, -1])


def test_an_lstm_is_quantized_dynamically_and_a_gru_is_refused_by_name(make_student, tmp_path):
    for kind, folder in ((nn.LSTM, tmp_path / "lstm"), (nn.GRU, tmp_path / "gru")):
        folder.mkdir()
        torch.manual_seed(0)
        given = {"type": "factory", "path": "m:f"}
        student = calibrated(make_student(given, model=Recurrent(kind)))
        FORMATS["onnx"].write(student, folder)
        if kind is nn.GRU:
            with pytest.raises(ExportError, match=r"cannot quantize GRU .* without --int8"):
                FORMATS["int8"].write(student, folder)
            continue
        FORMATS["int8"].write(student, folder)
        how = read_quantization(folder / "model.int8.onnx")
        assert (how.method, how.samples) == ("dynamic", 0)
        assert how.operators["LSTM"] == 1
        inputs = student.random_inputs(16).numpy()
        exact, near = (FORMATS[name].open(student, folder)(inputs)[0] for name in ("onnx", "int8"))
        assert 0 < np.abs(exact - near).max() <= 0.05


def test_a_graph_without_weights_is_refused():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ExportError, match="has no weights to quantize"):
        quantized(model, [{"x": np.ones((1, 2), np.float32)}])


def test_it_is_written_only_when_it_is_asked_for(monkeypatch):
    assert "int8" not in choose(None)[0]
    assert choose(None, int8=True)[0] == ["safetensors", "onnx", "int8", "torch", "transformers"]
    assert choose(["int8"])[0] == ["onnx", "int8"]
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"--int8: needs .*pip install 'raykd\[export\]'"):
        choose(None, int8=True)


def test_chunks_that_are_shorter_are_padded_behind_their_end():
    asked = []

    def run(ids):
        asked.append(ids.copy())
        return [np.cumsum(ids, axis=1)[:, :, None].astype(np.float32)]

    found = GraphModel(run, length=5)(torch.tensor([[1, 2, 3]]))
    assert asked[0].tolist() == [[1, 2, 3, 0, 0]]
    assert found[:, :, 0].tolist() == [[1, 3, 6]]
