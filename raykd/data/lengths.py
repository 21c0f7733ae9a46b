"""How long texts are, and what of them is lost.

Shapes: N texts, L bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raykd.data.mapped import pieces
from raykd.data.samples import Samples
from raykd.data.texts import is_word_byte
from raykd.types import TEXT

_LONGEST_CHARACTER = 4


@dataclass(frozen=True)
class TextLengths:
    """How long texts are.

    Attributes:
        limit: bytes that are kept of a text.
        median: bytes.
        full: texts that reach the limit, so that they were cut, or fit exactly.
        empty: texts of white space alone.
    """

    limit: int
    median: int
    full: int
    empty: int

    def line(self) -> str:
        """As plain text."""
        return f"text: {self.median:,} bytes in the median, {self.limit:,} are kept"


def text_lengths(text_NL: np.ndarray) -> TextLengths:
    """Lengths of texts, uint8 [N, L], also of more than memory holds."""
    lengths, empty, limit = [], 0, text_NL.shape[1]
    for rows in pieces(np.arange(len(text_NL)), limit):
        part_NL = text_NL[rows]
        used_NL = part_NL != 0
        last_N = limit - used_NL[:, ::-1].argmax(axis=1)
        lengths.append(np.where(used_NL.any(axis=1), last_N, 0))
        empty += int((~is_word_byte(part_NL).any(axis=1)).sum())
    every = np.concatenate(lengths)
    full = int((every > limit - _LONGEST_CHARACTER).sum())
    return TextLengths(limit, int(np.median(every)), full, empty)


def lengths_of(samples: Samples) -> TextLengths | None:
    """Lengths of all texts; None where samples are none."""
    return text_lengths(samples.inputs[TEXT]) if samples.is_text else None


def length_warnings(texts: TextLengths, count: int) -> list[str]:
    """What is lost, in plain words.

    Args:
        texts: their lengths.
        count: of all texts.
    """
    warnings = []
    if texts.full:
        share = texts.full / count
        warnings.append(f"{texts.full} texts ({share:.1%}) reach {texts.limit:,} bytes: what lies behind was cut; "
                        "raise data.source.length to keep it")  # fmt: skip
    if texts.empty:
        warnings.append(f"{texts.empty} texts are empty")
    return warnings


def cut_texts(samples: Samples) -> str:
    """What a line about the data ends with where texts were cut."""
    found = lengths_of(samples)
    if found is None or not found.full:
        return ""
    return f"; {found.full:,} texts cut at {found.limit:,} bytes"
