"""Texts as arrays: UTF-8 in rows of one length, padded with zeros; cut where a character ends.

Shapes: N texts, L bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raykd.config.base import TEXT_BYTES


def encode_texts(texts: Sequence[str], length: int = TEXT_BYTES) -> np.ndarray:
    """Texts as a source hands them over, for `Dataset(inputs={"text": ...})`; zero bytes become spaces.

    Args:
        texts: any number; what cannot be written in UTF-8 (lone surrogates) becomes a question mark.
        length: bytes that are kept of each.

    Returns:
        uint8 [N, length].
    """
    rows = np.zeros((len(texts), length), dtype=np.uint8)
    for row, text in zip(rows, texts, strict=True):
        payload = text.replace("\0", " ").encode(errors="replace")
        if len(payload) > length:
            payload = payload[:length].decode(errors="ignore").encode()
        row[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    return rows


def decode_texts(text_NL: np.ndarray) -> Iterator[str]:
    """The texts in rows of bytes; bytes that are no UTF-8 become the replacement character."""
    for row in np.ascontiguousarray(text_NL):
        yield row.tobytes().rstrip(b"\0").decode(errors="replace")


def is_word_byte(text_NL: np.ndarray) -> np.ndarray:
    """Which bytes are neither padding, nor ASCII control characters, nor spaces: bool [N, L]."""
    inside: np.ndarray = text_NL > ord(" ")
    return inside


def drop_words(text_BL: np.ndarray, dropped_BK: np.ndarray) -> np.ndarray:
    """Blank out words.

    Args:
        text_BL: uint8.
        dropped_BK: bool, of at least as many words as a text has: whether it goes.

    Returns:
        uint8 [B, L]; a word that goes is spaces.
    """
    inside_BL = is_word_byte(text_BL)
    number_BL = _word_numbers(inside_BL)
    gone_BL = np.take_along_axis(dropped_BK, np.maximum(number_BL, 0), axis=1) & inside_BL
    return np.where(gone_BL, np.uint8(ord(" ")), text_BL)


def most_words(text_BL: np.ndarray) -> int:
    """The words of the text that has most, 1 at least."""
    return max(1, int(_word_numbers(is_word_byte(text_BL)).max()) + 1)


def _word_numbers(inside_BL: np.ndarray) -> np.ndarray:
    """The number of the word that a byte is in or behind, from 0; −1 before the first: int64 [B, L]."""
    starts_BL = inside_BL.copy()
    starts_BL[:, 1:] &= ~inside_BL[:, :-1]
    numbers: np.ndarray = starts_BL.cumsum(axis=1) - 1
    return numbers
