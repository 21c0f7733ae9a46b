"""Networks of texts, from the ids of tokens.

`bag`: the mean of embeddings, then a perceptron (Iyyer et al. 2015; without hidden layers Joulin et al. 2017). Taps:
`embed` ([B, L, D]) and `embed.table`, `pool` ([B, D]), `blocks` and `blocks.<i>` with `blocks.<i>.{drop,linear,act}`,
`drop`, `head`.

`text_cnn`: convolutions over windows of tokens, and the largest value of each filter (Kim 2014). Taps: `embed` and
`embed.table`, `blocks` and `blocks.<i>` ([B, L, D]) with `blocks.<i>.{conv,act}`, `windows` ([B, 3·D]) and
`windows.window<n>` ([B, D]) with `windows.window<n>.{conv,act}`, `drop`, `head`.

`text_transformer`: a small encoder (Vaswani et al. 2017), norms first, the mean of all tokens at its end. Taps: `embed`
and `embed.table`, `drop`, `blocks` and `blocks.<i>` ([B, L, D]) and inside it
`{norm1,attention,attention.qkv,attention.out,drop1,norm2,mlp,mlp.{up,act,drop,down},drop2}`, `norm` ([B, L, D]),
`pool` ([B, D]), `head`.

Shapes: B batch, L length, D features (as many filters for each window).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.config.models import BagModel, TextCnnModel, TextTransformerModel
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.parts import (
    Chain,
    Embedding,
    TokenMean,
    blocks_of,
    named,
    scaled,
    token_shape,
    xavier_init,
)

FEATURES = 64
WINDOWS = (3, 4, 5)
POSITION_STD = 0.02


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


class Filters(nn.Module):
    """A convolution over `window` tokens and ReLU, at every token; zero behind the text."""

    def __init__(self, features: int, window: int) -> None:
        super().__init__()
        self.before, self.behind = (window - 1) // 2, window // 2
        self.conv = nn.Conv1d(features, features, window)
        self.act = nn.ReLU()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        assert self.conv.bias is not None, "it has one by default"
        nn.init.zeros_(self.conv.bias)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        padded_BDL = F.pad(tokens_BLD.transpose(1, 2), (self.before, self.behind))
        found_BLD: Tensor = self.act(self.conv(padded_BDL)).transpose(1, 2)
        return found_BLD * there_BL.unsqueeze(-1)


class Residual(Filters):
    """Filters over three tokens, added to their input."""

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return tokens_BLD + super().forward(tokens_BLD, there_BL)


class Largest(Filters):
    """The largest value of each filter in a text; all are 0 or above, so padding is never it."""

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] -> [B, D]."""
        return super().forward(tokens_BLD, there_BL).amax(dim=1)


class Windows(nn.Module):
    """Filters of several windows side by side."""

    def __init__(self, **windows: Largest) -> None:
        super().__init__()
        for name, window in windows.items():
            self.add_module(name, window)

    def forward(self, tokens_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """[B, L, D] -> [B, windows · D]."""
        return torch.cat([window(tokens_BLD, there_BL) for window in self.children()], dim=1)


class TextCnn(nn.Module):
    """Embeddings of 64·`width` features, layers that see three tokens, as many filters for each window, a linear head."""

    def __init__(self, spec: TextCnnModel, shape: TokenShape, classes: int) -> None:
        super().__init__()
        features = scaled(FEATURES, spec.width)
        self.embed = Embedding(shape.vocabulary, features)
        self.blocks = Chain(*(Residual(features, min(WINDOWS)) for _ in range(spec.depth - 1)))
        self.windows = Windows(**{f"window{size}": Largest(features, size) for size in WINDOWS})
        self.drop = nn.Dropout(spec.dropout)
        self.head = nn.Linear(len(WINDOWS) * features, classes)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """[B, L] -> [B, classes]."""
        there_BL = ids_BL != 0
        tokens_BLD = self.blocks(self.embed(ids_BL), there_BL)
        out: Tensor = self.head(self.drop(self.windows(tokens_BLD, there_BL)))
        return out


def build_text_cnn(spec: TextCnnModel, context: BuildContext) -> nn.Module:
    """A module from ids [B, L] to [B, classes].

    Raises:
        InputError: samples are no texts.
    """
    return TextCnn(spec, token_shape(spec, context), context.classes)


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
