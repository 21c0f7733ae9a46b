"""Plain stacks of convolutions, to describe a network whose weights come from elsewhere; a factory for recipes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def stacked(  # noqa: PLR0913 - each is a key of a recipe
    *,
    blocks: Sequence[Sequence[int]],
    hidden: int,
    side: int,
    classes: int = 10,
    channels: int = 1,
    batch_norm: bool = False,
    dropout: float | None = None,
    nested: bool = False,
    names: Sequence[str] = ("features", "classifier"),
) -> nn.Module:
    """Blocks of 3×3 convolutions, each ended by a 2×2 maximum, then one hidden layer and the classes.

    Args:
        blocks: the channels of each convolution of each block.
        hidden: units of the hidden layer.
        side: of the square images, in pixels.
        classes: outputs.
        channels: of the images.
        batch_norm: whether between convolution and ReLU.
        dropout: before both linear layers; None = there is no such layer, which counts in the names of weights.
        nested: whether each block is a part of its own in the names of weights.
        names: of the two parts.

    Returns:
        A module from [B, channels, side, side] to logits [B, classes].
    """
    parts, source = [], channels
    for block in blocks:
        layers: list[nn.Module] = []
        for target in block:
            layers.append(nn.Conv2d(source, target, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(target)] if batch_norm else []
            layers.append(nn.ReLU())
            source = target
        parts.append([*layers, nn.MaxPool2d(2)])
    flat = [layer for part in parts for layer in part]
    features = [nn.Sequential(*part) for part in parts] if nested else flat
    drop: list[nn.Module] = [] if dropout is None else [nn.Dropout(dropout)]
    width = source * (side // 2 ** len(blocks)) ** 2
    head = [*drop, nn.Linear(width, hidden), nn.ReLU(), *drop, nn.Linear(hidden, classes)]
    named = {
        names[0]: nn.Sequential(*features),
        "flatten": nn.Flatten(),
        names[1]: nn.Sequential(*head),
    }
    return nn.Sequential(OrderedDict(named))
