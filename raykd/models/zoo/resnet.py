"""Residual networks for small images.

`resnet` (He et al. 2016, "Deep Residual Learning", Sec. 4.2). Taps: `stem`, `layer1`, `layer2`, `layer3` (after the last
activation), `layer<s>.<i>` and inside it `{conv1,norm1,act1,conv2,norm2,shortcut,act2}`, `pool` ([B, C]), `head`.

`wrn`, wide ones with activation before convolution (Zagoruyko & Komodakis 2016, Table 1). Taps: `stem`, `layer1`,
`layer2`, `layer3` (sums, before norm and activation), `layer<s>.<i>` and inside it
`{norm1,act1,conv1,norm2,act2,drop,conv2,shortcut}`, `norm`, `act`, `pool` ([B, C]), `head`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from raykd.config.models import ResnetModel, WrnModel
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
STEM_CHANNELS = 16


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


class PreactivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice, with dropout between (Zagoruyko & Komodakis 2016, Fig. 1d).

    Where the shape changes the shortcut is a 1×1 convolution of the first activation.
    """

    def __init__(self, source: int, target: int, *, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](source)
        self.act1 = nn.ReLU()
        self.conv1 = conv3x3(source, target, stride=stride)
        self.norm2 = NORMS[norm](target)
        self.act2 = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.conv2 = conv3x3(target, target)
        self.changes = stride != 1 or source != target
        self.shortcut: nn.Module = (
            nn.Conv2d(source, target, 1, stride=stride, bias=False)
            if self.changes
            else nn.Identity()
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H/stride, W/stride], rounded up."""
        active = self.act1(self.norm1(map_BCHW))
        residual = self.drop(self.act2(self.norm2(self.conv1(active))))
        out: Tensor = self.conv2(residual) + self.shortcut(active if self.changes else map_BCHW)
        return out


def build_wrn(spec: WrnModel, context: BuildContext) -> nn.Module:
    """A stem of 16 channels and three stages of (`depth` − 4)/6 blocks with 16k, 32k, 64k channels.

    Returns:
        A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: the depth is not 6n + 4, or the input is not an image of at least 8×8.
    """
    source = image_shape(spec, context)[0]
    count = blocks_per_stage(spec, context, extra=4)
    first, second, third = (scaled(channels, spec.width) for channels in CHANNELS)
    block = partial(PreactivationBlock, norm=spec.norm, dropout=spec.dropout)
    model = named(
        stem=conv3x3(source, STEM_CHANNELS),
        layer1=stage(block, STEM_CHANNELS, first, count, stride=1),
        layer2=stage(block, first, second, count, stride=2),
        layer3=stage(block, second, third, count, stride=2),
        norm=NORMS[spec.norm](third),
        act=nn.ReLU(),
        pool=AveragePool(),
        head=nn.Linear(third, context.classes),
    )
    he_init(model)
    return model
