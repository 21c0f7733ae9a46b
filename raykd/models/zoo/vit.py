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
from raykd.models.zoo.parts import blocks_of, image_shape, scaled, xavier_init

FEATURES = 64
INIT_STD = 0.02


class ClassToken(nn.Module):
    """The first token: [B, L, D] -> [B, D]."""

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """The class token, [B, D]."""
        return tokens_BLD[:, 0]


class Vit(nn.Module):
    """Patches, learned positions, blocks, norm, class token, head (Dosovitskiy et al. 2021, Eq. 1-4).

    `patch` is a convolution whose stride is its size, which is Eq. 1's linear map of each patch, and is initialised as
    one. Tokens have 64·`width` features.
    """

    def __init__(self, spec: VitModel, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        features = scaled(FEATURES, spec.width)
        length = 1 + (height // spec.patch) * (width // spec.patch)
        self.patch = nn.Conv2d(channels, features, spec.patch, stride=spec.patch)
        self.token = nn.Parameter(torch.zeros(features))
        self.position = nn.Parameter(torch.empty(length, features))
        self.drop = nn.Dropout(spec.dropout)
        self.blocks = nn.Sequential(*blocks_of(features, spec.depth, dropout=spec.dropout))
        self.norm = nn.LayerNorm(features)
        self.pool = ClassToken()
        self.head = nn.Linear(features, classes)
        nn.init.trunc_normal_(self.position, std=INIT_STD)
        xavier_init(self)
        nn.init.xavier_uniform_(self.patch.weight.view(features, -1))
        assert self.patch.bias is not None, "the patch convolution has a bias"
        nn.init.zeros_(self.patch.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]."""
        patches_BLD = self.patch(images_BCHW).flatten(2).transpose(1, 2)
        token_B1D = self.token.expand(patches_BLD.shape[0], 1, -1)
        tokens_BLD = torch.cat([token_B1D, patches_BLD], dim=1) + self.position
        out: Tensor = self.head(self.pool(self.norm(self.blocks(self.drop(tokens_BLD)))))
        return out


def build_vit(spec: VitModel, context: BuildContext) -> nn.Module:
    """A module from [B, C, H, W] to [B, classes].

    Raises:
        InputError: `patch` does not divide both sides, or the input is not an image of at least 8×8.
    """
    channels, height, width = image_shape(spec, context)
    if height % spec.patch or width % spec.patch:
        common = math.gcd(height, width)
        allowed = [str(size) for size in range(1, common + 1) if common % size == 0]
        raise context.error(
            f"is {spec.patch}, which does not divide images of {height}×{width} pixels; "
            f"use one of {', '.join(allowed)}",
            field="patch",
        )
    return Vit(spec, (channels, height, width), context.classes)
