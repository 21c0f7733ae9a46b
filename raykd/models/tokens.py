"""Tokenizers: from texts (UTF-8 bytes, padded with zeros) to ids (padded with 0). All of them are pure functions.

Shapes: B texts, L bytes, W words of a text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from raykd.config.data import (
    HashedTokenizer,
    HfTokenizer,
    Tokenizer,
    WordTokenizer,
)
from raykd.errors import InputError
from raykd.importing import load_package

_WORD = re.compile(r"\w+")
_HF = "raykd[hf]"
_UNKNOWN = 1
_MEMORY_BYTES = 2**27
_HF_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


@dataclass(frozen=True)
class HashedTokens:
    """Words and runs of up to `ngrams` words, by hash."""

    type: Literal["hashed"]
    size: int
    length: int
    ngrams: int
    lower: bool

    @property
    def meaning(self) -> str:
        """See `AnyTokens`."""
        runs = (
            ""
            if self.ngrams == 1
            else f", and after it the runs of 2 to {self.ngrams} words that end with it"
        )
        return (
            f"{_words_meant(self.lower)}; for each word its id{runs} (joined by one space); an id is 1 + XXH3-64 of "
            f"the UTF-8 bytes modulo {self.size}; the first {self.length} ids, then 0"
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `AnyTokens`."""
        return [self._of_one(words_of(text, lower=self.lower)[: self.length]) for text in texts]

    def _of_one(self, words_W: list[str]) -> list[int]:
        if self.ngrams == 1:
            return [self._id(word) for word in words_W]
        found = [
            self._id(" ".join(words_W[end - count : end]))
            for end in range(1, len(words_W) + 1)
            for count in range(1, min(self.ngrams, end) + 1)
        ]
        return found[: self.length]

    def _id(self, run: str) -> int:
        return xxhash.xxh3_64_intdigest(run.encode(errors="replace")) % self.size + 1


