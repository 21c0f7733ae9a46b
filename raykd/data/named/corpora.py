"""English texts of three unlike domains from Debian's packages: a dictionary, sayings, messages of programs.

Each file of a domain is cut by position: 86 % of its documents are for training, the next 4 % for validation, the last
10 % for test. So all parts have something of every file, and what stands side by side stays in one part. A text that is there twice counts once, where it comes first.
"""

from __future__ import annotations

import gettext
import gzip
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raykd.config.sources import CorporaSource
from raykd.data.dataset import Dataset
from raykd.data.named import PATH_KEY, data_folders
from raykd.data.named.debian import deb_files, folder_files
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.types import TEXT

SHARES = {"train": 0.86, "validation": 0.04, "test": 0.10}
_WORDS = 3
"""Least words of a message: shorter ones are labels of buttons."""
_PLACE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Digits of a dictionary's index, base 64 (RFC 2229's dictd)."""
_ABOUT = "00-database"


@dataclass(frozen=True)
class _Domain:
    """Where a domain's texts lie.

    Attributes:
        packages: that have them.
        below: folders below `/` where they install them.
        files: what names have to match.
        read: files by name -> documents by name of their file.
        license: of the texts.
    """

    packages: tuple[str, ...]
    below: tuple[str, ...]
    files: re.Pattern[str]
    read: Callable[[Mapping[str, bytes], int], dict[str, list[str]]]
    license: str


def read_dictionary(packed: bytes, index: str) -> list[str]:
    """The entries of a dictionary of dictd in the order of the file, without what tells of the dictionary itself.

    Args:
        packed: the `.dict` or `.dict.dz` file (dictzip is gzip).
        index: the `.index` file: word, place and length in each line, by tabs; several words may share an entry.

    Raises:
        ValueError: an entry lies outside the file, or the index is none.
    """
    text = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    places = set()
    for line in index.splitlines():
        word, start, size = line.split("\t")[:3]
        if not word.startswith(_ABOUT):
            places.add((_number(start), _number(size)))
    if any(start + size > len(text) for start, size in places):
        raise ValueError("an entry of the index lies outside the dictionary")
    return [_text(text[start : start + size]) for start, size in sorted(places)]


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * len(_PLACE) + _PLACE.index(digit)
    return number


def read_fortunes(content: bytes) -> list[str]:
    """The sayings of a file of fortune: a line with % alone stands between two. Overstrikes are taken out."""
    plain = re.sub("_\b|.\b", "", _text(content))
    sayings = re.split(r"^%[^\S\n]*(?:\n|\Z)", plain, flags=re.MULTILINE)
    return [one.rstrip() + "\n" for one in sayings if one.strip()]


def read_messages(content: bytes) -> list[str]:
    """The messages in a compiled catalogue of gettext, in English as the program has them, without their context.

    Raises:
        ValueError: it is no catalogue.
    """
    try:
        catalogue = gettext.GNUTranslations(io.BytesIO(content))._catalog  # type: ignore[attr-defined]
    except (OSError, struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no compiled catalogue of gettext ({error})") from error
    keys = (key[0] if isinstance(key, tuple) else key for key in catalogue)
    return list(dict.fromkeys(key.rpartition("\x04")[2] for key in keys if key))


def _dictionaries(files: Mapping[str, bytes], length: int) -> dict[str, list[str]]:
    found = {}
    for name in files:
        stem = name.partition(".")[0]
        if not name.endswith(".index") and f"{stem}.index" in files:
            entries = read_dictionary(files[name], files[f"{stem}.index"].decode())
            found[stem] = [page for entry in entries for page in pages([entry], length)]
    return found


def _fortunes(files: Mapping[str, bytes], length: int) -> dict[str, list[str]]:
    return {
        name: [page for one in read_fortunes(content) for page in pages([one], length)]
        for name, content in files.items()
    }


def _messages(files: Mapping[str, bytes], length: int) -> dict[str, list[str]]:
    """Each message once, in the first catalogue that has it; consecutive ones as pages."""
    seen: set[str] = set()
    found = {}
    for name, content in files.items():
        long = (text for text in read_messages(content) if len(text.split()) >= _WORDS)
        found[name] = list(pages((f"{text}\n" for text in _once(long, seen)), length))
    return found


def pages(texts: Iterable[str], length: int) -> Iterator[str]:
    """Texts one after the other, as pages of at most `length` bytes that end where a line ends, or else a word."""
    held = ""
    for text in texts:
        for piece in _pieces(text, length):
            if held and len((held + piece).encode()) > length:
                yield held
                held = ""
            held += piece
    if held.strip():
        yield held


def _pieces(text: str, length: int) -> Iterator[str]:
    """Lines of a text; of a line that is too long its words, of such a word its characters."""
    for line in text.splitlines(keepends=True):
        if len(line.encode()) <= length:
            yield line
            continue
        for word in re.findall(r"\S+\s*|\s+", line):
            yield from [word] if len(word.encode()) <= length else word


def _text(content: bytes) -> str:
    """UTF-8, or else Latin-1, which old files have."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


