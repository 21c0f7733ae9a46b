"""Freezing parts, modes of frozen parts, and learning rates by part."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raykd.config.models import ResnetModel, VitModel
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.frozen import freeze, parameter_groups, set_training
from raykd.models.network import Network

KEY = "train.freeze"


def resnet() -> nn.Module:
    return build_model(
        ResnetModel(width=0.25, depth=14, norm="batch"), input_shape=(1, 8, 8), classes=10, key="k"
    )


def names_of(model: nn.Module, group) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in wanted}


def test_frozen_parts_do_not_move():
    network = Network(resnet())
    frozen = ["stem", "layer1", "layer2.0.conv1", "head.bias"]
    freeze(network, frozen, key=KEY)
    set_training(network, frozen)
    model = network.model
    assert model.head.weight.requires_grad
    assert not model.head.bias.requires_grad
    assert not model.stem.norm.training
    assert not model.layer1.training
    assert model.layer2.training
    assert model.layer3[0].norm1.training
    before = copy.deepcopy(model.state_dict())
    groups = parameter_groups(network, 0.5, {}, 0.1, key="k")
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        network({"x": torch.randn(8, 1, 8, 8)}).square().sum().backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        is_frozen = name.startswith(("stem.", "layer1.", "layer2.0.conv1.", "head.bias"))
        assert torch.equal(tensor, before[name]) == is_frozen, name


def test_modes_come_back():
    network = Network(resnet())
    network.eval()
    set_training(network)
    assert all(module.training for module in network.modules())


def test_prefixes_end_at_dots():
    model = nn.Module()
    model.layer1, model.layer10 = nn.Linear(2, 2), nn.Linear(2, 2)
    freeze(model, ["layer1"], key=KEY)
    assert not model.layer1.weight.requires_grad
    assert model.layer10.weight.requires_grad


def test_unknown_prefixes_are_all_named_and_nothing_is_frozen():
    model = resnet()
    with pytest.raises(InputError) as caught:
        freeze(model, ["layer1", "layr2", "stemm"], key=KEY)
    assert [problem.key for problem in caught.value.problems] == [KEY, KEY]
    assert "'layr2'; nearest: layer2" in str(caught.value)
    assert "'stemm'; nearest: stem" in str(caught.value)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match="haed"):
        parameter_groups(model, 0.1, {"haed": 2.0}, 0.0, key="train.optimizer.factors")


def test_the_longest_prefix_gives_the_factor():
    model = resnet()
    freeze(model, ["stem"], key=KEY)
    factors = {"layer2": 0.1, "layer2.0": 0.5, "layer2.0.conv1": 0.25, "head": 10.0}
    groups = parameter_groups(model, 0.2, factors, 0.01, key="k")
    rates = {name: group["lr"] for group in groups for name in names_of(model, group)}
    assert rates["layer1.0.conv1.weight"] == 0.2
    assert rates["layer2.1.conv1.weight"] == pytest.approx(0.02)
    assert rates["layer2.0.conv2.weight"] == pytest.approx(0.1)
    assert rates["layer2.0.conv1.weight"] == pytest.approx(0.05)
    assert rates["head.bias"] == pytest.approx(2.0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(rates) == trained
    assert sum(len(group["params"]) for group in groups) == len(trained)


def test_norms_and_biases_do_not_decay():
    vit = build_model(
        VitModel(width=0.25, depth=2, patch=2, dropout=0.0),
        input_shape=(1, 8, 8),
        classes=10,
        key="k",
    )
    for model in (resnet(), vit):
        for group in parameter_groups(model, 0.1, {"head": 2.0}, 0.3, key="k"):
            decays = {parameter.dim() > 1 for parameter in group["params"]}
            assert decays == {group["weight_decay"] == 0.3}
            assert group["weight_decay"] in (0.0, 0.3)


def test_everything_frozen_leaves_no_group():
    model = nn.Sequential(nn.Linear(2, 2))
    freeze(model, ["0"], key=KEY)
    assert parameter_groups(model, 0.1, {}, 0.0, key="k") == []
