"""Weights and data in the shapes that other libraries leave them in, through the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from raykd_foreign_models import regression

DIGITS = {"source": {"type": "digits"}, "splits": {"validation": 100, "test": 100}}


class Settings:
    """Of somebody's training script."""


@pytest.fixture
def check(call, tmp_path):
    """`raykd check` of a recipe on digits with one teacher that has these weights."""

    def run(data=DIGITS, **teacher):
        recipe = {
            "data": data,
            "teachers": [{"name": "own", **teacher}],
            "student": {"model": {"type": "mlp", "width": 0.25}},
            "train": {"epochs": 1},
            "evaluate": {"controls": []},
            "tracking": {"wandb": {"mode": "disabled"}},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return call("check", path)

    return run


BLANK, FITTED = "raykd_foreign_models:blank", "raykd_foreign_models:regression"
STATE = regression().state_dict()
BESIDE = {"args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(0.9), "epoch": 3}
SHAPES = {
    "model_state_dict": {"model_state_dict": STATE, **BESIDE},
    "net": {"net": STATE, "acc": np.float32(0.9)},
    "ddp": {"state_dict": {f"module.{name}": one for name, one in STATE.items()}},
    "lightning": {
        "state_dict": {"loss.weight": torch.ones(10), **{f"model.{name}": one for name, one in STATE.items()}},
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.5.0",
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpoints_of_the_usual_shapes(check, tmp_path, shape):
    """At 7d0af11: exit 2, "is damaged, or holds more than tensors", or "holds no state dict"."""
    torch.save(SHAPES[shape], tmp_path / "m.ckpt")
    ended = check(
        model=BLANK, weights=str(tmp_path / "m.ckpt"), preprocess={"normalize": "none"}, expect={"accuracy": 0.8}
    )  # fmt: skip
    assert ended.code == 0, ended.err


def test_what_torch_refuses_is_named_and_a_prefix_is_chosen(check, tmp_path):
    """At 7d0af11 the type was not named, and a prefix could not be set."""
    file = str(tmp_path / "m.pt")
    torch.save({"state_dict": STATE, "settings": Settings()}, file)
    ended = check(model=BLANK, weights=file)
    assert ended.code == 2
    assert (
        f"teachers.own.weights: {file} holds an object of {Settings.__module__}.Settings"
        in ended.err
    )
    both = {f"{side}.{name}": one for side in ("student", "teacher") for name, one in STATE.items()}
    torch.save({"state_dict": both}, file)
    ended = check(model=BLANK, weights=file)
    assert ended.code == 2
    assert (
        "teachers.own.prefix: the model's weights stand behind 'student.', 'teacher.'" in ended.err
    )
    plain = {"normalize": "none"}
    assert (
        check(
            model=BLANK, weights=file, prefix="teacher.", preprocess=plain, expect={"accuracy": 0.8}
        ).code
        == 0
    )
    ended = check(model=BLANK, prefix="teacher.")
    assert ended.code == 2
    assert "teachers.own.prefix: does nothing without `weights`" in ended.err


def test_whatever_a_teacher_raises_names_it(check):
    """At 7d0af11: exit 1, "an error in raykd, or in your own code", and no teacher named."""
    ended = check(model="raykd_foreign_models:picky", kind="probabilities")
    assert ended.code == 2
    assert "teachers.own.model: the model does not run on" in ended.err
    assert "AttributeError: no such pixel" in ended.err


def test_a_factory_may_return_a_torch_dataset(check):
    """At 7d0af11: exit 2, "returned torch.utils.data.dataset.TensorDataset; needs a raykd.data.Dataset"."""
    source = {"type": "factory", "path": "raykd_foreign_models:pairs"}
    teacher = {"model": FITTED, "preprocess": {"normalize": "none"}, "expect": {"accuracy": 0.8}}
    ended = check({**DIGITS, "source": source}, **teacher)
    assert ended.code == 0, ended.err
    ended = check({**DIGITS, "source": {**source, "path": "raykd_foreign_models:table"}}, **teacher)
    assert ended.code == 2
    assert "data.source.path: raykd_foreign_models:table returned pyarrow.lib.Table" in ended.err
    assert "give it to raykd.run itself" in ended.err


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((40, 28, 28), "add a channel axis: inputs[:, None]"), ((40, 28, 28, 3), "inputs.transpose(0, 3, 1, 2)")],
    ids=["no channels", "channels last"],
)  # fmt: skip
def test_images_in_other_layouts_say_what_to_do(check, tmp_path, shape, hint):
    """At 7d0af11: exit 2, "a sample here is [28, 28]", and no word of channels."""
    inputs = np.random.default_rng(0).random(shape).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=inputs, labels=np.arange(40) % 2)
    source = {"type": "arrays", "path": str(tmp_path / "images.npz")}
    ended = check({"source": source}, model={"type": "cnn"}, fit={"epochs": 1})
    assert ended.code == 2
    assert hint in ended.err
