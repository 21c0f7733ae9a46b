"""Byte-level BPE tokenizers of the library `tokenizers` (Sennrich et al. 2016; bytes as in GPT-2), for chunks of tokens.

Such a tokenizer loses nothing: the bytes of a text are those of its tokens, one after the other. So how many bytes a
token stands for is known, and bits per byte can be told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from raykd.errors import InputError
from raykd.importing import load_package
from raykd.packaged import model_folder

_INSTALL = "raykd[hf]"
_BYTE_LEVEL = "ByteLevel"
_PLAIN = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))
"""Bytes that GPT-2's alphabet writes as the character of their own number; the others follow from 256 on."""
_LEAST = 257


@dataclass(frozen=True)
class BpeAsTokens:
    """A tokenizer, known by its content.

    Attributes:
        content: what `tokenizer.json` holds; normalised JSON, so that equal ones are equal.
        key: dotted key of the recipe that names it, for errors.

    Raises:
        InputError: it is no byte-level BPE, or changes texts before it cuts them.
    """

    content: str = field(repr=False)
    key: str = field(default="data.tokens.tokenizer", compare=False)

    def __post_init__(self) -> None:
        _refuse_lossy(json.loads(self.content), self.key)

    @property
    def name(self) -> str:
        """Of its kind."""
        return "bpe"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many bytes each token stands for, by id; 0 of one that stands for none, as special ones do."""
        return tuple(map(len, self._bytes))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()[:32]

    def ids(self, text: bytes) -> np.ndarray:
        """The ids of a text, int64; bytes that are no UTF-8 become the replacement character first.

        Raises:
            InputError: the text has a byte for which there is no token.
        """
        plain = text.decode(errors="replace")
        tokens = _tokenizer(self.content, self.key).encode(plain, add_special_tokens=False).ids
        found = np.array(tokens, np.int64)
        if int(np.array(self.sizes)[found].sum()) != len(given := plain.encode()):
            known = {one[0] for one in self._bytes if len(one) == 1}
            lacking = ", ".join(map(hex, sorted(set(given) - known)))
            raise InputError.at(
                self.key, f"has no token for the byte {lacking or 'of some character'} of a text, so that its tokens are not the text's own "
                "bytes; leave such characters out, or use another tokenizer, or bytes"
            )  # fmt: skip
        return found

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids stand for."""
        return b"".join(self._bytes[one] for one in ids)

    @cached_property
    def _bytes(self) -> tuple[bytes, ...]:
        tokenizer = _tokenizer(self.content, self.key)
        added = {one["id"]: one for one in json.loads(self.content).get("added_tokens") or []}
        alphabet = _alphabet()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        found = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            if number not in added:
                found[number] = bytes(alphabet[character] for character in token)
            elif not added[number].get(
                "special"
            ):  # it is written as plain text, not in the alphabet
                found[number] = token.encode()
        return tuple(found)


def read_bpe(path: str | Path, *, key: str) -> BpeAsTokens:
    """The tokenizer in a file `tokenizer.json`, in a folder with one, or of a model of `raykd.packaged`.

    Raises:
        InputError: there is no such file, it holds something else, or `tokenizers` is not installed.
    """
    given = Path(model_folder(str(path), key=key)).expanduser()
    file = given / "tokenizer.json" if given.is_dir() else given
    if not file.is_file():
        raise InputError.at(
            key, f"there is no file {file} (in {Path.cwd()}); give a tokenizer.json or its folder"
        )
    try:
        content = json.dumps(json.loads(file.read_text(encoding="utf-8")), sort_keys=True)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.at(key, f"{file} is no tokenizer.json ({error}); save it again") from error
    return BpeAsTokens(content, key)


def train_bpe(texts: Iterable[str], size: int, *, key: str = "size") -> BpeAsTokens:
    """A tokenizer of `size` tokens, the first 256 of which are the bytes.

    Raises:
        InputError: the size is below 257, or `tokenizers` is not installed.
    """
    if size < _LEAST:
        raise InputError.at(key, f"found {size}; bytes alone are 256 tokens: use {_LEAST} or more")
    library = load_package("tokenizers", install=_INSTALL, key=key)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BpeAsTokens(json.dumps(json.loads(tokenizer.to_str()), sort_keys=True), key)


def _refuse_lossy(content: Any, key: str) -> None:
    """Refuse what does not keep every byte of a text."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise InputError.at(
            key, "is no BPE tokenizer of the library `tokenizers`; needed is a byte-level one"
        )
    before = content.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or [before]
    if not any(step.get("type") == _BYTE_LEVEL for step in steps):
        raise InputError.at(
            key, "cuts texts into characters, not bytes, so that how many bytes a token stands for is not known; "
            "use a byte-level BPE (GPT-2's kind), or bytes"
        )  # fmt: skip
    plain = [one for one in content.get("added_tokens") or [] if not one.get("special")]
    found = {
        "normalizer": content.get("normalizer") is not None,
        "add_prefix_space": any(step.get("add_prefix_space") for step in steps),
        "a step that leaves out characters": not all(map(_keeps_text, steps)),
        "dropout": bool(model.get("dropout")),
        "continuing_subword_prefix": bool(model.get("continuing_subword_prefix")),
        "end_of_word_suffix": bool(model.get("end_of_word_suffix")),
        "lstrip or rstrip of an added token": any(
            t.get("lstrip") or t.get("rstrip") for t in plain
        ),
    }
    if changes := [name for name, is_there in found.items() if is_there]:
        raise InputError.at(
            key, f"changes texts when it cuts them ({', '.join(changes)}), so that tokens are not the text's own bytes; "
            "use one that does not, or bytes"
        )  # fmt: skip


def _keeps_text(step: dict[str, Any]) -> bool:
    """Whether a step of a pre-tokenizer only cuts a text, and leaves nothing of it out."""
    if step.get("type") in ("Split", "Punctuation"):
        return step.get("behavior") != "Removed"
    return step.get("type") in (_BYTE_LEVEL, "Digits", "UnicodeScripts")


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """Character of the byte-level alphabet -> byte."""
    plain = [byte for some in _PLAIN for byte in some]
    others = [byte for byte in range(256) if byte not in plain]
    return {
        **{chr(byte): byte for byte in plain},
        **{chr(256 + at): byte for at, byte in enumerate(others)},
    }


@lru_cache(maxsize=8)
def _tokenizer(content: str, key: str) -> Any:
    library = load_package("tokenizers", install=_INSTALL, key=key)
    try:
        tokenizer = library.Tokenizer.from_str(content)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError.at(
            key, f"the tokenizer cannot be loaded ({why}); save it again"
        ) from error
    tokenizer.encode_special_tokens = True  # the words for them in a text are text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
