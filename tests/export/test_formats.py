"""Every format of every kind of model says what the student says, in any batch, and tells no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from raykd.config.models import (
    BagModel,
    CnnModel,
    MlpModel,
    ResnetModel,
    TextCnnModel,
    TextTransformerModel,
    VitModel,
    WrnModel,
)
from raykd.data.texts import encode_texts
from raykd.errors import ExportError, InputError
from raykd.export import FORMATS
from raykd.export.onnx_format import metadata
from raykd.export.parity import check_parity
from raykd.export.writing import choose, write_formats
from raykd.models.preprocess import Preprocessing
from raykd.models.tokens import HashedTokens
from raykd.models.weights import load_weights, save_weights

needs_onnx = pytest.mark.skipif("onnx" in choose(None)[1], reason="raykd[export] is not installed")
FOREIGN = Preprocessing(size=12, channels=3, scale=2.0, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
CASES = [
    ({"type": "mlp", "depth": 2}, {"shape": (7,), "preprocessing": Preprocessing()}),
    ({"type": "cnn", "width": 0.25}, {"preprocessing": Preprocessing(crop=7, size=16)}),
    ({"type": "cnn", "width": 0.25, "norm": "batch"}, {"shape": (3, 12, 8)}),
    ({"type": "resnet", "width": 0.25, "depth": 8}, {"shape": (1, 28, 28)}),
    ({"type": "wrn", "width": 0.25, "depth": 10, "norm": "batch"}, {"preprocessing": FOREIGN}),
    ({"type": "vit", "width": 0.5, "depth": 1}, {}),
]
VECTORS = {"shape": (7,), "preprocessing": Preprocessing()}
COLOUR = {"shape": (3, 16, 8), "preprocessing": Preprocessing()}
ZOO = [
    ({"type": "mlp", "depth": 1, "width": 0.25}, VECTORS),
    ({"type": "mlp", "depth": 3, "width": 2.0, "dropout": 0.5}, VECTORS),
    ({"type": "mlp", "depth": 1, "dropout": 0.5}, {}),
    ({"type": "mlp", "depth": 3, "width": 0.34}, COLOUR),
    *[
        ({"type": "cnn", "norm": norm, "depth": depth, "width": width, "dropout": 0.5}, given)
        for norm in ("group", "batch")
        for depth, width, given in ((1, 0.34, {}), (3, 0.5, COLOUR), (5, 0.125, {}))
    ],
    *[
        ({"type": "resnet", "norm": norm, "depth": depth, "width": width}, given)
        for norm in ("group", "batch")
        for depth, width, given in ((8, 1.0, {}), (14, 0.34, COLOUR))
    ],
    *[
        ({"type": "wrn", "norm": norm, "depth": depth, "width": width, "dropout": 0.5}, given)
        for norm in ("group", "batch")
        for depth, width, given in ((10, 1.0, {}), (16, 0.5, COLOUR))
    ],
    *[
        ({"type": "vit", "depth": depth, "width": width, "patch": patch, "dropout": 0.5}, given)
        for depth, width, patch, given in (
            (1, 0.0625, 8, {}),
            (2, 0.34, 2, {}),
            (3, 1.0, 4, COLOUR),
        )
    ],
]


def named(case):
    """`cnn-batch-depth 3-3×16×8`, for the name of a test."""
    settings, given = case
    kind, rest = settings["type"], [settings.get("norm"), f"depth {settings['depth']}"]
    shape = "×".join(map(str, given.get("shape", (1, 8, 8))))
    return "-".join([kind, *filter(None, rest), shape])


def is_deep(case):
    """Takes seconds to trace, and has no operator that one of `CASES` or a smaller one lacks."""
    kind, norm = case[0]["type"], case[0].get("norm")
    if (kind, norm) in (("resnet", "group"), ("wrn", "batch"), ("vit", None)):
        return True
    return case[0]["depth"] >= {"cnn": 5, "resnet": 14, "wrn": 16}.get(kind, 99)


HASHED = Preprocessing(tokens=HashedTokens("hashed", size=60, length=9, ngrams=1, lower=True))
OF_TEXTS = [
    {"type": "bag", "width": 0.25},
    {"type": "text_cnn", "width": 0.125, "depth": 2},
    {"type": "text_transformer", "width": 0.25, "depth": 1},
]


def softmax(values):
    return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(
    ("name", "settings", "given"),
    [
        *(
            pytest.param("onnx", *case, id=f"onnx-{case[0]['type']}", marks=needs_onnx)
            for case in CASES
        ),
        *(pytest.param("torch", *case, id=f"torch-{case[0]['type']}") for case in CASES[2::2]),
        pytest.param("safetensors", *CASES[2], id="safetensors"),
    ],
)
def test_what_is_written_says_the_same_in_any_batch(make_student, tmp_path, settings, given, name):
    student = make_student(settings, **given)
    FORMATS[name].write(student, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FORMATS[name].files)
    run = FORMATS[name].open(student, tmp_path)
    for size in (1, 2, 13, 64):
        inputs = student.random_inputs(size, seed=9 + size)
        with torch.no_grad():
            wanted = student.network({"pixels": inputs}).numpy()
        logits, probabilities = run(inputs.numpy())
        assert np.abs(logits - wanted).max() <= 1e-4
        np.testing.assert_allclose(probabilities, softmax(wanted.astype(float)), atol=1e-5)
    assert set(check_parity(student, run, name)) == {"logits", "probabilities"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(
            pytest.param("onnx", one, id=f"onnx-{one['type']}", marks=needs_onnx)
            for one in OF_TEXTS
        ),
        *(pytest.param(name, OF_TEXTS[0], id=name) for name in ("torch", "safetensors")),
    ],
)
def test_a_student_of_texts_takes_token_ids(make_student, tmp_path, settings, name):
    student = make_student(settings, shape=(64,), preprocessing=HASHED)
    FORMATS[name].write(student, tmp_path)
    run = FORMATS[name].open(student, tmp_path)
    texts = torch.from_numpy(encode_texts(["Some words", "", "words " * 9, "a b c d"], 64))
    ids = HASHED(texts)
    assert ids.dtype == torch.int64
    with torch.no_grad():
        wanted = student.network({"text": texts}).numpy()
    for size in (1, 4, 64):
        logits, _ = run(ids.repeat(16, 1)[:size].numpy())
        assert np.abs(logits - np.tile(wanted, (16, 1))[:size]).max() <= 1e-5
    assert set(check_parity(student, run, name)) == {"logits", "probabilities"}
    sample = student.random_inputs(50)
    assert (sample.shape, sample.dtype) == ((50, 9), torch.int64)
    assert sample.min() >= 0
    assert sample.max() <= 60
    if name == "onnx":
        told = metadata(student)
        assert json.loads(told["input"]) == {
            "name": "tokens",
            "shape": [9],
            "dtype": "int64",
            "bytes": False,
            "columns": [],
        }
        said = json.loads(told["preprocessing"])
        assert said["inside"] is False
        assert said["tokens"] == {
            "type": "hashed", "size": 60, "length": 9, "ngrams": 1, "lower": True,
        }  # fmt: skip
        assert "XXH3-64 of the UTF-8 bytes modulo 60; the first 9 ids" in said["meaning"]


@needs_onnx
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        pytest.param(*case, id=named(case), marks=[pytest.mark.soak] if is_deep(case) else [])
        for case in ZOO
    ],
)
def test_every_model_of_the_zoo_says_the_same_in_onnx(make_student, tmp_path, settings, given):
    student = make_student(settings, **given)
    FORMATS["onnx"].write(student, tmp_path)
    run = FORMATS["onnx"].open(student, tmp_path)
    for size in (1, 3, 64):
        inputs = student.random_inputs(size, seed=size)
        with torch.no_grad():
            wanted = student.network({"pixels": inputs}).numpy()
        logits, _ = run(inputs.numpy())
        assert logits.shape == (size, 3)
        assert wanted.std() > 1e-3, "what says the same of everything proves nothing"
        assert np.abs(logits - wanted).max() <= 1e-4


def test_the_zoo_of_these_tests_is_whole():
    """Every architecture of raykd's own, with all that its settings can say in words."""
    tried = {(one["type"], one.get("norm")) for one in [*(case[0] for case in ZOO), *OF_TEXTS]}
    own = (MlpModel, CnnModel, ResnetModel, WrnModel, VitModel,
           BagModel, TextCnnModel, TextTransformerModel)  # fmt: skip
    norms = [get_args(kind.model_fields["norm"].annotation) if "norm" in kind.model_fields else (None,)
             for kind in own]  # fmt: skip
    assert tried == {
        (kind().type, norm) for kind, some in zip(own, norms, strict=True) for norm in some
    }


