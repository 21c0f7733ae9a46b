"""Programs that torch wrote are teachers where the user trusts them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from raykd.config import load_config
from raykd.config.models import Pt2Model, TorchscriptModel
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.zoo.foreign import CONTENT
from raykd.pipeline.preparation import prepare

SPECS = {"torchscript": TorchscriptModel, "pt2": Pt2Model}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)).eval()


def write(kind, path, *, dynamic=True):
    example = torch.rand(3, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            # Saved in training mode, as forgetful people do.
            torch.jit.save(torch.jit.script(network().train()), path)
            return
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        torch.export.save(torch.export.export(network(), (example,), dynamic_shapes=shapes), path)


def build(kind, path, weights=None, **given):
    spec = SPECS[kind](path=str(path), **{"trusted": True, **given})
    return build_model(spec, input_shape=(1, 8, 8), classes=5, key="model", weights=weights)


@pytest.mark.parametrize("kind", SPECS)
def test_it_says_what_the_network_says_also_without_its_file(kind, tmp_path):
    path = tmp_path / "model"
    write(kind, path)
    model = build(kind, path).eval()
    for size in (1, 4):
        inputs = torch.rand(size, 1, 8, 8)
        torch.testing.assert_close(model(inputs), network()(inputs))
    weights = dict(model.state_dict())
    assert set(weights) == {CONTENT}
    path.unlink()
    assert torch.equal(build(kind, path, weights)(inputs), model(inputs))


@pytest.mark.parametrize("kind", SPECS)
def test_what_cannot_be(kind, tmp_path):
    path = tmp_path / "model"
    with pytest.raises(InputError, match=r"model\.path: no file at"):
        build(kind, path)
    path.write_bytes(b"PK no archive")
    with pytest.raises(InputError, match=r"model\.path: .* cannot be read .* damaged"):
        build(kind, path)
    write(kind, path)
    with pytest.raises(InputError, match=r"model\.trusted: code in the file would run"):
        build(kind, path, trusted=False)


def test_a_program_for_one_batch_size_says_so(tmp_path, tiny_recipe):
    write("pt2", tmp_path / "model", dynamic=False)
    teacher = {
        "name": "mine",
        "model": {"type": "pt2", "path": str(tmp_path / "model"), "trusted": True},
        "label_map": [0, 1, 2, 3, 4],
    }
    with pytest.raises(InputError, match=r"teachers\.mine\.model: the model does not run on"):
        prepare(load_config({**tiny_recipe, "teachers": [teacher]}))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"fit": {}}, "teachers.mine.fit"),
        ({"weights": "w.safetensors"}, "teachers.mine.weights"),
        ({"dtype": "bfloat16"}, "teachers.mine.dtype"),
    ],
)
@pytest.mark.parametrize("kind", ["torchscript", "pt2", "onnx"])
def test_a_finished_model_takes_nothing_more(tiny_recipe, kind, change, key):
    teacher = {"name": "mine", "model": f"{kind}:some.file", **change}
    with pytest.raises(InputError) as caught:
        load_config({**tiny_recipe, "teachers": [teacher]})
    assert key in [problem.key for problem in caught.value.problems]


def test_a_finished_model_is_no_student(tiny_recipe):
    tiny_recipe["student"]["model"] = "onnx:student.onnx"
    with pytest.raises(InputError, match=r"student\.model: found onnx, which cannot be trained"):
        load_config(tiny_recipe)
