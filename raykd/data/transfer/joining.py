"""A recipe's own samples with its transfer sets behind them: rows, ids, and what both have to have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raykd.config.data import Data
from raykd.config.sources import FilesSource, ObjectSource
from raykd.config.transfer import BroughtSet, MixtureSet, TransferSet
from raykd.data.dataset import Dataset, ids_of_texts
from raykd.data.decoding import load_decoded
from raykd.data.hashing import content_hashes, sample_keys
from raykd.data.mapped import Mapped
from raykd.data.sources import load_source
from raykd.data.transfer.making import Origin, make
from raykd.errors import InputError
from raykd.tasks import find_task
from raykd.types import TEXT, UNLABELLED, is_labelled

KEY = "data.transfer"
_MOST_BYTES = 4 * 2**30
"""Of samples that are decoded into a file, and have to be in memory with made ones behind them."""
Sets = dict[str, np.ndarray]
"""Name of a set, or of a split -> its rows."""


class Joined(NamedTuple):
    """Samples with those of all transfer sets behind them.

    Attributes:
        dataset: the samples; their splits and columns are the own ones', and left out where there are sets.
        labels: of all, within the budget; those of the sets have none.
        splits: with the sets' rows behind the training rows.
        sets: name of each set -> its rows, sorted.
    """

    dataset: Dataset
    labels: np.ndarray
    splits: Sets
    sets: Sets


def with_transfer(
    dataset: Dataset,
    labels: np.ndarray,
    splits: Sets,
    data: Data,
    *,
    seed: int,
) -> Joined:
    """The samples with those of all transfer sets behind them, which have no labels.

    Args:
        dataset: the recipe's own.
        labels: theirs, within the budget.
        splits: theirs; sets are made of the training rows alone.
        data: the recipe's `data`; all stays as it is where it has no transfer set.
        seed: of the recipe.

    Raises:
        InputError: a set cannot be made of these samples, or does not look like them; the key is the set's.
    """
    if data.transfer is None:
        return Joined(dataset, labels, splits, {})
    if find_task(dataset.task).settings.chunks:
        raise InputError.at(KEY, f"is not for `task: {dataset.task}`, which cuts texts into chunks: data.tokens.pool leaves "
                            "text to the teachers; leave it out")  # fmt: skip
    sets: Sets = {}
    notes = list(dataset.notes)
    train = splits["train"]
    strata_N = np.where(is_labelled(labels), dataset.strata, UNLABELLED)
    joined, labelled = dataset, int((strata_N[train] != UNLABELLED).sum())
    by_id = train[np.argsort(dataset.sample_ids[train])]
    for name, settings in data.transfer.sets.items():
        key = f"{KEY}.sets.{name}"
        if isinstance(settings, BroughtSet):
            inputs, names, joined = _brought(settings, joined, data, seed, name, key)
            made_of = f"of {settings.source.type}"
        else:
            rows = by_id[strata_N[by_id] != UNLABELLED] if _of_labelled(settings) else by_id
            origin = Origin(
                inputs={one: np.asarray(array[rows]) for one, array in dataset.arrays.items()},
                strata_N=strata_N[rows],
                words=tuple(map(dataset.features.index, dataset.words)),
                seed=seed,
                name=name,
                key=key,
            )
            inputs = make(settings, origin)
            names = [str(number) for number in range(settings.count)]
            made_of = f"made of {len(rows):,} training samples ({labelled:,} have a label)"
        before = len(joined)
        joined = _behind(joined, inputs, [f"{name}/{one}" for one in names], key)
        sets[name] = np.arange(before, len(joined), dtype=np.int64)
        notes.append(
            f"transfer set {name!r}: {len(names):,} samples without labels, {settings.type}, {made_of}"
        )
    more = joined.known_labels[len(dataset) :]
    return Joined(
        replace(joined, notes=tuple(notes)),
        np.concatenate([labels, more]),
        {**splits, "train": np.concatenate([train, *sets.values()])},
        sets,
    )


def _of_labelled(settings: TransferSet) -> bool:
    return isinstance(settings, MixtureSet) or getattr(settings, "of", "all") == "labelled"


def fresh_ids(names: Sequence[str], taken: np.ndarray) -> np.ndarray:
    """Sample ids, int64 [N], that follow from names and are neither repeated nor among those taken."""
    ids = ids_of_texts(names)
    for attempt in count(1):
        _, first = np.unique(ids, return_index=True)
        clashes = np.isin(ids, taken)
        clashes[np.setdiff1d(np.arange(len(ids)), first)] = True
        if not clashes.any():
            break
        ids[clashes] = ids_of_texts(
            f"{names[row]}\0{attempt}" for row in np.flatnonzero(clashes).tolist()
        )
    return ids


def _behind(
    dataset: Dataset, inputs: Mapping[str, np.ndarray], names: Sequence[str], key: str
) -> Dataset:
    """Samples with others behind them, of which nothing but inputs and names are known."""
    own = dataset.arrays
    size = sum(array.nbytes for array in (*own.values(), *inputs.values()))
    if size > _MOST_BYTES and any(isinstance(array, Mapped) for array in own.values()):
        raise InputError.at(key, f"makes {size / 2**30:.1f} GiB of samples together with those of data.source, which would "
                            f"have to be in memory; at most {_MOST_BYTES / 2**30:.0f} GiB are: take fewer")  # fmt: skip
    more = len(names)
    hashes = dataset.hashes
    return replace(
        dataset,
        inputs={name: np.concatenate([np.asarray(own[name]), inputs[name]]) for name in own},
        labels=_without_more(dataset, more),
        ids=np.concatenate([dataset.sample_ids, fresh_ids(names, dataset.sample_ids)]),
        user_ids=pa.concat_arrays(
            [dataset.user_ids.cast(pa.string()), pa.array(names, pa.string())]
        ),
        classes=dataset.class_names or None,
        weights=_weights(dataset.weights, more),
        hashes=None if hashes is None else np.concatenate([hashes, content_hashes(inputs)]),
        splits=None,
        columns={},
    )


def _without_more(dataset: Dataset, more: int) -> np.ndarray:
    """The labels, and behind them those of samples that have none."""
    known = dataset.known_labels
    none = dataset.form.hidden(np.repeat(known[:1], more, axis=0), np.ones(more, dtype=bool))
    return np.concatenate([known, none])


def _weights(weights: np.ndarray | None, more: int) -> np.ndarray | None:
    """Samples without a weight of their own weigh as much as the others do in the mean."""
    if weights is None:
        return None
    return np.concatenate([weights, np.full(more, weights.mean(dtype=np.float64), np.float32)])


def _brought(
    settings: BroughtSet, own: Dataset, data: Data, seed: int, name: str, key: str
) -> tuple[dict[str, np.ndarray], list[str], Dataset]:
    """Inputs and names of the samples of another source, as the own ones are; and these, with words that are new."""
    source = settings.source
    if isinstance(source, FilesSource | ObjectSource):
        only = Data(source=source, bad_samples=data.bad_samples, cache=data.cache)
        found = load_decoded(only, own.task)
    else:
        found = load_source(source, own.task)
    rows = np.arange(len(found))
    if settings.count is not None:
        if settings.count > len(found):
            raise InputError.at(f"{key}.count", f"found {settings.count:,}, but the source has {len(found):,} samples; "
                                "lower it, or give null")  # fmt: skip
        keys = sample_keys(found.sample_ids, seed, "transfer", name)
        rows = np.sort(np.argsort(keys)[: settings.count])
    inputs = {one: np.asarray(array[rows]) for one, array in found.arrays.items()}
    if own.features and found.features:
        inputs, own = _same_columns(inputs, found, own, key)
    names: list[str] = found.user_ids.take(pa.array(rows)).cast(pa.string()).to_pylist()
    return {one: _alike(one, inputs, own, key) for one in own.arrays}, names, own


def _alike(name: str, inputs: Mapping[str, np.ndarray], own: Dataset, key: str) -> np.ndarray:
    """An input of other samples in the shape and dtype of the own ones."""
    where, wanted = f"{key}.source", own.arrays[name]
    if set(inputs) != set(own.arrays):
        raise InputError.at(
            where, f"has inputs {sorted(inputs)}; those of data.source are {sorted(own.arrays)}"
        )
    array = inputs[name]
    if name == TEXT and array.shape[1] < wanted.shape[1]:
        array = np.pad(array, ((0, 0), (0, wanted.shape[1] - array.shape[1])))
    if array.shape[1:] != wanted.shape[1:] or array.dtype.kind != wanted.dtype.kind:
        found = f"{array.dtype} {list(array.shape[1:])}"
        raise InputError.at(where, f"has samples of {found}; those of data.source are {wanted.dtype} "
                            f"{list(wanted.shape[1:])}: bring them into that form (images: size, mode; texts: length)")  # fmt: skip
    return array.astype(wanted.dtype, copy=False)


def _same_columns(
    inputs: Mapping[str, np.ndarray], found: Dataset, own: Dataset, key: str
) -> tuple[dict[str, np.ndarray], Dataset]:
    """The own columns of another table, words by the own codes; and the own samples, which know new words now."""
    where = f"{key}.source"
    if lacking := [name for name in own.features if name not in found.features]:
        raise InputError.at(
            where,
            f"lacks column {lacking[0]!r}; the columns of data.source are {', '.join(own.features)}",
        )
    ((name, values_ND),) = inputs.items()
    made_ND = values_ND[:, [found.features.index(one) for one in own.features]].copy()
    words = dict(own.words)
    for place, column in enumerate(own.features):
        if (column in own.words) != (column in found.words):
            here, there = ("words", "numbers") if column in found.words else ("numbers", "words")
            raise InputError.at(where, f"has {here} in column {column!r}, where data.source has {there}; mend the file, or "
                                "name the column in `categories` of both")  # fmt: skip
        if column in own.words:
            words[column] = tuple(dict.fromkeys([*own.words[column], *found.words[column]]))
            codes = np.array([words[column].index(one) for one in found.words[column]], np.float64)
            known = ~np.isnan(made_ND[:, place])
            made_ND[known, place] = codes[made_ND[known, place].astype(np.int64)]
    return {name: made_ND}, replace(own, words=words)
