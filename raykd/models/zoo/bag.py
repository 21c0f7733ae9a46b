"""Bag of embeddings: their mean, then a perceptron (Iyyer et al. 2015; without hidden layers Joulin et al. 2017).

Taps: `embed` ([B, L, D]) and `embed.table`, `pool` ([B, D]), `blocks` and `blocks.<i>` with
`blocks.<i>.{drop,linear,act}`, `drop`, `head`.
"""

from __future__ import annotations

from torch import Tensor, nn

from raykd.config.models import BagModel
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.parts import Embedding, TokenMean, named, scaled, token_shape

FEATURES = 64


class Bag(nn.Module):
    """Embeddings of 64·`width` features, their mean, `depth` hidden ReLU layers of as many units, a linear head."""

    def __init__(self, spec: BagModel, shape: TokenShape, classes: int) -> None:
        super().__init__()
        features = scaled(FEATURES, spec.width)
        blocks = [_block(features, spec.dropout) for _ in range(spec.depth)]
        self.embed = Embedding(shape.vocabulary, features)
        self.pool = TokenMean()
        self.blocks = nn.Sequential(*blocks)
        self.drop = nn.Dropout(spec.dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, classes]."""
        mean_BD = self.pool(self.embed(ids_BL), ids_BL != 0)
        out: Tensor = self.head(self.drop(self.blocks(mean_BD)))
        return out


def _block(features: int, dropout: float) -> nn.Sequential:
    linear = nn.Linear(features, features)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return named(drop=nn.Dropout(dropout), linear=linear, act=nn.ReLU())


def build_bag(spec: BagModel, context: BuildContext) -> nn.Module:
    """A module from ids [B, L] to [B, classes].

    Raises:
        InputError: samples are no texts.
    """
    return Bag(spec, token_shape(spec, context), context.classes)
