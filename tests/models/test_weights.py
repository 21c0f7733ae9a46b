"""Weights: round trips, damaged and malicious files, strict application, fingerprints."""

from __future__ import annotations

import argparse
import pickle
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from raykd.config.models import ResnetModel
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import (
    apply_weights,
    count_parameters,
    fingerprint,
    load_weights,
    matching,
    save_weights,
    size_bytes,
)

KEY = "teachers.wide.weights"


def model(classes=10) -> nn.Module:
    return build_model(
        ResnetModel(width=0.25, depth=8, norm="batch"),
        input_shape=(1, 8, 8),
        classes=classes,
        key="k",
    )


def refusal(path, call=load_weights) -> str:
    with pytest.raises(InputError) as caught:
        call(path, key=KEY)
    (problem,) = caught.value.problems
    assert problem.key == KEY
    assert str(path) in problem.message
    return problem.message


def same(first, second) -> bool:
    return fingerprint(first) == fingerprint(second)


def test_safetensors_round_trip_through_a_network(tmp_path):
    network, file = Network(model()), tmp_path / "deep" / "m.safetensors"
    save_weights(network, file)
    state = load_weights(file, key=KEY)
    assert same(state, network.model.state_dict())
    assert list(file.parent.iterdir()) == [file]
    other = Network(model())
    assert not same(other.model.state_dict(), state)
    apply_weights(other, state, key=KEY)
    assert same(other.model.state_dict(), state)


