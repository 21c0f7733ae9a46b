"""Pieces that the zoo's models share: channel counts, norms, initial weights, checks of the input.

Shapes: B batch, C channels, H/W height and width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from raykd.config.models import Model, ResnetModel, WrnModel
from raykd.models.shapes import BuildContext, TokenShape

MAX_GROUPS = 8
MIN_SIDE = 8


def scaled(base: int, width: float) -> int:
    """`base` · `width` channels, rounded to the nearest multiple of 4, at least 4."""
    return max(4, 4 * int(base * width / 4 + 0.5))


def group_norm(channels: int) -> nn.Module:
    """Group norm (Wu & He 2018, Eq. 7) whose groups are the largest divisor of `channels` up to 8.

    With 8 channels or fewer every channel is a group of its own, as in instance norm.
    """
    groups = max(count for count in range(1, MAX_GROUPS + 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm2d}


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence whose steps have names, so that each is a tap."""
    return nn.Sequential(OrderedDict(modules))


def conv3x3(source: int, target: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias (a norm follows) that keeps the size, divided by `stride`."""
    return nn.Conv2d(source, target, 3, stride=stride, padding=1, bias=False)


class AveragePool(nn.Module):
    """Mean over all positions: [B, C, H, W] -> [B, C]."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The mean of each channel, [B, C]."""
        return map_BCHW.mean(dim=(2, 3))


def he_init(module: nn.Module) -> None:
    """He-normal weights in every convolution below `module` (He et al. 2015, Eq. 14).

    Draws from torch's global generator, in the order of the modules.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def image_shape(spec: Model, context: BuildContext) -> tuple[int, int, int]:
    """The input shape as (C, H, W).

    Raises:
        InputError: it is not that of an image, or the image is smaller than 8×8.
    """
    refuse_texts(spec, context)
    if len(context.input_shape) != 3:
        found = list(context.input_shape)
        raise context.error(f"{spec.type} needs images [C, H, W], found {found}; use type: mlp")
    channels, height, width = context.input_shape
    if min(height, width) < MIN_SIDE:
        raise context.error(
            f"{spec.type} needs images of at least {MIN_SIDE}×{MIN_SIDE} pixels, found "
            f"{height}×{width}; enlarge them (preprocess.size) or use type: mlp"
        )
    return channels, height, width


def refuse_texts(spec: Model, context: BuildContext) -> None:
    """Nothing where samples are no texts.

    Raises:
        InputError: they are.
    """
    if isinstance(context.input_shape, TokenShape):
        raise context.error(
            f"{spec.type} needs numbers; the samples are texts: use bag, text_cnn or text_transformer"
        )


def token_shape(spec: Model, context: BuildContext) -> TokenShape:
    """The input shape as that of a text's ids.

    Raises:
        InputError: samples are no texts.
    """
    shape = context.input_shape
    if not isinstance(shape, TokenShape):
        raise context.error(
            f"{spec.type} needs texts; a sample here is {list(shape)}: use mlp, or cnn for images"
        )
    return shape


def blocks_per_stage(spec: ResnetModel | WrnModel, context: BuildContext, *, extra: int) -> int:
    """The n of a network with three stages of n blocks of two layers and `extra` layers around them.

    Raises:
        InputError: the depth is not 6n + `extra` with n ≥ 1.
    """
    count, rest = divmod(spec.depth - extra, 6)
    if rest or count < 1:
        below = max(1, count) * 6 + extra
        raise context.error(
            f"is {spec.depth}; a {spec.type} has 6n + {extra} layers ({extra + 6}, {extra + 12}, "
            f"{extra + 18}, ...): use {below} or {below + 6}",
            field="depth",
        )
    return count
