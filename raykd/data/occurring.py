"""A tokenizer with the tokens of another one that occur in some texts: what a small student needs of a large one's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from raykd.data.bpe import BpeAsTokens
from raykd.errors import InputError

_KEY = "data.tokens.tokenizer"


@dataclass(frozen=True)
class OccurringTokens:
    """Some tokens of a byte-level BPE, numbered anew in their order.

    A text is cut as the whole tokenizer cuts it; a token that is none of them is spelt in bytes, so that no text is lost.

    Attributes:
        content: JSON of the whole tokenizer's content (`whole`) and the ids of the tokens that are kept (`own`), rising.

    Raises:
        InputError: the whole one is no byte-level BPE, or the ids are none of its tokens.
    """

    name: ClassVar[str] = "bpe_occurring"

    content: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            own, sizes = self.own, self.whole.sizes
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError.at(_KEY, f"its content is none of a tokenizer ({error!r})") from error
        if not len(own) or (np.diff(own) <= 0).any() or own[0] < 0 or own[-1] >= len(sizes):
            raise InputError.at(
                _KEY, "names tokens that the whole tokenizer does not have, or one twice"
            )

    @cached_property
    def whole(self) -> BpeAsTokens:
        """The tokenizer that texts are cut by."""
        return BpeAsTokens(json.loads(self.content)["whole"])

    @cached_property
    def own(self) -> np.ndarray:
        """The whole tokenizer's id of each token, rising int64 [V]."""
        return np.array(json.loads(self.content)["own"], np.int64)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many bytes each token stands for."""
        return tuple(np.array(self.whole.sizes)[self.own].tolist())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()[:32]

    @cached_property
    def _places(self) -> np.ndarray:
        """Of each token of the whole tokenizer its number here, −1 of the others."""
        places = np.full(len(self.whole.sizes), -1, np.int64)
        places[self.own] = np.arange(len(self.own))
        return places

    @cached_property
    def _bytes(self) -> dict[int, int]:
        """Byte -> the number of its token here."""
        return {byte: int(self._places[one]) for byte, one in single_bytes(self.whole).items()}

    def ids(self, text: bytes) -> np.ndarray:
        """The ids of a text, int64."""
        cut = self.whole.ids(text)
        found: np.ndarray = self._places[cut]
        if (found >= 0).all():
            return found
        spelt: list[int] = []
        for token, place in zip(cut.tolist(), found.tolist(), strict=True):
            spelt += [place] if place >= 0 else [self._bytes[b] for b in self.whole.text([token])]
        return np.array(spelt, np.int64)

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids stand for."""
        return self.whole.text(self.own[list(ids)].tolist())


def single_bytes(whole: BpeAsTokens) -> dict[int, int]:
    """Byte -> the token that stands for it alone.

    Raises:
        InputError: a longer token has a byte that stands alone in none.
    """
    short = [token for token, size in enumerate(whole.sizes) if size == 1]
    found = {whole.text([token])[0]: token for token in reversed(short)}
    if lacking := sorted(set(whole.text(range(len(whole.sizes)))) - found.keys()):
        raise InputError.at(
            f"{whole.key}.occurring",
            f"the tokenizer has no token for the single bytes {', '.join(map(hex, lacking[:5]))}, in which rare tokens would be "
            "spelt; leave it out",
        )
    return found


def occurring(whole: BpeAsTokens, texts: Iterable[str]) -> OccurringTokens:
    """The tokens that occur in some texts, and every byte.

    Raises:
        InputError: the tokenizer has no token for a byte.
    """
    kept = set(single_bytes(whole).values())
    for text in texts:
        kept.update(whole.ids(text.encode()).tolist())
    own = [token for token in sorted(kept) if whole.sizes[token]]
    return OccurringTokens(json.dumps({"whole": whole.content, "own": own}))
