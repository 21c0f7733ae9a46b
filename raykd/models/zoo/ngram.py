"""An n-gram language model as a teacher; see `raykd.models.ngram` for its formula.

It is counted once, by whoever starts the run, and its state are the tables: nothing is pickled, and every process that
hosts it answers from the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raykd.config.models import NgramModel
from raykd.models.causal import causal_shape, known_ids
from raykd.models.ngram import Ngram, NgramTables, fit_ngram, highest_order
from raykd.models.shapes import BuildContext
from raykd.models.zoo.foreign import ForeignModel


class NgramLm(ForeignModel):
    """Log-probabilities [B, L, V] of the token after each token.

    Args:
        tables: of the n-grams; None: it is not fitted, and cannot be asked.
    """

    def __init__(self, tables: NgramTables | None) -> None:
        super().__init__()
        self._ngram = None if tables is None else Ngram(tables)
        for name, tensor in ({} if tables is None else tensors_of(tables)).items():
            self.register_buffer(name, tensor)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """[B, L] -> float32 [B, L, V], on the device of the tokens."""
        if self._ngram is None:
            raise RuntimeError("an n-gram model is fitted within a recipe; there is no text here")
        logs_BLV = self._ngram.log_probabilities(known_ids(tokens_BL).cpu().numpy())
        return torch.from_numpy(logs_BLV).to(tokens_BL.device)


def tensors_of(tables: NgramTables) -> dict[str, Tensor]:
    """The state of an n-gram model, as safetensors keeps it."""
    return {name: torch.tensor(array) for name, array in tables.arrays().items()}


def tables_of(state: Mapping[str, Tensor]) -> NgramTables:
    """The tables in a state.

    Raises:
        ValueError: they are not there, or are none.
    """
    return NgramTables.from_arrays({name: tensor.cpu().numpy() for name, tensor in state.items()})


def ngram_examples(
    spec: NgramModel, tokens_BL: Tensor, length_B: Tensor, *, vocabulary: int
) -> dict[str, Tensor]:
    """The state of an n-gram model of some chunks of text.

    Args:
        spec: its settings.
        tokens_BL: ids int [B, L].
        length_B: how many of them are there.
        vocabulary: V.

    Raises:
        ValueError: there is no token, or the order is too high for the vocabulary.
    """
    rows, lengths = tokens_BL.cpu().numpy(), length_B.tolist()
    texts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return tensors_of(fit_ngram(texts, vocabulary=vocabulary, order=spec.order))


def build_ngram(spec: NgramModel, context: BuildContext) -> NgramLm:
    """The model of the tables in `context.weights`.

    Raises:
        InputError: samples are no sequences of tokens, or the order is too high for their vocabulary.
    """
    _, vocabulary = causal_shape(spec, context)
    most = highest_order(vocabulary)
    if spec.order > most:
        raise context.error(
            f"is {spec.order}; grams of {vocabulary:,} different tokens have at most {most} of them: use 1 to {most}",
            field="order",
        )
    if context.weights is None:
        return NgramLm(None)
    tables = tables_of(context.weights)
    if tables.vocabulary != vocabulary:
        raise context.error(
            f"was counted on {tables.vocabulary:,} different tokens; the samples have {vocabulary:,}"
        )
    return NgramLm(tables)
