"""Plain convolutional network.

Taps: `blocks.<i>` (after the activation), `blocks.<i>.{down,conv,norm,act}`, `pool` ([B, C]), `drop`,
`head`.
"""

from __future__ import annotations

from torch import nn

from raykd.config.models import CnnModel
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import (
    NORMS,
    AveragePool,
    conv3x3,
    he_init,
    image_shape,
    named,
    scaled,
)

CHANNELS = 32
MAX_CHANNELS = 512


def build_cnn(spec: CnnModel, context: BuildContext) -> nn.Module:
    """`depth` blocks of 3×3 convolution, norm and ReLU, mean over positions, linear head.

    Block i has 32·2^i·`width` channels (doubling ends at 512·`width`). Between two blocks a 2×2 maximum
    halves the resolution as long as both sides stay at 2 pixels or more, so that any depth works.

    Returns:
        A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: the input is not an image of at least 8×8.
    """
    source, *sides = image_shape(spec, context)
    side = min(sides)
    blocks = []
    for i in range(spec.depth):
        target = scaled(min(CHANNELS * 2**i, MAX_CHANNELS), spec.width)
        halve = i > 0 and side >= 4
        side = side // 2 if halve else side
        blocks.append(
            named(
                down=nn.MaxPool2d(2) if halve else nn.Identity(),
                conv=conv3x3(source, target),
                norm=NORMS[spec.norm](target),
                act=nn.ReLU(),
            )
        )
        source = target
    model = named(
        blocks=nn.Sequential(*blocks),
        pool=AveragePool(),
        drop=nn.Dropout(spec.dropout),
        head=nn.Linear(source, context.classes),
    )
    he_init(model)
    return model
