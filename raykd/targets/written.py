"""What a student wrote in one round, and what its teachers say of it: one fit's own set, shared with nobody.

    round-0003/texts.safetensors      what was written, and the rows of the data that its prompts are of
    round-0003/<entry>/...            a teacher's answers, as in the target store; its key names fit and round
    round-0003/manifest.json          fit, round, digests, teachers; written once all that answered have

Texts are written before any teacher is asked, and each part of an answer as it comes, so that whoever goes on asks for
what is missing alone.

Shapes: M texts, B of a batch, L length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raykd.data import Samples
from raykd.data.chunks import unit_labels
from raykd.data.hashing import content_hashes
from raykd.disks import write_whole
from raykd.errors import TargetError
from raykd.folders import read_json, write_json
from raykd.targets.codec import Arrays
from raykd.targets.entries import Entry, EntryKey, TeacherKeys, append
from raykd.targets.ragged import UNIT_OFFSETS
from raykd.targets.shards import write_shard
from raykd.targets.store import TargetStore
from raykd.types import CHUNKS, Batch

FOLDER = "on_policy"
"""Of all rounds, in the folder of the fit."""
TEXTS, MANIFEST = "texts.safetensors", "manifest.json"
VIEW = 0
"""Of all written texts: each is shown as it is."""
_SCHEMA = 1
_ORIGIN = "raykd"


@dataclass(frozen=True)
class Origin:
    """Whose texts they are.

    Attributes:
        fit: its id.
        identity: of the fit.
        round: from 0.
        student: fingerprint of the weights that wrote them.
    """

    fit: str
    identity: str
    round: int
    student: str

    @property
    def views(self) -> str:
        """In the keys of the teachers' answers, in place of a view policy."""
        return f"student/{self.fit}/{self.identity}/{self.round}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "fit": self.fit,
            "identity": self.identity,
            "round": self.round,
            "student": self.student,
        }


@dataclass(frozen=True, eq=False)
class Texts:
    """Written texts.

    Attributes:
        tokens: int32 [M, 2, L], see `raykd.types.CHUNKS`: 1 where the student has written.
        rows: int64 [M], the samples that the prompts are the beginnings of.
        ids: int64 [M].
    """

    tokens: np.ndarray
    rows: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hashes(self) -> np.ndarray:
        """As the samples' content hashes, uint64 [M]."""
        return content_hashes({CHUNKS: self.tokens})

    @cached_property
    def digest(self) -> str:
        """Of all tokens."""
        return xxhash.xxh3_128_hexdigest(self.tokens.tobytes())

    @cached_property
    def prompts(self) -> str:
        """A digest of the prompts alone, and of whose they are."""
        given = np.where(self.tokens[:, 1] > 0, 0, self.tokens[:, 0])
        return xxhash.xxh3_128_hexdigest(given.tobytes() + self.rows.tobytes())

    @property
    def written(self) -> int:
        """Tokens that the student has written."""
        return int((self.tokens[:, 1] > 0).sum())

    def batch(self, places: np.ndarray, samples: Samples) -> Batch:
        """Some of the texts as a batch; a unit's domain and chunk are those of the text's prompt.

        Args:
            places: int64 [B] in [0, M).
            samples: that the prompts are of.
        """
        assert samples.vocabulary is not None, "the recipe's task was checked"
        tokens, rows = self.tokens[places], self.rows[places]
        sizes = np.array(samples.vocabulary.tokenizer.sizes, np.int64)
        labels, offsets = unit_labels(tokens, rows, samples.labels[rows], sizes)
        return Batch(
            ids=torch.from_numpy(self.ids[places]),
            rows=torch.from_numpy(places.astype(np.int64)),
            view_B=torch.full((len(places),), VIEW),
            inputs={CHUNKS: torch.from_numpy(tokens.astype(np.int64))},
            labels=torch.from_numpy(labels),
            present_B=torch.ones(len(places), dtype=torch.bool),
            weight_B=None if samples.weights is None else torch.from_numpy(samples.weights[rows]),
            unit_offsets=torch.from_numpy(offsets),
            generated_B=torch.ones(len(places), dtype=torch.bool),
            domain_B=None
            if samples.domains is None
            else torch.from_numpy(samples.domains.number_N[rows]),
        )


