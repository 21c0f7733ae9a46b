"""What a model is built for: the shape of its inputs, of texts with what a model has to know of their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raykd.errors import InputError


class TokenShape(tuple[int, ...]):
    """The shape (length,) of a text's ids, with what a model has to know of them.

    Attributes:
        vocabulary: ids are below it; 0 is padding, but of `tokens`.
        kind: type of the tokenizer; `none` = ids are the bytes of the text itself, `tokens` = samples are sequences
            of ids (`task: language`).
    """

    vocabulary: int
    kind: str

    def __new__(cls, length: int, vocabulary: int, kind: str) -> TokenShape:
        """A tuple of one side, and two names beside it."""
        self = super().__new__(cls, (length,))
        self.vocabulary, self.kind = vocabulary, kind
        return self

    def __getnewargs__(self) -> tuple[int, int, str]:
        return (self[0], self.vocabulary, self.kind)


@dataclass(frozen=True)
class BuildContext:
    """What a model is built for, beside its settings.

    Attributes:
        input_shape: of one preprocessed sample, without the batch; of texts a `TokenShape`.
        classes: outputs of the model.
        key: dotted key of the model in the recipe (`student.model`), for errors.
        weights: its weights, where they are known.
    """

    input_shape: tuple[int, ...]
    classes: int
    key: str
    weights: Mapping[str, Tensor] | None = None

    @property
    def gives_texts(self) -> bool:
        """Whether the model is given texts, as uint8 rows, and no ids."""
        return isinstance(self.input_shape, TokenShape) and self.input_shape.kind == "none"

    def error(self, message: str, *, field: str = "") -> InputError:
        """An error about the model, or about a field of its settings."""
        return InputError.at(f"{self.key}.{field}" if field else self.key, message)
