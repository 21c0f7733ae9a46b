"""What samples look like as the source gave them: values, with mistakes of scale; lengths of texts, with what is lost.

Shapes: N samples, D values of a sample, L bytes of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raykd.data.mapped import pieces
from raykd.data.near_duplicates import EXAMPLES
from raykd.data.samples import Samples
from raykd.data.texts import is_word_byte
from raykd.types import TEXT

_CHANNELS = (1, 3, 4)
_BYTE = 255
_LONGEST_CHARACTER = 4
_NAMED = 12


@dataclass(frozen=True)
class ValueRange:
    """Values of one input as the source gave them.

    Attributes:
        name: the input.
        dtype: its dtype.
        shape: shape of one sample.
        low: smallest value.
        high: largest value.
        constant: samples whose values are all the same.
        empty: samples whose values are all zero.
        examples: the user's ids of constant samples.
        still: of vectors, indices of values that are the same in every sample.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    constant: int
    empty: int
    examples: tuple[str, ...]
    still: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether a sample has axes for channels, height and width."""
        return len(self.shape) == len(("C", "H", "W"))

    def line(self) -> str:
        """As plain text."""
        return (
            f"{self.name}: {self.dtype} {list(self.shape)}, values from {self.low:g} to {self.high:g}, "
            f"{self.constant} constant samples, {self.empty} of them all zero"
        )


def range_of(samples: Samples, name: str) -> ValueRange:
    """The values of one input over all samples; gaps of a table, and codes of its words, are none."""
    array = samples.inputs[name]
    words = list(samples.word_columns)
    lows, highs = [], []
    low_D = (
        np.full(array[0].size, np.nan, array.dtype) if samples.is_table else array[0].reshape(-1)
    )
    high_D = low_D
    for rows in pieces(np.arange(len(array)), array.nbytes // len(array)):
        flat_ND = array[rows].reshape(len(rows), -1)
        if words:
            flat_ND[:, words] = np.nan
        lows.append(np.fmin.reduce(flat_ND, axis=1))
        highs.append(np.fmax.reduce(flat_ND, axis=1))
        low_D = np.fmin(low_D, np.fmin.reduce(flat_ND, axis=0))
        high_D = np.fmax(high_D, np.fmax.reduce(flat_ND, axis=0))
    low_N, high_N = np.concatenate(lows), np.concatenate(highs)
    constant = np.flatnonzero(low_N == high_N)
    is_vector = array.ndim == len(("N", "D"))
    return ValueRange(
        name=name,
        dtype=str(array.dtype),
        shape=tuple(array.shape[1:]),
        low=float(np.fmin.reduce(low_N)),
        high=float(np.fmax.reduce(high_N)),
        constant=len(constant),
        empty=int((low_N[constant] == 0).sum()),
        examples=tuple(samples.named(constant[:EXAMPLES])),
        still=tuple(np.flatnonzero(low_D == high_D).tolist()) if is_vector else (),
    )


def range_warnings(values: ValueRange) -> list[str]:
    """What looks wrong, in plain words."""
    warnings = [*_image_warnings(values)] if values.is_image else []
    if values.constant:
        shown = ", ".join(values.examples)
        warnings.append(
            f"{values.constant} samples of {values.name} have one value everywhere (ids {shown})"
        )
    if values.still:
        shown = ", ".join(map(str, values.still[:EXAMPLES]))
        warnings.append(
            f"{len(values.still)} of {values.shape[0]} values of {values.name} are the same in every sample "
            f"(indices {shown}): they say nothing"
        )
    return warnings


def _image_warnings(values: ValueRange) -> list[str]:
    warnings = []
    if values.shape[0] not in _CHANNELS and values.shape[-1] in _CHANNELS:
        warnings.append(
            f"{values.name} has shape {list(values.shape)}: channels come first ([C, H, W]); "
            "this looks like [H, W, C]"
        )
    found = f"{values.name} has values from {values.low:g} to {values.high:g}"
    if values.dtype == "uint8" and values.high <= 1:
        warnings.append(
            f"{found} in uint8, which is shown divided by {_BYTE}: nearly black; multiply by {_BYTE}, or "
            "give floats"
        )
    if values.dtype.startswith("float") and (values.high > 1 or values.low < 0):
        warnings.append(
            f"{found}; view steps take float images to be in [0, 1], where 0 is the background; "
            f"{_meant(values)}"
        )
    return warnings


def _meant(values: ValueRange) -> str:
    if values.low < 0:
        return "these look normalised already: give them as they were before"
    if values.high <= _BYTE:
        return f"these look like 0..{_BYTE} in float: give uint8, or divide by {_BYTE}"
    return "divide by the largest that there can be"


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


def columns_in_words(samples: Samples) -> list[str]:
    """What is used of a table, and what is left out and why, a line each; none where samples are no table of names."""
    if not samples.features or not samples.is_table:
        return []
    gaps = dict(zip(samples.features, samples.gaps.tolist(), strict=True))
    numbers = [name for name in samples.features if name not in samples.words]
    words = [f"{n}: {len(known):,} words" for n, known in samples.words.items()]
    words = [f"{one}{_gaps(gaps[n])}" for one, n in zip(words, samples.words, strict=True)]
    parts = [
        f"{len(some)} of {kind} ({_some(shown)})"
        for kind, some, shown in (
            ("numbers", numbers, [f"{name}{_gaps(gaps[name])}" for name in numbers]),
            ("words", words, words),
        )
        if some
    ]
    left_out = [f"{name!r} {why}" for name, why in samples.unused.items()]
    return [f"columns: {', '.join(parts)}", *(f"left out: {one}" for one in left_out)]


def _gaps(count: int) -> str:
    return f", {count:,} gap{'s' * (count != 1)}" if count else ""


def _some(names: list[str]) -> str:
    """Names, of which not too many are shown."""
    more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def cut_texts(samples: Samples) -> str:
    """What a line about the data ends with where texts were cut."""
    found = lengths_of(samples)
    if found is None or not found.full:
        return ""
    return f"; {found.full:,} texts cut at {found.limit:,} bytes"
