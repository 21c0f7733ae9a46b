"""Causal language models of raykd's own; see `raykd.models.causal` for what they take and return.

`gru_lm`: embeddings, gated recurrent layers (Cho et al. 2014), a linear head. Taps: `embed` ([B, L, D]), `drop`, `head`.

`transformer_lm`: a decoder (Vaswani et al. 2017; norms first as in GPT-2, Radford et al. 2019) with learned positions.
Taps: `embed` ([B, L, D]), `drop`, `blocks` and `blocks.<i>` and inside it
`{norm1,attention,attention.qkv,attention.out,drop1,norm2,mlp,mlp.{up,act,drop,down},drop2}`, `norm` ([B, L, D]), `head`.

Shapes: B batch, L length, D features, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.config.models import GruLmModel, TransformerLmModel
from raykd.models.causal import CausalNetwork, causal_shape, known_ids
from raykd.models.recurrence import gru_states, pays, token_gates
from raykd.models.shapes import BuildContext
from raykd.models.zoo.parts import EMBEDDING_STD, blocks_of, scaled, xavier_init

GRU_FEATURES = 128
TRANSFORMER_FEATURES = 64
POSITION_STD = 0.02


class GruLm(CausalNetwork):
    """Embeddings of 128·`width` features, `depth` recurrent layers of as many units, a linear head."""

    def __init__(self, spec: GruLmModel, vocabulary: int) -> None:
        super().__init__()
        features = scaled(GRU_FEATURES, spec.width)
        self.embed = nn.Embedding(vocabulary, features)
        between = spec.dropout if spec.depth > 1 else 0.0  # torch warns of one that does nothing
        self.layers = nn.GRU(features, features, spec.depth, batch_first=True, dropout=between)
        self.drop = nn.Dropout(spec.dropout)
        self.head = nn.Linear(features, vocabulary)
        # Of as large a scale as the states: from 0.1, as of texts elsewhere, it takes some hundred updates to grow.
        nn.init.normal_(self.embed.weight)

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        return self.advance(tokens_BL, None)[0]

    def advance(self, tokens_BL: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `raykd.models.generation.Stepping`; a state is that of every layer."""
        ids_BL = known_ids(tokens_BL)
        inputs_BLD = self.embed(ids_BL)
        if pays(ids_BL, self.embed.weight):
            states_BLD, state = self._trained(ids_BL, inputs_BLD, state)
        else:
            states_BLD, state = self.layers(inputs_BLD, state)
        assert state is not None, "a recurrent layer returns one"
        return self.drop(states_BLD), state

    def _trained(
        self, ids_BL: Tensor, inputs_BLD: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What `layers` gives, up to rounding, with a faster gradient."""
        layers, outputs_BLD, last = self.layers, inputs_BLD, []
        if state is None:
            state = inputs_BLD.new_zeros(layers.num_layers, len(ids_BL), layers.hidden_size)
        for index, (weights_GD, back_GD, bias_G, back_G) in enumerate(layers.all_weights):
            if index == 0:
                gates_BLG = token_gates(ids_BL, inputs_BLD, self.embed.weight, weights_GD, bias_G)
            else:
                outputs_BLD = F.dropout(outputs_BLD, layers.dropout, self.training)
                gates_BLG = F.linear(outputs_BLD, weights_GD, bias_G)
            outputs_BLD = gru_states(gates_BLG, state[index], back_GD, back_G)
            last.append(outputs_BLD[:, -1])
        return outputs_BLD, torch.stack(last)


def build_gru_lm(spec: GruLmModel, context: BuildContext) -> nn.Module:
    """A module from ids [B, L] to [B, L, V], of any length.

    Raises:
        InputError: samples are no sequences of tokens.
    """
    _, vocabulary = causal_shape(spec, context)
    return GruLm(spec, vocabulary)


class TransformerLm(CausalNetwork):
    """Embeddings of 64·`width` features, learned positions, `depth` causal blocks, norm, a linear head."""

    def __init__(self, spec: TransformerLmModel, length: int, vocabulary: int) -> None:
        super().__init__()
        features = scaled(TRANSFORMER_FEATURES, spec.width)
        self.embed = nn.Embedding(vocabulary, features)
        self.position = nn.Parameter(torch.empty(length, features))
        self.drop = nn.Dropout(spec.dropout)
        blocks = blocks_of(features, spec.depth, dropout=spec.dropout, causal=True)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, vocabulary)
        nn.init.normal_(self.embed.weight, std=EMBEDDING_STD)
        nn.init.trunc_normal_(self.position, std=POSITION_STD)
        xavier_init(self)

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, D].

        Raises:
            ValueError: rows are longer than the positions that the model has.
        """
        length, most = tokens_BL.shape[1], len(self.position)
        if length > most:
            raise ValueError(f"found {length} tokens; the model has positions for {most}")
        states_BLD = self.drop(self.embed(known_ids(tokens_BL)) + self.position[:length])
        out: Tensor = self.norm(self.blocks(states_BLD))
        return out


def build_transformer_lm(spec: TransformerLmModel, context: BuildContext) -> nn.Module:
    """A module from ids [B, L] to [B, L, V], of at most a sample's length.

    Raises:
        InputError: samples are no sequences of tokens.
    """
    return TransformerLm(spec, *causal_shape(spec, context))
