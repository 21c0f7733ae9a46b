"""Texts as chunks of tokens: what a language model is trained on and judged by.

A document is cut into chunks of at most `length` tokens, each a sample of its own; no chunk reaches over the end of a
document. Every token but a chunk's first is predicted from those before it in the chunk, unless it is part of the prompt.

A unit's label is a row of four integers: the token, its bytes, the number of its document's domain, and the row of the
chunk that it belongs to.

Shapes: D documents, B chunks asked for, M chunks, L tokens, N units, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raykd.errors import InputError
from raykd.types import UNLABELLED

TOKEN, BYTES, DOMAIN, CHUNK = range(4)
"""Columns of a unit's label."""
LABEL_COLUMNS = 4
ONE_DOMAIN = "text"
"""Name of the domain where documents have none."""
NO_DOMAIN = "other"
"""Name of the domain of documents without one, where others have one."""


class TextTokenizer(Protocol):
    """Texts to ids, a function of the bytes of the text alone."""

    @property
    def content(self) -> str:
        """All that it is made from; empty where its name says all."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many bytes of the text each token stands for, by id; 0 of a token that stands for none."""
        ...

    @property
    def name(self) -> str:
        """Of its kind."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that ids depend on."""
        ...

    def ids(self, text: bytes) -> np.ndarray:
        """The ids of a text, integers in [0, V)."""
        ...

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids stand for."""
        ...


@dataclass(frozen=True)
class BytesAsTokens:
    """Every byte is a token: 256 of them, nothing is fitted."""

    content: str = ""

    @property
    def sizes(self) -> tuple[int, ...]:
        """One byte each."""
        return (1,) * 256

    @property
    def name(self) -> str:
        """Of its kind."""
        return "bytes"

    @property
    def fingerprint(self) -> str:
        """The same for all texts."""
        return "bytes"

    def ids(self, text: bytes) -> np.ndarray:
        """The bytes themselves."""
        return np.frombuffer(text, np.uint8).astype(np.int64)

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes themselves."""
        return bytes(ids)


@dataclass(frozen=True)
class Vocabulary:
    """What is known of the tokens of some chunks.

    Attributes:
        tokenizer: made them.
        length: tokens of a chunk at most, L.
    """

    tokenizer: TextTokenizer
    length: int

    @property
    def size(self) -> int:
        """V."""
        return len(self.tokenizer.sizes)

    @property
    def content(self) -> str:
        """All that the tokenizer is made from."""
        return self.tokenizer.content

    @property
    def names(self) -> list[str]:
        r"""What each token stands for, as Python writes bytes: `a`, `\n`, `\xc3`."""
        return [repr(self.tokenizer.text([one]))[2:-1] for one in range(self.size)]

    @property
    def name(self) -> str:
        """Of the kind of tokenizer."""
        return self.tokenizer.name

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer and the number of its tokens."""
        text = f"{self.tokenizer.fingerprint}:{self.tokenizer.sizes}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Chunks:
    """Documents, cut.

    Attributes:
        tokens: int32 [M, 2, L], see `raykd.types.CHUNKS`.
        document: int64 [M], the document that each is of, rising.
        number: int64 [M], which chunk of its document each is, from 0.
    """

    tokens: np.ndarray
    document: np.ndarray
    number: np.ndarray


def cut_documents(
    text_DL: np.ndarray, vocabulary: Vocabulary, prompt_D: np.ndarray | None = None
) -> Chunks:
    """Documents as chunks; one of which no token would be predicted is left out.

    Args:
        text_DL: uint8, padded with zeros.
        vocabulary: tokenizer and length of a chunk.
        prompt_D: bytes at the beginning of each document that are given and not predicted; a token that reaches over
            their end is predicted.

    Raises:
        InputError: nothing is left.
    """
    length, parts, document, number = vocabulary.length, [], [], []
    sizes = np.array(vocabulary.tokenizer.sizes, np.int64)
    end_D = np.where(text_DL != 0, np.arange(1, text_DL.shape[1] + 1), 0).max(axis=1)
    for row, end in enumerate(end_D.tolist()):
        ids = vocabulary.tokenizer.ids(text_DL[row, :end].tobytes())
        given = 0 if prompt_D is None else int(prompt_D[row])
        counted = np.cumsum(sizes[ids]) > given
        for start in range(0, len(ids), length):
            part = np.zeros((2, length), np.int32)
            here = ids[start : start + length]
            part[0, : len(here)] = here
            part[1, 1 : len(here)] = counted[start + 1 : start + len(here)]
            if part[1].any():
                parts.append(part)
                document.append(row)
                number.append(start // length)
    if not parts:
        raise InputError.at(
            "data.source", "no document has a token to be predicted: each needs two tokens or more"
        )
    return Chunks(np.stack(parts), np.array(document, np.int64), np.array(number, np.int64))


def unit_labels(
    tokens_B2L: np.ndarray, rows_B: np.ndarray, domains_B: np.ndarray, sizes_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the units of some chunks, int64 [N, 4], and where each chunk's begin and end, int64 [B + 1].

    Args:
        tokens_B2L: the chunks.
        rows_B: their rows in the data.
        domains_B: the numbers of their domains, −1 where the label is hidden: then of all its units.
        sizes_V: bytes of each token.
    """
    predicted = tokens_B2L[:, 1, 1:] > 0
    counts_B = predicted.sum(axis=1)
    token_N = tokens_B2L[:, 0, 1:][predicted].astype(np.int64)
    labels = np.stack(
        [token_N, sizes_V[token_N], domains_B.repeat(counts_B), rows_B.repeat(counts_B)], axis=1
    )
    labels[labels[:, DOMAIN] == UNLABELLED] = UNLABELLED
    return labels, np.concatenate([[0], np.cumsum(counts_B)]).astype(np.int64)


def domains_of(labels_D: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The number of each document's domain, int64 [D], and the names of the domains."""
    unknown_D = labels_D == UNLABELLED
    if unknown_D.all():
        return np.zeros(len(labels_D), np.int64), (ONE_DOMAIN,)
    if not unknown_D.any():
        return labels_D.astype(np.int64), tuple(names)
    numbers = np.where(unknown_D, len(names), labels_D).astype(np.int64)
    return numbers, (*names, NO_DOMAIN)
