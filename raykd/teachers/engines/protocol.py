"""What an engine does, and what its ids are held to before it is asked.

Ids come and go as ragged rows: all of them after each other, and offsets [B + 1], so that row b is
`ids[offsets[b]:offsets[b + 1]]`. Text is never cut into tokens again: what an engine says is about the ids given.

Shape suffixes: B rows, L tokens of all rows together, N units (predicted tokens), K classes kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from raykd.errors import InputError, TeacherError
from raykd.types import TopK

Ragged = tuple[Tensor, Tensor]
"""Ids int64 [L] and offsets int64 [B + 1]."""


class Engine(Protocol):
    """A causal language model that can be asked."""

    @property
    def vocabulary(self) -> int:
        """V; ids are 0 to V − 1."""
        ...

    def score(self, ids: Tensor, offsets: Tensor) -> TopK:
        """What the model expects at each token but the first of a row, from the tokens of the row before it.

        Args:
            ids: int64 [L].
            offsets: int64 [B + 1].

        Returns:
            The answer for the units of all rows after each other, and in its `offsets` which are whose (see
            `unit_offsets`). It does not depend on the other rows.

        Raises:
            ValueError: offsets that do not cut all ids into rows.
            TeacherError: ids out of range, or no usable answer.
        """
        ...

    def generate(self, ids: Tensor, n: int, max_new: int, seed: int) -> Ragged:
        """Continuations drawn from the model, at temperature 1 and without cutting any token off.

        Args:
            ids: int64 [L], the prompt, at least one token.
            n: how many continuations.
            max_new: most tokens of each, at least 1.
            seed: the same one gives the same continuations.

        Returns:
            n rows of 1 to max_new new ids, without the prompt; the token that ends a text is kept.

        Raises:
            TeacherError: ids out of range, or no usable answer.
        """
        ...

    def tokenize(self, text: str) -> list[int]:
        """The ids that the model's own tokenizer cuts a text into, without BOS or EOS.

        Raises:
            TeacherError: it has no tokenizer, or cannot be asked for it.
        """
        ...


def unit_offsets(offsets: Tensor) -> Tensor:
    """Where each row's units begin and end, int64 [B + 1]: a row of n tokens has n − 1, and none of none."""
    counts = (offsets.diff() - 1).clamp(min=0)
    return torch.cat([offsets.new_zeros(1), counts.cumsum(0)])


def rows_of(ids: Tensor, offsets: Tensor) -> list[Tensor]:
    """The rows, each int64.

    Raises:
        ValueError: the offsets do not cut all ids into rows.
    """
    bounds = offsets.tolist()
    if not bounds or bounds[0] != 0 or bounds[-1] != len(ids) or bounds != sorted(bounds):
        raise ValueError(
            f"offsets must rise from 0 to the number of ids, {len(ids)}, found {bounds[:5]} to {bounds[-1:]}"
        )
    return [ids[start:end] for start, end in pairwise(bounds)]


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Rows of ids as ids and offsets."""
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([one for row in rows for one in row], dtype=torch.int64), lengths.cumsum(0)


def require_ids(ids: Tensor, vocabulary: int, *, engine: str) -> None:
    """Ids that the engine's vocabulary has.

    Raises:
        TeacherError: one is out of range; most likely they are another tokenizer's.
    """
    wrong = (ids < 0) | (ids >= vocabulary)
    if bool(wrong.any()):
        raise TeacherError(
            f"engine {engine} has ids 0 to {vocabulary - 1}, found {int(ids[wrong][0])}: the ids are those of another "
            "tokenizer; cut the texts with the engine's own"
        )


def require_prompt(ids: Tensor, n: int, max_new: int) -> None:
    """Something to go on from, and something to draw.

    Raises:
        ValueError: an empty prompt, or counts below 1.
    """
    if len(ids) == 0 or n < 1 or max_new < 1:
        raise ValueError(
            f"found a prompt of {len(ids)} tokens, n {n} and max_new {max_new}; each is at least 1"
        )


def require_same_tokenizer(
    engine: Engine, tokenize: Callable[[str], Sequence[int]], texts: Sequence[str], *, key: str
) -> None:
    """The engine cuts some texts as the student's tokenizer does; equal sizes of the vocabulary would not tell.

    Args:
        engine: whose tokenizer is asked.
        tokenize: the student's.
        texts: a few, with what tokenizers differ in: capitals, digits, spaces, characters of several bytes.
        key: dotted key of the recipe, for the error.

    Raises:
        InputError: a text is cut otherwise; the text and both cuts are shown.
        TeacherError: the engine cannot be asked.
    """
    for text in texts:
        own, found = list(tokenize(text)), engine.tokenize(text)
        if own != found:
            raise InputError.at(
                key,
                f"has another tokenizer: it cuts {text[:60]!r} into {found[:12]}, the student's into {own[:12]}; use "
                "the tokenizer of the engine's model for the data, or compare spans of bytes (`raykd.spans`)",
            )