def test_shared_and_strided_tensors_are_saved(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base, "t": base.t(), "row": base[1]}
    save_weights(state, tmp_path / "s.safetensors")
    assert same(load_weights(tmp_path / "s.safetensors", key=KEY), state)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path):
    file = tmp_path / "m.safetensors"
    save_weights({"a": torch.ones(2)}, file)
    before = file.read_bytes()
    with pytest.raises(AttributeError):
        save_weights({"a": "no tensor"}, file)
    with pytest.raises(Exception, match=r"(?i)sparse|layout|contiguous|tensor"):
        save_weights({"a": torch.ones(2, 2).to_sparse()}, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torch_files_with_wrappers_and_prefixes(tmp_path, wrap, prefix, suffix):
    state = model().state_dict()
    content = {prefix + name: tensor for name, tensor in state.items()}
    file = tmp_path / f"m{suffix}"
    torch.save({wrap: content, "epoch": 3} if wrap else content, file)
    assert same(load_weights(str(file), key=KEY), state)


def test_a_module_called_module_keeps_its_name_when_others_do_not_share_it(tmp_path):
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    save_weights(state, tmp_path / "m.safetensors")
    assert set(load_weights(tmp_path / "m.safetensors", key=KEY)) == set(state)


class Marker:
    """Creates a file when it is unpickled by an unpickler that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, legacy):
    marker, file = tmp_path / "owned", tmp_path / "evil.pt"
    torch.save(
        {"weight": torch.ones(2), "extra": Marker(marker)},
        file,
        _use_new_zipfile_serialization=not legacy,
    )
    message = refusal(file)
    assert "run code" in message
    assert "state_dict()" in message
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the file must be dangerous for this test to mean something"


def test_a_bare_malicious_pickle_is_refused_and_not_run(tmp_path):
    marker, file = tmp_path / "owned", tmp_path / "evil.bin"
    file.write_bytes(pickle.dumps(Marker(marker)))
    refusal(file)
    file.rename(tmp_path / "evil.safetensors")
    refusal(tmp_path / "evil.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    file = tmp_path / f"m{suffix}"
    if suffix == ".pt":
        torch.save(model().state_dict(), file)
    else:
        save_weights(model(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    assert "damaged" in refusal(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "content",
    [b"\0" * 300, b"hello world" * 40, bytes(range(256)) * 4, b"version https://git-lfs\n"],
)
def test_files_of_something_else_are_refused(tmp_path, suffix, content):
    file = tmp_path / f"m{suffix}"
    file.write_bytes(content)
    assert "damaged" in refusal(file)


def test_missing_files_folders_and_kinds(tmp_path):
    assert "check the path" in refusal(tmp_path / "no.safetensors")
    (tmp_path / "folder.pt").mkdir()
    assert "check the path" in refusal(tmp_path / "folder.pt")
    assert "nothing is downloaded" in refusal("https://example.org/m.safetensors")
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert ".safetensors, .pt" in refusal(tmp_path / "m.onnx")


def test_contents_that_are_no_state_dict(tmp_path):
    file = tmp_path / "m.pt"
    for content, found in (
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        ({}, "empty"),
        ({"epoch": 3, "lr": 0.1}, "'epoch': int"),
        ({"weights": {"weight": torch.ones(2)}}, "'weights': dict"),
    ):
        torch.save(content, file)
        assert found in refusal(file)
    torch.save(nn.Linear(2, 2), file)
    message = refusal(file)
    assert "torch.nn.modules.linear.Linear" in message, "torch names what it refuses"
    assert "state_dict()" in message


class Plain:
    """A class of somebody's training script."""


BESIDE = {
    "args": argparse.Namespace(lr=0.1, out=Path("runs"), at=datetime(2026, 1, 2)),
    "best": np.float64(0.5),
    "epoch": np.int64(3),
    "history": np.arange(3.0),
    "names": np.array(["a", "b"]),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model", "net"])
def test_numbers_and_settings_lie_beside_the_weights(tmp_path, wrap, legacy):
    """At 7d0af11: "is damaged, or holds more than tensors"; `net` and `model_state_dict` were unknown."""
    state, file = model().state_dict(), tmp_path / "m.ckpt"
    torch.save({wrap: state, **BESIDE}, file, _use_new_zipfile_serialization=not legacy)
    assert same(load_weights(file, key=KEY), state)
    torch.save({wrap: state, "extra": Plain()}, file, _use_new_zipfile_serialization=not legacy)
    assert f"{Plain.__module__}.Plain" in refusal(file)


def test_a_checkpoint_of_lightning_is_found_behind_its_prefix(tmp_path):
    target, state = model(), model().state_dict()
    content = {f"model.{name}": tensor for name, tensor in state.items()}
    content["criterion.weight"] = torch.ones(10)
    torch.save(
        {"state_dict": content, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "m.ckpt"
    )
    loaded = load_weights(tmp_path / "m.ckpt", key=KEY)
    assert same(matching(target, loaded, key=KEY), state)
    assert same(load_weights(tmp_path / "m.ckpt", key=KEY, prefix="model."), state)
    own = nn.ModuleDict({"model": model()})
    assert same(matching(own, own.state_dict(), key=KEY), own.state_dict()), "names that fit stay"
    both = {**content, **{f"teacher.{name}": tensor for name, tensor in state.items()}}
    with pytest.raises(
        InputError, match=r"teachers.wide.prefix: .*'model.', 'teacher.'; set prefix"
    ):
        matching(target, both, key=KEY)
    with pytest.raises(
        InputError, match=r"teachers.wide.prefix: found 'net.'; .* model., criterion."
    ):
        load_weights(tmp_path / "m.ckpt", key=KEY, prefix="net.")


def test_weights_that_do_not_fit_are_named_and_nothing_is_copied():
    target = model()
    before = fingerprint(target.state_dict())
    state = dict(model(classes=7).state_dict())
    state["layer9.0.conv1.weight"] = state.pop("layer2.0.conv1.weight")
    with pytest.raises(InputError) as caught:
        apply_weights(target, state, key=KEY)
    text = str(caught.value)
    assert text.startswith(KEY)
    assert "missing: layer2.0.conv1.weight" in text
    assert "is layer9.0.conv1.weight meant to be layer2.0.conv1.weight?" in text
    assert "head.weight [7, 16], needed [10, 16]" in text
    assert fingerprint(target.state_dict()) == before
    with pytest.raises(InputError, match=r"and \d+ more"):
        apply_weights(target, {}, key=KEY)


def test_other_dtypes_are_converted():
    target = nn.Linear(2, 2)
    apply_weights(target, {k: v.half() for k, v in target.state_dict().items()}, key=KEY)
    assert target.weight.dtype == torch.float32


def test_fingerprint_sees_every_part_and_only_the_content():
    state = {"a": torch.arange(6.0), "b": torch.zeros(()), "c": torch.zeros(0, 3)}
    same_content = dict(reversed([(name, t.clone()) for name, t in state.items()]))
    assert fingerprint(state) == fingerprint(same_content)
    assert len(fingerprint(state)) == 32
    strided = torch.arange(12.0).reshape(6, 2)
    strided[:, 0] = torch.arange(6.0)
    assert fingerprint({**state, "a": strided[:, 0]}) == fingerprint(state)
    changed = [
        {**state, "a": state["a"].reshape(2, 3)},
        {**state, "a": state["a"].to(torch.float64)},
        {**state, "a": state["a"].view(torch.int32)},
        {**state, "a": state["a"] + torch.tensor([0, 0, 0, 0, 0, 1e-6])},
        {**state, "c": torch.zeros(3, 0)},
        {"a2": state["a"], "b": state["b"], "c": state["c"]},
        {"a": state["a"], "b": state["b"]},
    ]
    assert len({fingerprint(state), *map(fingerprint, changed)}) == 8
    for dtype in (torch.bfloat16, torch.bool, torch.uint8, torch.int64):
        assert fingerprint({"a": torch.ones(3).to(dtype)})


def test_fingerprint_does_not_change_between_versions():
    assert fingerprint({"w": torch.arange(4.0)}) == "e4d9bee72a6f17ce96b72e67f73d8dd8"


def test_counts(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert count_parameters(module) == 24
    module[0].weight.requires_grad_(False)
    assert count_parameters(module, trainable=True) == 12
    assert size_bytes(module) == 4 * (24 + 8) + 8
    module[0].half()
    assert size_bytes(module) == 4 * (8 + 8) + 2 * 16 + 8
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert count_parameters(tied) == 15
    save_weights(tied, tmp_path / "t.safetensors")
    assert len(load_file(tmp_path / "t.safetensors")) == 4
