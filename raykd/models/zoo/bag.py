"""Bag of embeddings: their mean, then a perceptron (Iyyer et al. 2015; without hidden layers Joulin et al. 2017).

Taps: `embed` ([B, L, D]) and `embed.table`, `pool` ([B, D]), `blocks` and `blocks.<i>` with
`blocks.<i>.{drop,linear,act}`, `drop`, `head`.
"""

from __future__ import annotations

from torch import Tensor, nn

from raykd.config.models import BagModel
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import Embedding, TokenMean, named, scaled, token_shape

FEATURES = 64


class Bag(nn.Module):
    """Embeddings, mean, hidden layers, head."""

    def __init__(
        self,
        embed: Embedding,
        blocks: nn.Sequential,
        *,
        features: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.pool = TokenMean()
        self.blocks = blocks
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, classes]."""
        mean_BD = self.pool(self.embed(ids_BL), ids_BL != 0)
        out: Tensor = self.head(self.drop(self.blocks(mean_BD)))
        return out


def build_bag(spec: BagModel, context: BuildContext) -> nn.Module:
    """The mean of embeddings of 64·`width` features, `depth` hidden ReLU layers of as many units, a linear head.

    Returns:
        A module from ids [B, L] to [B, classes].

    Raises:
        InputError: samples are no texts.
    """
    shape = token_shape(spec, context)
    features = scaled(FEATURES, spec.width)
    blocks = []
    for _ in range(spec.depth):
        linear = nn.Linear(features, features)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        blocks.append(named(drop=nn.Dropout(spec.dropout), linear=linear, act=nn.ReLU()))
    return Bag(
        Embedding(shape.vocabulary, features),
        nn.Sequential(*blocks),
        features=features,
        classes=context.classes,
        dropout=spec.dropout,
    )
