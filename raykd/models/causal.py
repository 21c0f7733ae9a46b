"""Causal language models: what every network has that predicts the token after each token.

A model takes token ids int64 [B, L] in [0, V) and returns logits [B, L, V]: those at a position are for the token
after it, from the tokens of its row up to it. Rows that are shorter are filled behind their end with any id, −1
among them. Nothing looks ahead, so what stands there has no influence on what comes before, and no mask is needed.

Shapes: B batch, L length, D features, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from raykd.config.models import Model
from raykd.models.shapes import BuildContext, TokenShape


@runtime_checkable
class CausalModel(Protocol):
    """A network whose last layer can be applied to a part of the tokens at a time."""

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """What the head takes, float [B, L, D]."""
        ...

    def head_weights(self) -> tuple[Tensor, Tensor | None]:
        """Weights [V, D] and bias [V] of the head: logits = hidden · weightsᵀ + bias."""
        ...


class CausalNetwork(nn.Module):
    """A body from ids to states, and a linear head."""

    head: nn.Linear

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """See `CausalModel`."""
        raise NotImplementedError

    def head_weights(self) -> tuple[Tensor, Tensor | None]:
        """See `CausalModel`."""
        return self.head.weight, self.head.bias

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, V]."""
        logits: Tensor = self.head(self.hidden(tokens_BL))
        return logits


def linear_head(model: nn.Module) -> bool:
    """Whether a model's logits are a linear map of its hidden states, which it gives."""
    if not isinstance(model, CausalModel):
        return False
    try:
        model.head_weights()
    except ValueError:
        return False
    return True


def logits_of(model: CausalModel, hidden_ND: Tensor) -> Tensor:
    """The head on some of the states, [N, D] -> [N, V]."""
    return F.linear(hidden_ND, *model.head_weights())


def known_ids(tokens_BL: Tensor) -> Tensor:
    """Ids that a table of embeddings can look up: what fills a row, −1, becomes 0."""
    return tokens_BL.clamp(min=0).long()


def causal_shape(spec: Model, context: BuildContext) -> tuple[int, int]:
    """Length of a sample and size of the vocabulary.

    Raises:
        InputError: samples are no sequences of tokens, or outputs are not the vocabulary.
    """
    shape = context.input_shape
    if not isinstance(shape, TokenShape) or shape.vocabulary != context.classes:
        found = "texts" if isinstance(shape, TokenShape) else f"a sample here is {list(shape)}"
        raise context.error(
            f"{spec.type} predicts the next token of a sequence, with `task: language`; {found}, and the model has "
            f"{context.classes:,} outputs: use {'bag, text_cnn or text_transformer' if found == 'texts' else 'mlp'}"
        )
    return shape[0], shape.vocabulary
