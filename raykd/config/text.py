"""Texts: how models cut them into tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import Count, Settings

TEXT_BYTES = 2000


class HashedTokenizer(Settings):
    """Words, and runs of words, by their hash: nothing is fitted, no word is unknown, a few share an id."""

    type: Literal["hashed"] = "hashed"
    size: Count = 16384
    """Different ids."""
    length: Count = 256
    """Ids of a text that are kept, from its beginning."""
    ngrams: Literal[1, 2, 3] = 1
    """Longest run of words that gets an id: 2 = words and pairs of neighbours."""
    lower: bool = True
    """Without capitals."""


class WordTokenizer(Settings):
    """The most frequent words of the training texts; all others are one word, the unknown one."""

    type: Literal["words"] = "words"
    size: Count = 16384
    """Most words that are known."""
    length: Count = 256
    """Words of a text that are kept, from its beginning."""
    lower: bool = True
    """Without capitals."""


class ByteTokenizer(Settings):
    """Every byte of the text in UTF-8; for short texts, and for languages that leave no spaces."""

    type: Literal["bytes"] = "bytes"
    length: Count = 1024
    """Bytes of a text that are kept, from its beginning."""
    lower: bool = False
    """Without capitals."""


class HfTokenizer(Settings):
    """A tokenizer of transformers; needs the extra `hf`."""

    type: Literal["hf"] = "hf"
    path: str
    """Folder (on every node) with `tokenizer.json` or the files of its kind; mostly that of the model."""
    length: Count = 256
    """Tokens of a text that are kept, from its beginning, those that frame it included."""


Tokenizer = Annotated[
    HashedTokenizer | WordTokenizer | ByteTokenizer | HfTokenizer, Field(discriminator="type")
]
