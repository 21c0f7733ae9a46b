"""Students with random weights, of every task and architecture."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from raykd.config.models import Model
from raykd.export import Student
from raykd.export.description import Description, Input
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.types import Scale

CENTRED = Preprocessing(mean=(0.3,), std=(0.4,))


def make_student(
    settings,
    *,
    task="classification",
    shape=(1, 8, 8),
    outputs=3,
    preprocessing=CENTRED,
    model=None,
) -> Student:
    spec = TypeAdapter(Model).validate_python(settings)
    torch.manual_seed(0)
    model = model or build_model(
        spec, input_shape=preprocessing.output_shape(shape), classes=outputs, key="m"
    )
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after training, not the identity
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    scale = Scale(mean=150.0, std=77.0) if task == "regression" else None
    about = Description(
        task=task,
        model=spec,
        preprocessing=preprocessing,
        input=Input(name="pixels", shape=shape)
        if preprocessing.tokens is None
        else Input(name="text", shape=shape, dtype="uint8"),
        classes=[f"c{i}" for i in range(outputs)],
        scale=scale,
        teachers=["wide", "conv"],
    )
    return Student(Network(model, preprocessing, scale).eval(), about)


@pytest.fixture(name="make_student")
def _make_student():
    return make_student
