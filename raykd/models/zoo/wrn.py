"""Wide residual network (Zagoruyko & Komodakis 2016, Table 1), with activation before convolution.

Taps: `stem`, `layer1`, `layer2`, `layer3` (sums, before norm and activation), `layer<s>.<i>` and inside
it `{norm1,act1,conv1,norm2,act2,drop,conv2,shortcut}`, `norm`, `act`, `pool` ([B, C]), `head`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from raykd.config.models import WrnModel
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

STEM_CHANNELS = 16
CHANNELS = (16, 32, 64)


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
