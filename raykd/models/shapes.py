"""The shape of a text's ids, as models of texts take it."""

from __future__ import annotations


class TokenShape(tuple[int, ...]):
    """The shape (length,) of a text's ids, with what a model has to know of them.

    Attributes:
        vocabulary: ids are below it; 0 is padding.
        kind: type of the tokenizer.
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
