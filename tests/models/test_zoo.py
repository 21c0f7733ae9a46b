"""Every model of the zoo: shapes, gradients, widths, determinism, row independence, taps, refusals."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from raykd.config.models import Model, Norm
from raykd.errors import InputError
from raykd.models import MODELS, build_model
from raykd.models.network import Network
from raykd.models.taps import describe, probe, probe_output
from raykd.models.weights import count_parameters, fingerprint
from raykd.models.zoo.parts import NORMS, group_norm, scaled

CONV = [
    {"type": kind, "norm": norm, "width": width, "depth": depth}
    for (kind, depths), norm, width in itertools.product(
        [("cnn", (1, 3)), ("resnet", (8, 14)), ("wrn", (10, 16))], ["group", "batch"], [0.125, 1.0]
    )
    for depth in depths
]
OTHER: list[dict[str, Any]] = [
    {"type": "mlp", "width": 0.125, "depth": 1},
    {"type": "mlp", "width": 2.0, "depth": 3, "dropout": 0.1},
    {"type": "vit", "width": 0.125, "depth": 1, "patch": 4},
    {"type": "vit", "width": 1.0, "depth": 2, "patch": 2, "dropout": 0.1},
]
SPECS = CONV + OTHER
SHAPES = [(1, 8, 8), (3, 12, 8), (1, 28, 28)]


def make(settings: dict[str, Any] | str, shape=(1, 8, 8), classes=10) -> nn.Module:
    spec = TypeAdapter(Model).validate_python(settings)
    torch.manual_seed(0)
    return build_model(spec, input_shape=shape, classes=classes, key="student.model")


def name(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


def refusal(settings: dict[str, Any], shape=(1, 8, 8)) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        make(settings, shape)
    (problem,) = caught.value.problems
    return problem.key, problem.message


def test_registry_keys_are_the_tags_of_the_union():
    union = get_args(get_args(Model)[0])
    assert set(MODELS) == {member.model_fields["type"].default for member in union}
    assert set(NORMS) == set(get_args(Norm))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("settings", SPECS, ids=name)
def test_output_shape_and_every_gradient(settings, shape):
    model = make(settings, shape, classes=7)
    out = model(torch.randn(4, *shape))
    assert out.shape == (4, 7)
    (out * torch.randn_like(out)).sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        # Norms of single channels cancel constant inputs, so only "some gradient" can be asked for.
        assert parameter.grad.abs().sum() > 0, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("settings", SPECS, ids=name)
def test_a_row_does_not_depend_on_its_neighbours(settings):
    model = make(settings).eval()
    batch, others = torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8)
    others[5] = batch[5]
    moved = batch.roll(3, dims=0)
    with torch.inference_mode():
        out = model(batch)
        assert torch.equal(out[5], model(others)[5])
        assert torch.equal(out.roll(3, dims=0), model(moved))


@pytest.mark.parametrize("settings", SPECS, ids=name)
def test_every_path_can_be_tapped(settings):
    model = make(settings)
    batch = {"x": torch.randn(2, 1, 8, 8)}
    paths = [path for path, _ in model.named_modules() if path]
    shapes = probe(Network(model), batch, paths, key="k")
    assert list(shapes) == paths
    assert shapes["head"] == (10,)
    rows = describe(model, batch)
    assert [row.path for row in rows] == ["", *paths]
    assert rows[0].parameters == count_parameters(model)
    assert {row.path: row.shape for row in rows if row.path} == shapes


@pytest.mark.parametrize("kind", ["mlp", "cnn", "resnet", "wrn", "vit"])
def test_width_scales_parameters(kind):
    depth = {"resnet": {"depth": 8}, "wrn": {"depth": 10}}.get(kind, {})
    counts = [
        count_parameters(make({"type": kind, "width": width, **depth}))
        for width in (0.125, 0.25, 0.5, 1.0, 2.0)
    ]
    assert counts == sorted(set(counts))
    if kind != "mlp":
        assert 3 < counts[-1] / counts[-2] < 4.1


@pytest.mark.parametrize("kind", ["mlp", "cnn", "resnet", "wrn", "vit"])
def test_short_form_default_and_initial_weights_follow_the_seed(kind):
    first, second = make(kind), make(kind)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())
    torch.manual_seed(1)
    spec = TypeAdapter(Model).validate_python(kind)
    third = build_model(spec, input_shape=(1, 8, 8), classes=10, key="k")
    assert fingerprint(third.state_dict()) != fingerprint(first.state_dict())


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"type": "mlp", "depth": 2}, {"flatten": (64,), "blocks.1": (64,), "head": (10,)}),
        (
            {"type": "cnn", "depth": 4},
            {
                "blocks.0": (32, 8, 8),
                "blocks.2": (128, 2, 2),
                "blocks.3": (256, 2, 2),
                "pool": (256,),
            },
        ),
        (
            {"type": "resnet", "depth": 8, "width": 2.0},
            {"stem": (32, 8, 8), "layer1": (32, 8, 8), "layer2": (64, 4, 4), "layer3": (128, 2, 2)},
        ),
        (
            {"type": "wrn", "depth": 10, "width": 2.0},
            {"stem": (16, 8, 8), "layer1": (32, 8, 8), "layer3": (128, 2, 2), "pool": (128,)},
        ),
        (
            {"type": "vit", "patch": 2},
            {"patch": (64, 4, 4), "blocks.0": (17, 64), "norm": (17, 64), "pool": (64,)},
        ),
    ],
    ids=lambda value: value.get("type", ""),
)
def test_paths_that_recipes_rely_on(settings, paths):
    batch = {"x": torch.randn(2, 1, 8, 8)}
    assert probe(make(settings), batch, paths, key="k") == paths
    assert probe_output(make(settings), batch, key="k") == (10,)


def test_mlp_takes_vectors():
    assert make({"type": "mlp"}, (13,), classes=3)(torch.randn(5, 13)).shape == (5, 3)


def test_channels_are_multiples_of_four_and_groups_divide_them():
    assert [scaled(16, width) for width in (0.01, 0.125, 0.25, 0.5, 0.7, 1, 2)] == [
        4, 4, 4, 8, 12, 16, 32,
    ]  # fmt: skip
    groups = {channels: group_norm(channels).num_groups for channels in (4, 8, 12, 20, 28, 44, 64)}
    assert groups == {4: 4, 8: 8, 12: 6, 20: 5, 28: 7, 44: 4, 64: 8}


def test_depth_that_does_not_fit_names_the_nearest():
    key, message = refusal({"type": "resnet", "depth": 9})
    assert key == "student.model.depth"
    assert "is 9" in message
    assert "6n + 2" in message
    assert "use 8 or 14" in message
    assert "use 10 or 16" in refusal({"type": "wrn", "depth": 3})[1]
    assert "use 20 or 26" in refusal({"type": "resnet", "depth": 21})[1]


def test_patch_that_does_not_divide_lists_those_that_do():
    key, message = refusal({"type": "vit", "patch": 5}, (1, 8, 12))
    assert key == "student.model.patch"
    assert "8×12" in message
    assert "1, 2, 4" in message


@pytest.mark.parametrize("kind", ["cnn", "resnet", "wrn", "vit"])
def test_inputs_that_are_no_images_are_refused(kind):
    key, message = refusal({"type": kind}, (64,))
    assert key == "student.model"
    assert "[64]" in message
    assert "mlp" in message
    assert "4×9" in refusal({"type": kind}, (1, 4, 9))[1]


def test_factory_gets_its_kwargs_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_zoo_models.py").write_text(
        "from torch import nn\n"
        "def make(outputs, bias=True):\n    return nn.Linear(4, outputs, bias=bias)\n"
        "def number():\n    return 3\n"
        "def broken():\n    raise TypeError('inside')\n"
    )
    model = make({"type": "factory", "path": "my_zoo_models:make", "kwargs": {"outputs": 2}}, (4,))
    assert isinstance(model, nn.Linear)
    assert model.out_features == 2
    key, message = refusal({"type": "factory", "path": "my_zoo_models:make", "kwargs": {"out": 2}})
    assert key == "student.model.kwargs"
    assert "outputs" in message
    key, message = refusal({"type": "factory", "path": "my_zoo_models:number"})
    assert key == "student.model.path"
    assert "int" in message
    with pytest.raises(TypeError, match="inside"):
        make("my_zoo_models:broken")
    assert refusal({"type": "factory", "path": "my_zoo_models:none"})[0] == "student.model.path"