DOMAINS: dict[str, _Domain] = {
    "foldoc": _Domain(
        ("dict-foldoc",),
        ("usr/share/dictd",),
        re.compile(r"^usr/share/dictd/foldoc\.(dict\.dz|dict|index)$"),
        _dictionaries,
        "GFDL-1.1-or-later (The Free On-line Dictionary of Computing, foldoc.org, editor Denis Howe)",
    ),
    "jargon": _Domain(
        ("dict-jargon",),
        ("usr/share/dictd",),
        re.compile(r"^usr/share/dictd/jargon\.(dict\.dz|dict|index)$"),
        _dictionaries,
        "public domain (The Jargon File)",
    ),
    "fortunes": _Domain(
        ("fortunes", "fortunes-min"),
        ("usr/share/games/fortunes",),
        re.compile(r"^usr/share/games/fortunes/[\w-]+$"),
        _fortunes,
        "BSD-3-Clause (fortune-mod's collection; single sayings have authors of their own)",
    ),
    "messages": _Domain(
        (
            "libreoffice-l10n-fr",
            "gnupg-l10n",
            "libc-l10n",
            "gcc-12-locales",
            "krita-l10n",
            "kdevelop-l10n",
        ),
        ("usr/share/locale/fr", "usr/lib/libreoffice/program/resource/fr"),
        re.compile(r"(^|/)fr/LC_MESSAGES/[^/]+\.mo$"),
        _messages,
        "MPL-2.0, GPL-2.0-or-later, GPL-3.0-or-later, LGPL-2.1-or-later (messages of LibreOffice, Krita, KDevelop, GnuPG, "
        "GCC, glibc)",
    ),
}


def load_corpora(source: CorporaSource, task: str) -> Dataset:  # noqa: ARG001 - one signature
    """Documents of the domains, which are their classes; parts of their own, see above.

    Raises:
        InputError: a domain's files are not there, or hold something else.
    """
    texts: list[str] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {name: [] for name in SHARES}
    for number, name in enumerate(source.domains):
        cut = [cut_by_position(documents) for documents in _documents(source, name)]
        for part in parts:
            some = [text for one in cut for text in one[part]]
            if not some:
                raise _too_few(source, name, part)
            parts[part] += range(len(texts), len(texts) + len(some))
            texts += some
            labels += [number] * len(some)
    licences = "; ".join(f"{name}: {DOMAINS[name].license}" for name in source.domains)
    return Dataset(
        inputs={TEXT: encode_texts(texts, source.length)},
        labels=np.array(labels, np.int64),
        splits={part: np.array(rows, np.int64) for part, rows in parts.items()},
        classes=source.domains,
        notes=(f"Licences of the texts: {licences}.",),
    )


def _too_few(source: CorporaSource, name: str, part: str) -> InputError:
    if source.limit is None:
        return InputError.at(
            PATH_KEY, f"{name} has too few documents for a part of each; {_hint(name)}"
        )
    return InputError.at(
        "data.source.limit",
        f"found {source.limit:,}: that leaves no document of {name} for the part {part}; raise it, or lower "
        f"data.source.length ({source.length})",
    )


def cut_by_position(documents: list[str]) -> dict[str, list[str]]:
    """The documents of each part, in the proportions of `SHARES`, in their order."""
    ends = np.round(np.cumsum(list(SHARES.values())) * len(documents)).astype(int).tolist()
    starts = [0, *ends[:-1]]
    return {part: documents[a:b] for part, a, b in zip(SHARES, starts, ends, strict=True)}


def _documents(source: CorporaSource, name: str) -> Iterator[list[str]]:
    """Documents of a domain, file by file."""
    domain = DOMAINS[name]
    files = _files(source.path, name)
    try:
        found = domain.read(dict(sorted(files.items())), source.length)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError.at(
            PATH_KEY,
            f"the files of {name} ({', '.join(sorted(files)[:3])}) cannot be read ({error}); {_hint(name)}",
        ) from error
    seen: set[str] = set()
    once = [_once(texts, seen) for texts in found.values()]
    total = sum(len(text.encode()) for texts in once for text in texts)
    share = 1.0 if source.limit is None else min(1.0, source.limit / max(1, total))
    for texts in once:
        yield texts[: round(share * len(texts))]


def _once(texts: Iterable[str], seen: set[str]) -> list[str]:
    """Texts that are not among those seen before, which they are from now on."""
    new = [text for text in dict.fromkeys(texts) if text not in seen]
    seen.update(new)
    return new


def _files(given: str | None, name: str) -> dict[str, bytes]:
    """The files of a domain, from the first place that has some."""
    domain = DOMAINS[name]
    folders = data_folders("corpora") if given is None else [Path(given).expanduser()]
    for folder in folders:
        # In the order of the names, so that of two versions of a package the later one is taken.
        packages = [
            deb for deb in sorted(folder.glob("*.deb")) if deb.name.split("_")[0] in domain.packages
        ]
        packed = {
            n: content for deb in packages for n, content in deb_files(deb, domain.files).items()
        }
        if found := packed or folder_files(folder, domain.below, domain.files):
            return found
    if given is None and (found := folder_files(Path("/"), domain.below, domain.files)):
        return found
    looked = ", ".join(map(str, folders))
    also = "" if given is not None else " or installed"
    raise InputError.at(
        PATH_KEY,
        f"the texts of {name} are not in {looked}{also} (packages {', '.join(domain.packages)}); {_hint(name)}",
    )


def _hint(name: str) -> str:
    packages = " ".join(DOMAINS[name].packages)
    return (
        f"on Debian `apt-get download {packages}` brings them into the working directory (not installed; nothing of them "
        f"is run): put them into .raykd/data/corpora, or set {PATH_KEY} to their folder"
    )
