"""Small vision transformer (Dosovitskiy et al. 2021, Sec. 3.1) with a class token.

Taps: `patch` ([B, D, h, w]), `drop`, `blocks.<i>` ([B, L, D], the class token first) and inside it
`{norm1,attention,attention.qkv,attention.out,drop1,norm2,mlp,mlp.{up,act,drop,down},drop2}`, `norm`
([B, L, D]), `pool` (the class token, [B, D]), `head`.
L = 1 + h·w tokens, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raykd.errors import InputError, Problem
from raykd.models.zoo.parts import image_shape, named, scaled

FEATURES = 64
FEATURES_PER_HEAD = 16
MLP_RATIO = 4
INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention (Dosovitskiy et al. 2021, App. A, Eq. 5-8)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        size, length, features = tokens_BLD.shape
        split = self.qkv(tokens_BLD).reshape(size, length, 3, self.heads, features // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        # Written out, not F.scaled_dot_product_attention: flop counters and exporters see every product.
        scores = query @ key.transpose(-2, -1) / math.sqrt(features // self.heads)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(size, length, features)
        out: Tensor = self.out(mixed)
        return out


class Block(nn.Module):
    """Attention and a perceptron, each normed before and added after (Eq. 2-3)."""

    def __init__(self, features: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attention = Attention(features, heads)
        self.drop1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = named(
            up=nn.Linear(features, MLP_RATIO * features),
            act=nn.GELU(),
            drop=nn.Dropout(dropout),
            down=nn.Linear(MLP_RATIO * features, features),
        )
        self.drop2 = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        attended = tokens_BLD + self.drop1(self.attention(self.norm1(tokens_BLD)))
        out: Tensor = attended + self.drop2(self.mlp(self.norm2(attended)))
        return out


class ClassToken(nn.Module):
    """The first token: [B, L, D] -> [B, D]."""

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """The class token, [B, D]."""
        return tokens_BLD[:, 0]


class Vit(nn.Module):
    """Patches, learned positions, blocks, norm, class token, head (Dosovitskiy et al. 2021, Eq. 1-4).

    `patch` is a convolution whose stride is its size, which is Eq. 1's linear map of each patch.
    """

    def __init__(
        self, patch: nn.Conv2d, blocks: nn.Sequential, *, length: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        features = patch.out_channels
        self.patch = patch
        self.token = nn.Parameter(torch.zeros(features))
        self.position = nn.Parameter(torch.empty(length, features))
        self.drop = nn.Dropout(dropout)
        self.blocks = blocks
        self.norm = nn.LayerNorm(features)
        self.pool = ClassToken()
        self.head = nn.Linear(features, classes)
        nn.init.trunc_normal_(self.position, std=INIT_STD)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]."""
        patches_BLD = self.patch(images_BCHW).flatten(2).transpose(1, 2)
        token_B1D = self.token.expand(patches_BLD.shape[0], 1, -1)
        tokens_BLD = torch.cat([token_B1D, patches_BLD], dim=1) + self.position
        out: Tensor = self.head(self.pool(self.norm(self.blocks(self.drop(tokens_BLD)))))
        return out


def build_vit(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    width: float,
    depth: int,
    patch: int,
    dropout: float,
) -> nn.Module:
    """`depth` blocks on tokens of 64·`width` features, about 16 features to a head.

    Args:
        input_shape: [C, H, W], at least 8×8, both sides multiples of `patch`.
        classes: outputs of the head.
        key: dotted key of the model in the recipe, for errors.
        width: scales the features; the number of heads is the largest that divides them and leaves each
            head 16 or more (one head below 32 features).
        depth: transformer blocks.
        patch: side of a patch, in pixels.
        dropout: chance of dropping a feature while training.

    Returns:
        A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: `patch` does not divide both sides, or the input is not an image of at least 8×8.
    """
    channels, height, side = image_shape(input_shape, model="vit", key=key)
    if height % patch or side % patch:
        common = math.gcd(height, side)
        allowed = [str(size) for size in range(1, common + 1) if common % size == 0]
        raise InputError(
            Problem(
                f"{key}.patch",
                f"is {patch}, which does not divide images of {height}×{side} pixels; "
                f"use one of {', '.join(allowed)}",
            )
        )
    features = scaled(FEATURES, width)
    most = max(1, features // FEATURES_PER_HEAD)
    heads = max(count for count in range(1, most + 1) if features % count == 0)
    model = Vit(
        nn.Conv2d(channels, features, patch, stride=patch),
        nn.Sequential(*(Block(features, heads, dropout=dropout) for _ in range(depth))),
        length=1 + (height // patch) * (side // patch),
        classes=classes,
        dropout=dropout,
    )
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    # The convolution is a linear map of each patch, so it is initialised as one.
    nn.init.xavier_uniform_(model.patch.weight.view(features, -1))
    assert model.patch.bias is not None, "the patch convolution has a bias"
    nn.init.zeros_(model.patch.bias)
    return model
