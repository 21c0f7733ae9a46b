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
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import (
    Block,
    Chain,
    Embedding,
    TokenMean,
    heads_of,
    scaled,
    token_shape,
    xavier_init,
)

FEATURES = 64
POSITION_STD = 0.02


class TextTransformer(nn.Module):
    """Embeddings, learned positions, blocks, norm, mean, head."""

    def __init__(
        self,
        embed: Embedding,
        blocks: Chain,
        *,
        shape: tuple[int, int],
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Parameter(torch.empty(shape))
        self.drop = nn.Dropout(dropout)
        self.blocks = blocks
        self.norm = nn.LayerNorm(shape[1])
        self.pool = TokenMean()
        self.head = nn.Linear(shape[1], classes)
        nn.init.trunc_normal_(self.position, std=POSITION_STD)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, classes]."""
        there_BL = ids_BL != 0
        tokens_BLD = self.drop(self.embed(ids_BL) + self.position)
        tokens_BLD = self.norm(self.blocks(tokens_BLD, there_BL))
        out: Tensor = self.head(self.pool(tokens_BLD, there_BL))
        return out


def build_text_transformer(spec: TextTransformerModel, context: BuildContext) -> nn.Module:
    """`depth` blocks on tokens of 64·`width` features, about 16 features to a head.

    Returns:
        A module from ids [B, L] to [B, classes].

    Raises:
        InputError: samples are no texts.
    """
    shape = token_shape(spec, context)
    features = scaled(FEATURES, spec.width)
    heads = heads_of(features)
    model = TextTransformer(
        Embedding(shape.vocabulary, features),
        Chain(*(Block(features, heads, dropout=spec.dropout) for _ in range(spec.depth))),
        shape=(shape[0], features),
        classes=context.classes,
        dropout=spec.dropout,
    )
    xavier_init(model)
    return model
