"""Residual network for small images (He et al. 2016, "Deep Residual Learning", Sec. 4.2).

Taps: `stem`, `layer1`, `layer2`, `layer3` (after the last activation), `layer<s>.<i>` and inside it
`{conv1,norm1,act1,conv2,norm2,shortcut,act2}`, `pool` ([B, C]), `head`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from raykd.config.models import ResnetModel
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import (
    NORMS,
    AveragePool,
    blocks_per_stage,
    conv3x3,
    he_init,
    image_shape,
    named,
    scaled,
    stage,
)

CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, activation after the sum (He et al. 2016, Fig. 2).

    Where the shape changes the shortcut is a 1×1 convolution with norm (Eq. 2, option B of Sec. 4.1), as
    in the networks that the distillation benchmarks use; elsewhere it is the identity.
    """

    def __init__(self, source: int, target: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(source, target, stride=stride)
        self.norm1 = NORMS[norm](target)
        self.act1 = nn.ReLU()
        self.conv2 = conv3x3(target, target)
        self.norm2 = NORMS[norm](target)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or source != target:
            self.shortcut = named(
                conv=nn.Conv2d(source, target, 1, stride=stride, bias=False),
                norm=NORMS[norm](target),
            )
        self.act2 = nn.ReLU()

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H/stride, W/stride], rounded up."""
        residual = self.act1(self.norm1(self.conv1(map_BCHW)))
        residual = self.norm2(self.conv2(residual))
        out: Tensor = self.act2(residual + self.shortcut(map_BCHW))
        return out


def build_resnet(spec: ResnetModel, context: BuildContext) -> nn.Module:
    """A stem and three stages of (`depth` − 2)/6 blocks with 16, 32 and 64 times `width` channels.

    Returns:
        A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: the depth is not 6n + 2, or the input is not an image of at least 8×8.
    """
    source = image_shape(spec, context)[0]
    count = blocks_per_stage(spec, context, extra=2)
    first, second, third = (scaled(channels, spec.width) for channels in CHANNELS)
    block = partial(BasicBlock, norm=spec.norm)
    model = named(
        stem=named(conv=conv3x3(source, first), norm=NORMS[spec.norm](first), act=nn.ReLU()),
        layer1=stage(block, first, first, count, stride=1),
        layer2=stage(block, first, second, count, stride=2),
        layer3=stage(block, second, third, count, stride=2),
        pool=AveragePool(),
        head=nn.Linear(third, context.classes),
    )
    he_init(model)
    return model
