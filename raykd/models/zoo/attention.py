"""Transformer encoder blocks, for patches and for tokens.

Shapes: B batch, L length, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raykd.models.zoo.parts import named

FEATURES_PER_HEAD = 16
MLP_RATIO = 4


def heads_of(features: int) -> int:
    """The most heads that divide the features and have 16 or more each; one below 32 features."""
    most = max(1, features // FEATURES_PER_HEAD)
    return max(count for count in range(1, most + 1) if features % count == 0)


class Attention(nn.Module):
    """Multi-head self-attention (Dosovitskiy et al. 2021, App. A, Eq. 5-8)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
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

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]; see `Attention.forward`."""
        attended = tokens_BLD + self.drop1(self.attention(self.norm1(tokens_BLD), there_BL))
        out: Tensor = attended + self.drop2(self.mlp(self.norm2(attended)))
        return out


def xavier_init(module: nn.Module) -> None:
    """Xavier-uniform weights and no bias in every linear layer below `module` (Glorot & Bengio 2010, Eq. 16)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
