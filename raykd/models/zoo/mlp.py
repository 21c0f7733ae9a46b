"""Multi-layer perceptron.

Taps: `flatten`, `blocks.<i>` (after the activation), `blocks.<i>.{linear,act,drop}`, `head`.
"""

from __future__ import annotations

import math

from torch import nn

from raykd.config.models import MlpModel
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import named, refuse_texts, scaled

UNITS = 64


def build_mlp(spec: MlpModel, context: BuildContext) -> nn.Module:
    """`depth` hidden layers of 64·`width` ReLU units on the flattened input, then a linear head.

    Returns:
        A module from [B, *input_shape] to [B, classes].

    Raises:
        InputError: samples are texts.
    """
    refuse_texts(spec, context)
    units = scaled(UNITS, spec.width)
    sizes = [math.prod(context.input_shape)] + [units] * spec.depth
    blocks = [
        named(linear=nn.Linear(sizes[i], units), act=nn.ReLU(), drop=nn.Dropout(spec.dropout))
        for i in range(spec.depth)
    ]
    for block in blocks:
        linear = block[0]
        assert isinstance(linear, nn.Linear), "a block starts with its linear layer"
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
    return named(
        flatten=nn.Flatten(), blocks=nn.Sequential(*blocks), head=nn.Linear(units, context.classes)
    )