@dataclass(frozen=True)
class WrittenSet:
    """The texts of one round, with the answers that are there.

    Attributes:
        folder: of the round.
        origin: whose.
        texts: what was written.
        keys: teacher -> the key of its answers.
    """

    folder: Path
    origin: Origin
    texts: Texts
    keys: Mapping[str, EntryKey]

    def lacking(self, name: str) -> np.ndarray:
        """Places of the texts that a teacher has not answered yet, int64.

        Raises:
            TargetError: its answers are damaged, or of other texts.
        """
        entry = Entry(self.folder, self.keys[name])
        return entry.missing(self.texts.ids, self.texts.hashes, VIEW)

    def put(self, name: str, places: np.ndarray, arrays: Arrays) -> None:
        """Keep what a teacher says of some texts.

        Raises:
            TargetError: it is about other units than the texts have, or the disk is full.
        """
        units = (self.texts.tokens[places, 1, 1:] > 0).sum(axis=1)
        if not np.array_equal(np.diff(arrays[UNIT_OFFSETS]), units):
            raise TargetError(f"teacher {name!r} answered for other tokens than those it was asked about")  # fmt: skip
        key, hashes = self.keys[name], self.texts.hashes[places]
        kept = {"ids": self.texts.ids[places], "hashes": hashes, **key.of(arrays)}
        append(self.folder, key, [write_shard(self.folder / key.folder, VIEW, kept, key.to_json())])

    def finish(self, seed: int, silent: Sequence[str], more: Mapping[str, Any]) -> None:
        """Write the manifest: of teachers that were lost it has no word.

        Args:
            seed: that the tokens were drawn with.
            silent: teachers without an answer.
            more: what else there is to tell.
        """
        manifest = {
            "schema": _SCHEMA,
            **self.origin.to_json(),
            "seed": seed,
            "prompts": self.texts.prompts,
            "texts": self.texts.digest,
            "sequences": len(self.texts),
            "teachers": {
                name: {
                    "fingerprint": key.teacher,
                    "entry": key.folder,
                    "tokens": self.texts.written,
                }
                for name, key in self.keys.items()
                if name not in silent
            },
            **more,
        }
        write_json(self.folder / MANIFEST, manifest)

    def store(self, temperatures: Mapping[str, float]) -> TargetStore:
        """The answers, to be read by the texts' places."""
        return TargetStore.open(
            self.folder,
            {name: TeacherKeys(key, key) for name, key in self.keys.items()},
            self.texts.ids,
            self.texts.hashes,
            temperatures,
        )

    def forget(self) -> None:
        """Delete the answers; texts and manifest stay."""
        for key in self.keys.values():
            shutil.rmtree(self.folder / key.folder, ignore_errors=True)


def keys_of(origin: Origin, kept: Mapping[str, EntryKey]) -> dict[str, EntryKey]:
    """Teacher -> the key of its answers to the texts of a round.

    Args:
        origin: whose texts.
        kept: teacher -> the key of its answers to training samples, which are encoded alike.
    """
    return {name: replace(key, views=origin.views) for name, key in kept.items()}


def write_texts(folder: Path, texts: Texts, origin: Origin) -> None:
    """Write what a student wrote, wholly or not at all.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    arrays = {"tokens": texts.tokens, "rows": texts.rows, "ids": texts.ids}
    metadata = {_ORIGIN: json.dumps({**origin.to_json(), "digest": texts.digest})}
    write_whole(folder / TEXTS, [save(arrays, metadata)])


def read_texts(folder: Path, fit: str, identity: str, number: int) -> tuple[Texts, Origin] | None:
    """What a student has written in a round, and whose it is; None where it has not.

    Raises:
        TargetError: the file is damaged, or of another fit or round.
    """
    path = folder / TEXTS
    if not path.is_file():
        return None
    raw = path.read_bytes()
    try:
        size = int.from_bytes(raw[:8], "little")
        written = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"][_ORIGIN])
        texts = Texts(**load(raw))
        digest = written.pop("digest")
        origin = Origin(**written)
    except (ValueError, LookupError, TypeError, SafetensorError) as error:
        raise TargetError(f"{path} is damaged ({error}); {_ANEW}") from None
    if digest != texts.digest:
        raise TargetError(f"{path} is damaged: its tokens are not those that were written; {_ANEW}")
    if (origin.fit, origin.identity, origin.round) != (fit, identity, number):
        raise TargetError(
            f"{path} is of {origin.fit}, round {origin.round}, not of {fit}, round {number}; {_ANEW}"
        )
    return texts, origin


_ANEW = "delete the fit's folder to train it anew"


def forget_answers(fit: Path) -> None:
    """Delete all that teachers have answered in a fit's rounds; texts and manifests stay."""
    for path in fit.glob(f"{FOLDER}/*/round-*/*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def manifests(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifests of all rounds of a fit, in their order."""
    for path in sorted(folder.glob(f"round-*/{MANIFEST}")):
        yield read_json(path)
