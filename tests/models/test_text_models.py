"""The zoo's models of texts: shapes, gradients, rows and padding that have no say, taps, refusals."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from raykd.config.models import Model
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.shapes import TokenShape
from raykd.models.taps import describe, probe
from raykd.models.weights import count_parameters

SPECS = [
    {"type": "bag", "width": 0.25, "depth": 0},
    {"type": "bag", "width": 0.5, "depth": 2, "dropout": 0.1},
    {"type": "text_cnn", "width": 0.25},
    {"type": "text_cnn", "width": 0.125, "depth": 3, "dropout": 0.1},
    {"type": "text_transformer", "width": 0.25, "depth": 1},
    {"type": "text_transformer", "width": 0.5, "depth": 2, "dropout": 0.1},
]
VOCABULARY = 50


def make(settings, length=12, shape=None):
    spec = TypeAdapter(Model).validate_python(settings)
    torch.manual_seed(0)
    shape = shape or TokenShape(length, VOCABULARY, "hashed")
    return build_model(spec, input_shape=shape, classes=5, key="student.model")


def batch(size=6, length=12):
    ids = torch.randint(1, VOCABULARY, (size, length), generator=torch.Generator().manual_seed(1))
    used = torch.arange(size) % length + 1
    return torch.where(torch.arange(length) < used[:, None], ids, 0)


@pytest.mark.parametrize("settings", SPECS, ids=str)
def test_output_shape_and_every_gradient(settings):
    model = make(settings)
    out = model(batch())
    assert out.shape == (6, 5)
    (out * torch.randn_like(out)).sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path
        assert parameter.grad.isfinite().all(), path
    assert not model.embed.table.weight.grad[0].any(), "padding learns nothing"


@pytest.mark.parametrize("settings", SPECS, ids=str)
@torch.no_grad()
def test_padding_has_no_influence(settings):
    model = make(settings).eval()
    ids = batch()
    before = model(ids)
    model.embed.table.weight[0] = 100.0
    assert torch.equal(model(ids), before)
    if "position" in dict(model.named_parameters()):
        longer = make(settings, length=40).eval()
        position = model.position
        longer.load_state_dict({**model.state_dict(), "position": longer.position})
        longer.position[: len(position)] = position
    else:
        longer = model
    padded = torch.nn.functional.pad(ids, (0, 28))
    torch.testing.assert_close(longer(padded), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", SPECS, ids=str)
@torch.inference_mode()
def test_a_text_without_tokens_and_neighbours(settings):
    model = make(settings).eval()
    ids = batch()
    ids[2] = 0
    out = model(ids)
    assert out.isfinite().all()
    others = ids.roll(1, dims=0)
    others[3] = ids[3]
    assert torch.equal(model(others)[3], out[3])
    assert torch.equal(model(ids.roll(2, dims=0)), out.roll(2, dims=0))


@pytest.mark.parametrize("settings", SPECS, ids=str)
def test_every_path_can_be_tapped(settings):
    model = make(settings)
    ids = {"tokens": batch()}
    paths = [path for path, _ in model.named_modules() if path]
    shapes = probe(Network(model), ids, paths, key="k")
    assert list(shapes) == paths
    assert shapes["head"] == (5,)
    assert describe(model, ids)[0].parameters == count_parameters(model)


def test_paths_that_recipes_rely_on():
    ids = {"tokens": batch()}
    for settings, shapes in [
        ({"type": "bag"}, {"embed": (12, 64), "pool": (64,), "blocks.0": (64,)}),
        ({"type": "text_cnn"}, {"embed": (12, 64), "windows.window4": (64,), "windows": (192,)}),
        ({"type": "text_transformer"}, {"blocks.1": (12, 64), "norm": (12, 64), "pool": (64,)}),
    ]:
        assert probe(make(settings), ids, shapes, key="k") == shapes


@torch.no_grad()
def test_what_each_model_looks_at():
    ids = torch.tensor([[3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0]])
    mixed = torch.tensor([[8, 3, 6, 5, 4, 7, 0, 0, 0, 0, 0, 0]])
    order = {
        name: (make({"type": name}).eval()(ids) - make({"type": name}).eval()(mixed)).abs().max()
        for name in ("bag", "text_cnn", "text_transformer")
    }
    assert order["bag"] < 1e-6
    assert min(order["text_cnn"], order["text_transformer"]) > 1e-3
    bag = make({"type": "bag", "depth": 0}).eval()
    mean = bag.embed.table.weight[torch.tensor([3, 4, 5, 6, 7, 8])].mean(dim=0)
    torch.testing.assert_close(bag(ids)[0], bag.head(mean))
    cnn = make({"type": "text_cnn", "width": 0.125}).eval()
    window = cnn.windows.window3
    columns = cnn.embed(ids)[0, :6]
    padded = torch.nn.functional.pad(columns, (0, 0, 1, 1))
    weight = window.conv.weight.permute(2, 1, 0)
    filtered = torch.stack([sum(padded[at + k] @ weight[k] for k in range(3)) for at in range(6)])
    wanted = (filtered + window.conv.bias).clamp(min=0).amax(dim=0)
    torch.testing.assert_close(window(cnn.embed(ids), ids != 0)[0], wanted)


def test_texts_and_numbers_are_not_mixed_up():
    for name in ("bag", "text_cnn", "text_transformer"):
        with pytest.raises(
            InputError, match=rf"student\.model: {name} needs texts; a sample here is \[1, 8, 8\]"
        ):
            make({"type": name}, shape=(1, 8, 8))
    for name in ("mlp", "cnn", "resnet", "vit", "wrn", "timm:resnet10t", "torchvision:resnet18"):
        kind = name.partition(":")[0]
        with pytest.raises(
            InputError,
            match=rf"student\.model: {kind} needs numbers; the samples are texts: use bag",
        ):
            make(name)
    with pytest.raises(InputError, match=r"needs its own tokenizer, found hashed; set preprocess"):
        make({"type": "hf", "name": "x", "task": "sequence_classification"})
