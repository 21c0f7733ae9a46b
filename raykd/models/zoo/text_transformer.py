"""Small transformer encoder of tokens (Vaswani et al. 2017), norms first, the mean of all tokens at its end.

Taps: `embed` ([B, L, D]) and `embed.table`, `drop`, `blocks` and `blocks.<i>` ([B, L, D]) and inside it
`{norm1,attention,attention.qkv,attention.out,drop1,norm2,mlp,mlp.{up,act,drop,down},drop2}`, `norm`
([B, L, D]), `pool` ([B, D]), `head`.
Shapes: B batch, L length, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raykd.config.models import TextTransformerModel
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.parts import (
    Chain,
    Embedding,
    TokenMean,
    blocks_of,
    scaled,
    token_shape,
    xavier_init,
)

FEATURES = 64
POSITION_STD = 0.02


class TextTransformer(nn.Module):
    """Embeddings of 64·`width` features, learned positions, `depth` blocks, norm, mean, a linear head."""

    def __init__(self, spec: TextTransformerModel, shape: TokenShape, classes: int) -> None:
        super().__init__()
        features = scaled(FEATURES, spec.width)
        self.embed = Embedding(shape.vocabulary, features)
        self.position = nn.Parameter(torch.empty(shape[0], features))
        self.drop = nn.Dropout(spec.dropout)
        self.blocks = Chain(*blocks_of(features, spec.depth, dropout=spec.dropout))
        self.norm = nn.LayerNorm(features)
        self.pool = TokenMean()
        self.head = nn.Linear(features, classes)
        nn.init.trunc_normal_(self.position, std=POSITION_STD)
        xavier_init(self)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, classes]."""
        there_BL = ids_BL != 0
        tokens_BLD = self.drop(self.embed(ids_BL) + self.position)
        tokens_BLD = self.norm(self.blocks(tokens_BLD, there_BL))
        out: Tensor = self.head(self.pool(tokens_BLD, there_BL))
        return out


def build_text_transformer(spec: TextTransformerModel, context: BuildContext) -> nn.Module:
    """A module from ids [B, L] to [B, classes].

    Raises:
        InputError: samples are no texts.
    """
    return TextTransformer(spec, token_shape(spec, context), context.classes)
