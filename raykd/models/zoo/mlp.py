"""Multi-layer perceptron.

Taps: `flatten`, `blocks.<i>` (after the activation), `blocks.<i>.{linear,act,drop}`, `head`.
"""

from __future__ import annotations

import math

from torch import nn

from raykd.models.zoo.parts import named, refuse_texts, scaled

UNITS = 64


def build_mlp(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    width: float,
    depth: int,
    dropout: float,
) -> nn.Module:
    """`depth` hidden layers of 64·`width` ReLU units on the flattened input, then a linear head.

    Args:
        input_shape: of one sample, any number of dimensions.
        classes: outputs of the head.
        key: dotted key of the model in the recipe, for errors.
        width: scales the hidden layers.
        depth: hidden layers.
        dropout: chance of dropping a hidden unit while training.

    Returns:
        A module from [B, *input_shape] to [B, classes].

    Raises:
        InputError: samples are texts.
    """
    refuse_texts(input_shape, model="mlp", key=key)
    units = scaled(UNITS, width)
    sizes = [math.prod(input_shape)] + [units] * depth
    blocks = [
        named(linear=nn.Linear(sizes[i], units), act=nn.ReLU(), drop=nn.Dropout(dropout))
        for i in range(depth)
    ]
    for block in blocks:
        linear = block[0]
        assert isinstance(linear, nn.Linear), "a block starts with its linear layer"
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
    return named(
        flatten=nn.Flatten(), blocks=nn.Sequential(*blocks), head=nn.Linear(units, classes)
    )
