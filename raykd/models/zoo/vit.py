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

from raykd.config.models import VitModel
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import Block, heads_of, image_shape, scaled, xavier_init

FEATURES = 64
INIT_STD = 0.02


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


def build_vit(spec: VitModel, context: BuildContext) -> nn.Module:
    """`depth` blocks on tokens of 64·`width` features, about 16 features to a head.

    Returns:
        A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: `patch` does not divide both sides, or the input is not an image of at least 8×8.
    """
    channels, height, side = image_shape(spec, context)
    if height % spec.patch or side % spec.patch:
        common = math.gcd(height, side)
        allowed = [str(size) for size in range(1, common + 1) if common % size == 0]
        raise context.error(
            f"is {spec.patch}, which does not divide images of {height}×{side} pixels; "
            f"use one of {', '.join(allowed)}",
            field="patch",
        )
    features = scaled(FEATURES, spec.width)
    heads = heads_of(features)
    model = Vit(
        nn.Conv2d(channels, features, spec.patch, stride=spec.patch),
        nn.Sequential(*(Block(features, heads, dropout=spec.dropout) for _ in range(spec.depth))),
        length=1 + (height // spec.patch) * (side // spec.patch),
        classes=context.classes,
        dropout=spec.dropout,
    )
    xavier_init(model)
    # The convolution is a linear map of each patch, so it is initialised as one.
    nn.init.xavier_uniform_(model.patch.weight.view(features, -1))
    assert model.patch.bias is not None, "the patch convolution has a bias"
    nn.init.zeros_(model.patch.bias)
    return model