@dataclass(frozen=True)
class WordTokens:
    """Known words; `words` are in the order of their ids, from 2. 1 is any other word."""

    type: Literal["words"]
    length: int
    lower: bool
    words: tuple[str, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """See `AnyTokens`."""
        return len(self.words) + _UNKNOWN

    @property
    def meaning(self) -> str:
        """See `AnyTokens`."""
        return (
            f"{_words_meant(self.lower)}; the id of a word is its place in `words` from {_UNKNOWN + 1}, of any other "
            f"word {_UNKNOWN}; the first {self.length} ids, then 0"
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `AnyTokens`."""
        known = _ids_of(self.words)
        return [
            [known.get(w, _UNKNOWN) for w in words_of(text, lower=self.lower)[: self.length]]
            for text in texts
        ]


@dataclass(frozen=True)
class ByteTokens:
    """Bytes of UTF-8."""

    type: Literal["bytes"]
    length: int
    lower: bool

    @property
    def size(self) -> int:
        """See `AnyTokens`."""
        return 256

    @property
    def meaning(self) -> str:
        """See `AnyTokens`."""
        case = "the text in lower case" if self.lower else "the text"
        return f"{case} in UTF-8; an id is 1 + the byte; the first {self.length} ids, then 0"

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `AnyTokens`."""
        cased = (text.lower() if self.lower else text for text in texts)
        return [
            [byte + 1 for byte in text.encode(errors="replace")[: self.length]] for text in cased
        ]


@dataclass(frozen=True)
class HfTokens:
    """A tokenizer of transformers; `digest` tells whether its folder still holds the same."""

    type: Literal["hf"]
    path: str
    length: int
    size: int
    digest: str

    @property
    def meaning(self) -> str:
        """See `AnyTokens`."""
        return (
            f"1 + the ids that transformers' tokenizer of the recipe (digest {self.digest}) gives, cut to {self.length} "
            "with what frames them, then 0"
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `AnyTokens`.

        Raises:
            InputError: its folder is not here, or holds another tokenizer than before.
        """
        made = _loaded(self.path, self.digest)(
            list(texts), truncation=True, max_length=self.length, padding=False
        )
        return [[token + 1 for token in row] for row in made["input_ids"]]


@dataclass(frozen=True)
class PlainTexts:
    """No tokenizer: texts stay the bytes that they are, for models that ask for texts; see `texts_of`."""

    type: Literal["none"]
    length: int

    @property
    def size(self) -> int:
        """See `AnyTokens`; a byte is an id."""
        return 255

    @property
    def meaning(self) -> str:
        """See `AnyTokens`."""
        return f"the first {self.length} bytes of the text in UTF-8, then 0"

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `AnyTokens`."""
        return [list(text.encode(errors="replace")[: self.length]) for text in texts]


AnyTokens = HashedTokens | WordTokens | ByteTokens | HfTokens | PlainTexts
"""A tokenizer with everything that was found out about it; frozen and hashable, equal ones give equal ids.

`type` is as in the recipe, `length` the ids of a text, `size` the number of different ids beside padding (1 to
`size`), `meaning` how ids are made, in words, for those who have to make them elsewhere; `ids` gives the first
`length` ids of each text, without padding.
"""
Resolve = Callable[[Any, Callable[[], Iterable[str]], str], AnyTokens]


def words_of(text: str, *, lower: bool) -> list[str]:
    """Its words: longest runs of letters, digits and underscores, as Unicode has them."""
    return _WORD.findall(text.lower() if lower else text)


def _words_meant(lower: bool) -> str:
    case = "of the text in lower case " if lower else ""
    return rf"words are the longest runs {case}that match \w+ in Unicode"


def _words(settings: WordTokenizer, texts: Callable[[], Iterable[str]], key: str) -> AnyTokens:
    counts = Counter(word for text in texts() for word in words_of(text, lower=settings.lower))
    if not counts:
        raise InputError.at(key, "no training text has a word; use `bytes`")
    by_count = sorted(counts, key=lambda word: (-counts[word], word))
    kept = tuple(by_count[: settings.size])
    return WordTokens("words", settings.length, settings.lower, kept)


def _hf(settings: HfTokenizer, texts: Callable[[], Iterable[str]], key: str) -> AnyTokens:
    del texts
    load_package("transformers", install=_HF, key=key)
    folder = Path(settings.path).expanduser()
    if not any((folder / name).is_file() for name in _HF_FILES):
        raise InputError.at(
            f"{key}.path", f"{folder} (in {Path.cwd()}) has no tokenizer.json and no other file of a tokenizer; give "
            "the folder of `tokenizer.save_pretrained`"
        )  # fmt: skip
    digest = _digest(folder)
    try:
        size = len(_loaded(str(folder), digest))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError.at(
            f"{key}.path", f"the tokenizer in {folder} cannot be loaded ({why}); save it again"
        ) from error
    return HfTokens("hf", str(folder), settings.length, size, digest)


_PLAIN: dict[str, type[HashedTokens | ByteTokens]] = {"hashed": HashedTokens, "bytes": ByteTokens}
"""Tokenizers that their settings describe wholly."""
_RESOLVE: dict[str, Resolve] = {"words": _words, "hf": _hf}


def resolve_tokens(
    settings: Tokenizer | None, texts: Callable[[], Iterable[str]], *, key: str
) -> AnyTokens:
    """A tokenizer that needs nothing more.

    Args:
        settings: `tokenizer:` of a model; None = hashed words.
        texts: gives the training texts; asked only where words are counted.
        key: dotted key of the settings, for errors.

    Raises:
        InputError: there are no words to know, or no such tokenizer of transformers.
    """
    chosen = settings or HashedTokenizer()
    if plain := _PLAIN.get(chosen.type):
        return plain(**chosen.model_dump())
    return _RESOLVE[chosen.type](chosen, texts, key)


def describe_tokens(tokens: AnyTokens) -> dict[str, Any]:
    """All that decides the ids, as JSON; of a tokenizer of transformers the content and not the path."""
    return {name: value for name, value in asdict(tokens).items() if name != "path"}


def token_ids(tokens: AnyTokens, text_BL: Tensor, *, remember: bool = False) -> Tensor:
    """The ids of texts.

    Args:
        tokens: the tokenizer.
        text_BL: uint8, padded with zeros.
        remember: look each text up first, and keep what is new, up to 128 MiB for each tokenizer.

    Returns:
        int64 [B, length] on the device of the texts; the texts as they are where there is no tokenizer.
    """
    if isinstance(tokens, PlainTexts):
        return text_BL
    payloads = _payloads(text_BL)
    made = _memory(tokens)(payloads) if remember else _padded(tokens, payloads)
    return torch.from_numpy(made.astype(np.int64)).to(text_BL.device)


def texts_of(text_BL: Tensor) -> list[str]:
    """The texts in uint8 rows, for a model that asks for texts."""
    return [payload.decode(errors="replace") for payload in _payloads(text_BL)]


def _payloads(text_BL: Tensor) -> list[bytes]:
    return [row.tobytes().rstrip(b"\0") for row in text_BL.cpu().numpy()]


def _padded(tokens: AnyTokens, payloads: Sequence[bytes]) -> np.ndarray:
    found = tokens.ids([payload.decode(errors="replace") for payload in payloads])
    ids = np.zeros((len(payloads), tokens.length), dtype=np.int32)
    for row, one in zip(ids, found, strict=True):
        row[: len(one)] = one
    return ids


class _Memory:
    """The ids of texts that were seen before: students see the same ones in every epoch and every fit."""

    def __init__(self, tokens: AnyTokens) -> None:
        self._tokens = tokens
        self._known: dict[bytes, np.ndarray] = {}
        self._most = _MEMORY_BYTES // (4 * tokens.length)

    def __call__(self, payloads: Sequence[bytes]) -> np.ndarray:
        """int32 [B, length]."""
        keys = [xxhash.xxh3_128_digest(payload) for payload in payloads]
        new = {key: at for at, key in enumerate(keys) if key not in self._known}
        made = _padded(self._tokens, [payloads[at] for at in new.values()])
        found = dict(zip(new, made, strict=True))
        if len(self._known) + len(found) <= self._most:
            self._known |= {key: row.copy() for key, row in found.items()}
        return np.stack([self._known[key] if key in self._known else found[key] for key in keys])


@lru_cache(maxsize=8)
def _memory(tokens: AnyTokens) -> _Memory:
    return _Memory(tokens)


@lru_cache(maxsize=8)
def _ids_of(words: tuple[str, ...]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words, start=_UNKNOWN + 1)}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _HF_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=8)
def _loaded(path: str, digest: str) -> Any:
    """A tokenizer of transformers; code of its folder is never run."""
    transformers = load_package("transformers", install=_HF, key="tokenizer")
    if _digest(Path(path)) != digest:
        raise InputError.at(
            "tokenizer", f"{path} (on this machine) does not hold the tokenizer that the model was made with; "
            "copy it there again"
        )  # fmt: skip
    return transformers.AutoTokenizer.from_pretrained(
        path, trust_remote_code=False, local_files_only=True
    )
