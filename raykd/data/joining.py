"""A table's keys beside the ids of samples: which row belongs to which sample, and what is left over.

Shapes: N samples, M keys.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SHOWN = 3
_SUFFIX = re.compile(r"\.[a-zA-Z0-9]{1,5}$")


@dataclass(frozen=True, eq=False)
class Match:
    """What `match` found.

    Attributes:
        key_N: int64, the number of each sample's key; −1 where it has none.
        strangers: keys that no sample has.
        alike: pairs of key and id that are the same but for how they are written.
        lost_zeros: whether a key that no sample has is one's without the zeros at its front, as spreadsheets write it.
    """

    key_N: np.ndarray
    strangers: tuple[str, ...]
    alike: tuple[tuple[str, str], ...]
    lost_zeros: bool = False

    def in_words(self, table: str) -> list[str]:
        """What a reader should know of a table's keys; nothing where each is a sample's.

        Args:
            table: how it is called.
        """
        told = []
        if self.strangers:
            count = len(self.strangers) + int((self.key_N >= 0).sum())
            lacking = int((self.key_N < 0).sum())
            others = f"; {lacking:,} samples have no row in it" if lacking else ""
            zeros = "; zeros at the front were lost: write ids as texts" if self.lost_zeros else ""
            told.append(
                f"{len(self.strangers):,} of {count:,} keys of {table} match no sample ({_some(self.strangers)})"
                f"{others}{zeros}"
            )
        if self.alike:
            key, sample = self.alike[0]
            told.append(
                f"{len(self.alike):,} keys of {table} match a sample only once they are written alike: Unicode form, blanks "
                f"at the ends, / for \\, case of the file's ending (e.g. {key!r} is {sample!r})"
            )
        return told


def match(ids: Any, keys: Any) -> Match:
    """Find the key of each sample: the same text or, where none is, the only one that is written alike.

    Args:
        ids: pyarrow array of N different texts.
        keys: pyarrow array of M different texts.
    """
    found = pc.fill_null(pc.index_in(ids, value_set=keys), -1)
    key_N = found.to_numpy(zero_copy_only=False).astype(np.int64)
    left = np.setdiff1d(np.arange(len(keys)), key_N)
    if not len(left):
        return Match(key_N, (), ())
    lacking = np.flatnonzero(key_N < 0)
    key_of, row_of = (
        _once(
            zip(
                map(_evened, texts.take(pa.array(places)).to_pylist()), places.tolist(), strict=True
            )
        )
        for texts, places in ((keys, left), (ids, lacking))
    )
    pairs = [(key_of[text], row_of[text]) for text in row_of if text in key_of]
    for key, row in pairs:
        key_N[row] = key
    alike = tuple((keys[key].as_py(), ids[row].as_py()) for key, row in pairs)
    strangers = tuple(keys.take(pa.array(np.setdiff1d(left, key_N))).to_pylist())
    unmatched = ids.take(pa.array(np.flatnonzero(key_N < 0))).to_pylist()
    bare = {text.lstrip("0") for text in unmatched if text.startswith("0")}
    return Match(key_N, strangers, alike, not bare.isdisjoint(strangers))


def _evened(text: str) -> str:
    """A key or path without what two systems write differently."""
    plain = unicodedata.normalize("NFC", text).strip().replace("\\", "/").removeprefix("./")
    return _SUFFIX.sub(lambda ending: ending[0].lower(), plain)


def _once(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Text -> number, of texts that occur once."""
    every = list(pairs)
    times = Counter(text for text, _ in every)
    return {text: number for text, number in every if times[text] == 1}


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return f"e.g. {shown}" if len(names) > _SHOWN else shown