@pytest.mark.parametrize("name", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_the_outputs_of_the_other_tasks(make_student, tmp_path, name):
    marks = make_student({"type": "mlp"}, task="multilabel")
    inputs = marks.random_inputs(5).numpy()
    FORMATS[name].write(marks, tmp_path)
    logits, probabilities = FORMATS[name].open(marks, tmp_path)(inputs)
    np.testing.assert_allclose(probabilities, sigmoid(logits.astype(float)), atol=1e-6)
    values = make_student({"type": "mlp"}, task="regression", outputs=1)
    FORMATS[name].write(values, tmp_path)
    (found,) = FORMATS[name].open(values, tmp_path)(inputs)
    with torch.no_grad():
        prepared = values.network.preprocessing(torch.from_numpy(inputs))
        standardised = values.network.model(prepared).numpy()
    np.testing.assert_allclose(found, standardised * 77 + 150, rtol=1e-5)


def test_inputs_are_like_the_data(make_student):
    student = make_student({"type": "mlp"}, preprocessing=FOREIGN, shape=(3, 30, 30))
    shown = student.network.preprocessing(student.random_inputs(64))
    assert shown.mean(dim=(0, 2, 3)).abs().max() < 0.05
    grey = make_student({"type": "mlp"}, shape=(1, 30, 30)).random_inputs(64)
    assert float(grey.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(grey.std()) == pytest.approx(0.4, abs=0.02)


@needs_onnx
def test_an_onnx_file_says_what_it_is(make_student, tmp_path):
    import onnxruntime

    FORMATS["onnx"].write(make_student({"type": "mlp"}), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("pixels", "tensor(float)", ["batch", 1, 8, 8])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("logits", ["batch", 3]),
        ("probabilities", ["batch", 3]),
    ]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["c0", "c1", "c2"]
    assert (said["task"], said["raykd_version"]) == ("classification", "0.1.0")
    assert json.loads(said["input"]) == {
        "name": "pixels",
        "shape": [1, 8, 8],
        "dtype": "float32",
        "bytes": False,
        "columns": [],
    }
    assert json.loads(said["preprocessing"])["mean"] == [0.3]
    assert json.loads(said["teachers"]) == ["wide", "conv"]


def test_no_path_or_source_line_leaves_the_machine(make_student, tmp_path):
    student = make_student({"type": "mlp", "depth": 1})
    names = [name for name in choose(None)[0] if FORMATS[name].suits(student.about)]
    write_formats(student, names, tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for path in tmp_path.iterdir():
        parts[path.name] = path.read_bytes()
    found = {name for name, text in parts.items() for word in (b".py", b"stack_trace", b"self.")
             if word in text}  # fmt: skip
    assert found == set()
    assert json.loads(parts["archive/extra/raykd.json"])["classes"] == ["c0", "c1", "c2"]


def test_torch_opens_its_file_without_raykd(make_student, tmp_path):
    student = make_student({"type": "cnn", "width": 0.25, "depth": 1})
    FORMATS["torch"].write(student, tmp_path)
    inputs = student.random_inputs(3)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys; sys.modules['raykd'] = None\n"
        "import torch\n"
        "student = torch.export.load('model.pt2').module()\n"
        "print(student(torch.load('inputs.pt'))[0].tolist())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    with torch.no_grad():
        wanted = student.network({"pixels": inputs})
    torch.testing.assert_close(torch.tensor(json.loads(ended.stdout)), wanted)


class Fixed(nn.Module):
    """Takes the batch of its tracing for the only one."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, images):
        return self.head(images.reshape(len(images), 64))


def test_a_model_that_cannot_be_traced_is_told_how_to_mend_it(make_student, tmp_path):
    student = make_student({"type": "factory", "path": "m:f"}, model=Fixed())
    with pytest.raises(ExportError, match=r"x\.shape\[0\] instead of len\(x\)"):
        FORMATS["torch"].write(student, tmp_path)


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        (lambda found: [found[0] + 3e-4, found[1]], r"logits, batch of 1: differs .* 0\.0003"),
        (lambda found: [found[0], found[1] * np.nan], "probabilities, .*NaN"),
        (lambda found: [found[0][:, :2], found[1]], "shape"),
    ],
)
def test_what_says_something_else_is_an_error(make_student, tmp_path, bend, why):
    student = make_student({"type": "mlp"})
    FORMATS["safetensors"].write(student, tmp_path)
    run = FORMATS["safetensors"].open(student, tmp_path)
    with pytest.raises(ExportError, match=why):
        check_parity(student, lambda inputs: bend(run(inputs)), "bent")


def test_parity_of_values_is_in_deviations_of_the_target(make_student, tmp_path):
    student = make_student({"type": "mlp"}, task="regression", outputs=1)
    FORMATS["safetensors"].write(student, tmp_path)
    run = FORMATS["safetensors"].open(student, tmp_path)
    found = check_parity(student, lambda inputs: [run(inputs)[0] + 5e-3], "near")
    assert found["values"] == pytest.approx(5e-3, rel=0.01)
    with pytest.raises(ExportError, match=r"allowed are 0\.0077"):
        check_parity(student, lambda inputs: [run(inputs)[0] + 3e-2], "far")


def test_the_weights_that_are_written_are_what_is_held_against_torch(make_student, tmp_path):
    student = make_student({"type": "mlp"})
    FORMATS["safetensors"].write(student, tmp_path)
    state = load_weights(tmp_path / "model.safetensors", key="k")
    state["head.bias"] += 1
    save_weights(state, tmp_path / "model.safetensors")
    run = FORMATS["safetensors"].open(student, tmp_path)
    with pytest.raises(ExportError, match="logits"):
        check_parity(student, run, "safetensors")


def test_formats_are_chosen_by_name_or_by_what_is_installed(monkeypatch):
    assert choose(["torch", "safetensors", "torch"]) == (["safetensors", "torch"], {})
    with pytest.raises(InputError, match="nearest: onnx"):
        choose(["onx"])
    with pytest.raises(InputError, match="names none of"):
        choose([])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    names, left_out = choose(None)
    assert names == ["safetensors", "torch", "transformers"]
    assert "onnxscript" in left_out["onnx"]
    with pytest.raises(InputError, match=r"onnx needs .*pip install 'raykd\[export\]'"):
        choose(["onnx"])


def test_a_row_has_size_time_and_parity(make_student, tmp_path):
    written, conditions = write_formats(make_student({"type": "mlp"}), ["safetensors"], tmp_path)
    (row,) = written.values()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert row.bytes == sum(sizes)
    assert set(row.latency_ms) == {"1", "64"}
    assert all(0 < time.p50 <= time.p95 and time.calls >= 1 for time in row.latency_ms.values())
    assert row.parity == {"logits": 0.0, "probabilities": 0.0}
    assert conditions.cpus >= 1
