"""From the documents of a source to samples that are chunks of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.config.data import BytesTokens, Data, Tokens
from raykd.data.bpe import BpeAsTokens, read_bpe, train_bpe
from raykd.data.chunks import (
    BytesAsTokens,
    TextTokenizer,
    Vocabulary,
    cut_documents,
    domains_of,
)
from raykd.data.dataset import Dataset, ids_of_texts
from raykd.data.domains import Domains
from raykd.data.occurring import OccurringTokens, occurring
from raykd.data.splits import label_budget
from raykd.data.texts import decode_texts
from raykd.data.views import PartnerPools
from raykd.errors import InputError
from raykd.types import CHUNKS, TEXT, UNLABELLED

MOST_DOMAINS = 64
REST = "rest"
"""Name of the part of training that only teachers see."""


def fields_of_chunks(
    dataset: Dataset,
    data: Data,
    splits: Mapping[str, np.ndarray],
    domains: tuple[str, ...],
    columns: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The fields of `Samples` but its seed; all chunks of a document are of one part.

    Args:
        dataset: its samples are documents, its labels their domains.
        data: `tokens`.
        splits: the rows of the documents of each part.
        domains: their names.
        columns: that samples are to be sliced by.
        seed: the recipe's.

    Raises:
        InputError: samples are no texts, or `data.tokens` does not fit them.
    """
    if TEXT not in dataset.arrays:
        raise InputError.at(
            "data.source",
            f"has {', '.join(dataset.arrays)}; a language needs texts: name their column as `text`",
        )
    tokens = data.tokens or Tokens()
    vocabulary = Vocabulary(
        _tokenizer(tokens, dataset.arrays[TEXT], splits["train"]), tokens.length
    )
    chunks = cut_documents(dataset.arrays[TEXT], vocabulary, _prompts(dataset, tokens))
    numbers_D, names = domains_of(dataset.known_labels, domains)
    if len(names) > MOST_DOMAINS:
        raise InputError.at(
            "data.source",
            f"has {len(names)} domains; at most {MOST_DOMAINS} are told apart: join some",
        )
    if tokens.pool is not None:
        splits = _with_pool(dataset, splits, numbers_D, tokens.pool, seed)
    documents = dataset.user_ids.take(pa.array(chunks.document)).to_pylist()
    numbered = zip(documents, chunks.number.tolist(), strict=True)
    user_ids = [f"{name}:{number}" for name, number in numbered]
    parts = {name: np.flatnonzero(np.isin(chunks.document, rows)) for name, rows in splits.items()}
    if empty := [name for name, rows in parts.items() if not len(rows)]:
        found = f"no document of {empty[0]} has a token to be predicted"
        raise InputError.at("data.splits", f"{found}: each needs two tokens or more")
    labels = _read_only(numbers_D[chunks.document])
    weights = None if dataset.weights is None else _read_only(dataset.weights[chunks.document])
    return {
        "inputs": {CHUNKS: _read_only(chunks.tokens)},
        "labels": labels,
        "all_labels": labels,
        "ids": _read_only(ids_of_texts(user_ids)),
        "user_ids": pa.array(user_ids),
        "splits": {name: _read_only(rows) for name, rows in parts.items()},
        "classes": names,
        "policy": (),
        "pools": PartnerPools(labelled=parts["train"], every=parts["train"]),
        "weights": weights,
        "task": dataset.task,
        "left_out": dataset.left_out,
        "columns": {n: _read_only(dataset.columns[n][chunks.document]) for n in columns},
        "notes": (*dataset.notes, *_cut(dataset.arrays[TEXT])),
        "vocabulary": vocabulary,
        "domains": Domains(names, labels),
    }


def _tokenizer(tokens: Tokens, texts_DL: np.ndarray, train: np.ndarray) -> TextTokenizer:
    """What makes tokens of texts; one that is fitted is fitted on those of training alone."""
    settings = tokens.tokenizer
    if isinstance(settings, BytesTokens):
        return BytesAsTokens()
    key = "data.tokens.tokenizer"
    if settings.path is not None:
        whole = read_bpe(settings.path, key=f"{key}.path")
        return occurring(whole, decode_texts(texts_DL)) if settings.occurring else whole
    if settings.occurring:
        raise InputError.at(
            f"{key}.occurring", "found true without a path: one that is fitted here has no other tokens; leave it out"
        )  # fmt: skip
    return train_bpe(decode_texts(texts_DL[train]), settings.size, key=f"{key}.size")


def tokenizer_of(name: str, content: str) -> TextTokenizer:
    """A tokenizer that is known by its name and what it is made from."""
    if name == OccurringTokens.name:
        return OccurringTokens(content)
    return BytesAsTokens() if name == "bytes" else BpeAsTokens(content)


def _with_pool(
    dataset: Dataset,
    splits: Mapping[str, np.ndarray],
    domains_D: np.ndarray,
    pool: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """The parts with the documents that students do not see apart from those that they do."""
    train, ids = splits["train"], dataset.sample_ids
    try:
        kept_D = label_budget(domains_D, train, pool, seed=seed, ids=ids)
    except InputError as error:
        raise InputError.at("data.tokens.pool", error.problems[0].message) from None
    seen = kept_D[train] != UNLABELLED
    return {**splits, "train": train[seen], **({REST: train[~seen]} if not seen.all() else {})}


def _cut(texts_DL: np.ndarray) -> list[str]:
    """What is said of documents that fill their row."""
    full = int((texts_DL[:, -1] != 0).sum())
    if not full:
        return []
    limit = texts_DL.shape[1]
    return [
        f"{full:,} of {len(texts_DL):,} documents fill data.source.length ({limit:,} bytes) and are cut there"
    ]


def _prompts(dataset: Dataset, tokens: Tokens) -> np.ndarray | None:
    """How many bytes of each document are given, int64 [D]."""
    if tokens.prompt is None:
        return None
    key, name = "data.tokens.prompt", tokens.prompt
    if name not in dataset.columns:
        there = ", ".join(dataset.columns) or "none"
        raise InputError.at(key, f"found column {name!r}; the source has {there}")
    values = dataset.columns[name]
    if values.dtype.kind not in "iuf" or not (values >= 0).all():
        raise InputError.at(
            key, f"column {name!r} holds {values.dtype}; needs numbers of bytes, 0 and above"
        )
    found: np.ndarray = values.astype(np.int64)
    return found


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
