"""Pieces that the zoo's models share: norms, initial weights, checks of the input, embeddings, transformer blocks.

Shapes: B batch, C channels, H/W height and width, L length, D features.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from raykd.config.models import Model, ResnetModel, WrnModel
from raykd.models.shapes import BuildContext, TokenShape

MAX_GROUPS = 8
MIN_SIDE = 8
_GREY = len(("H", "W"))
_COLOURS = (1, 3, 4)
_LAST = "; where the channels come last, put them first: inputs.transpose(0, 3, 1, 2)"
FEATURES_PER_HEAD = 16
MLP_RATIO = 4
EMBEDDING_STD = 0.1


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
        grey = ", or, where these are grey images, add a channel axis: inputs[:, None]"
        raise context.error(
            f"{spec.type} needs images [C, H, W], found {found}; use type: mlp{grey if len(found) == _GREY else ''}"
        )
    channels, height, width = context.input_shape
    if min(height, width) < MIN_SIDE:
        raise context.error(
            f"{spec.type} needs images of at least {MIN_SIDE}×{MIN_SIDE} pixels, found "
            f"{height}×{width}; enlarge them (preprocess.size) or use type: mlp"
            + (_LAST if width in _COLOURS and channels >= MIN_SIDE else "")
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


def stage(
    block: Callable[..., nn.Module], source: int, target: int, count: int, *, stride: int
) -> nn.Sequential:
    """Blocks of residual networks, made by `block(source, target, stride=...)`; the first one changes the shape."""
    later = (block(target, target, stride=1) for _ in range(count - 1))
    return nn.Sequential(block(source, target, stride=stride), *later)


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


class Embedding(nn.Module):
    """A vector for each token; zero for padding, whatever its weights."""

    def __init__(self, vocabulary: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, features, padding_idx=0)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        out: Tensor = self.table(ids_BL) * (ids_BL != 0).unsqueeze(-1)
        return out


def token_mean(tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
    """The mean over the tokens that are there (bool [B, L]), [B, D]; zero where there is none."""
    there_BL1 = there_BL.unsqueeze(-1).to(tokens_BLD.dtype)
    return (tokens_BLD * there_BL1).sum(dim=1) / there_BL1.sum(dim=1).clamp(min=1.0)


class TokenMean(nn.Module):
    """The mean over the tokens that are there; zero where there is none."""

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] and bool [B, L] -> [B, D]."""
        return token_mean(tokens_BLD, there_BL)


class Chain(nn.Module):
    """Modules in order, each of which also takes which tokens are there."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        for index, part in enumerate(parts):
            self.add_module(str(index), part)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] and bool [B, L] -> [B, L, D]."""
        out = tokens_BLD
        for part in self.children():
            out = part(out, there_BL)
        return out


def heads_of(features: int) -> int:
    """The most heads that divide the features and have 16 or more each; one below 32 features."""
    most = max(1, features // FEATURES_PER_HEAD)
    return max(count for count in range(1, most + 1) if features % count == 0)


class Attention(nn.Module):
    """Multi-head self-attention (Dosovitskiy et al. 2021, App. A, Eq. 5-8); `causal`: none looks at later tokens."""

    def __init__(self, features: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]; tokens that are not there (bool [B, L]) are looked at by none."""
        size, length, features = tokens_BLD.shape
        split = self.qkv(tokens_BLD).reshape(size, length, 3, self.heads, features // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        # Written out, not F.scaled_dot_product_attention: flop counters and exporters see every product.
        scores = query @ key.transpose(-2, -1) / math.sqrt(features // self.heads)
        if there_BL is not None:
            # Not −∞, which a text without tokens would turn into NaN.
            scores = scores.masked_fill(~there_BL[:, None, None, :], torch.finfo(scores.dtype).min)
        if self.causal:
            later_LL = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later_LL, -math.inf)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(size, length, features)
        out: Tensor = self.out(mixed)
        return out


class Block(nn.Module):
    """Attention and a perceptron, each normed before and added after (Eq. 2-3)."""

    def __init__(self, features: int, heads: int, *, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attention = Attention(features, heads, causal=causal)
        self.drop1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = named(
            up=nn.Linear(features, MLP_RATIO * features),
            act=nn.GELU(),
            drop=nn.Dropout(dropout),
            down=nn.Linear(MLP_RATIO * features, features),
        )
        self.drop2 = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]; see `Attention.forward`."""
        attended = tokens_BLD + self.drop1(self.attention(self.norm1(tokens_BLD), there_BL))
        out: Tensor = attended + self.drop2(self.mlp(self.norm2(attended)))
        return out


def blocks_of(features: int, depth: int, *, dropout: float, causal: bool = False) -> list[Block]:
    """So many blocks, with about 16 features to a head."""
    heads = heads_of(features)
    return [Block(features, heads, dropout=dropout, causal=causal) for _ in range(depth)]


def xavier_init(module: nn.Module) -> None:
    """Xavier-uniform weights and no bias in every linear layer below `module` (Glorot & Bengio 2010, Eq. 16)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
