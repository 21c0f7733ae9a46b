"""The samples of a run: put once into Ray's object store, and asked for batches by row and view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import xxhash

from raykd.config.data import Data, SplitBy, Views, ViewStep
from raykd.config.sources import FilesSource, ObjectSource, TransitionsSource
from raykd.data.chunking import REST, fields_of_chunks
from raykd.data.chunks import Vocabulary, unit_labels
from raykd.data.class_names import given_names, look_alike, renamed
from raykd.data.dataset import Dataset
from raykd.data.decoding import Decode, Tell, in_process, load_decoded
from raykd.data.domains import SIMULATOR, Domains, domains_of_column
from raykd.data.gathering import CPU
from raykd.data.geometry import Geometry, Places, carried
from raykd.data.hashing import content_hashes
from raykd.data.mapped import channel_statistics, coarse_columns, pieces
from raykd.data.sources import load_source
from raykd.data.splits import label_budget, make_splits
from raykd.data.texts import decode_texts
from raykd.data.transfer.joining import with_transfer
from raykd.data.transitions import EPISODE
from raykd.data.trying import check_request, scale_of, try_views
from raykd.data.views import PartnerPools, Shown, ViewMaker, mixes, policy_key, view_shape
from raykd.errors import InputError, Problem
from raykd.tasks import find_task
from raykd.types import CHUNKS, ORIGINAL_VIEW, TEXT, UNLABELLED, Batch, Mixed, Scale, is_labelled

Labels = Literal["budget", "all"]
_VECTORS = len(("N", "D"))


@dataclass(frozen=True)
class Samples:
    """Samples with splits, label budget and views; arrays only, which may be read-only.

    Attributes:
        inputs: name -> [N, ...], as the source gave them (see `Dataset.inputs`).
        labels: as in `Dataset`, unlabelled for training samples outside the label budget.
        all_labels: every label that is known.
        ids: int64 [N], stable sample ids, from which random numbers are made; not for people.
        user_ids: pyarrow array of N texts, each sample's id as the user's data have it: `0995`, `A12`,
            `cats/7.png`, `people.csv#3`; of whole numbers an array of these. Results are joined to the user's data by it.
        splits: "train", "validation", "test" -> sorted int64 rows; also "rest", of what only teachers are fitted on,
            where `data.tokens.pool` leaves some.
        classes: names of a model's outputs: of the classes or labels in order, of the one value of a
            regression; of an embedding the names of its labels' classes, which may be none.
        seed: the recipe's seed.
        policy: steps that make a view, in order.
        pools: partners for mixup and cutmix.
        weights: float32 [N], sample weights; None means equal ones.
        task: what the labels are for.
        scale: mean and deviation of the labelled training values, in which models compute; None where
            labels are no values.
        hashes: as in `Dataset`.
        left_out, features, words, unused: as in `Dataset`.
        columns: as in `Dataset`, of those that are asked for.
        notes: what a reader of a run should know of the data, in plain words.
        transfer: name of each set of `data.transfer` -> its rows, which are training rows; the others of these are the
            recipe's own.
        vocabulary: of chunks of tokens, which have many units each; None of all other samples. `labels` are then the
            numbers of the domains, which `classes` names.
        visited: replica -> sorted training rows that it visited itself, and no other replica learns from.
        recorded: privileged teacher -> float32 [N, C], what it said while the samples were recorded.
        domains: of chunks and of states that were visited in simulators; None of all other samples.
        visible: of labels that say where things are, the part of a thing that a view has to show.
        bins: of detectors, over how many distances each edge is spread; 1 where an edge is one number.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    all_labels: np.ndarray
    ids: np.ndarray
    user_ids: Any
    splits: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    seed: int
    policy: tuple[ViewStep, ...]
    pools: PartnerPools
    weights: np.ndarray | None = None
    task: str = "classification"
    scale: Scale | None = None
    hashes: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    transfer: Mapping[str, np.ndarray] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    visited: Mapping[int, np.ndarray] = field(default_factory=dict)
    recorded: Mapping[str, np.ndarray] = field(default_factory=dict)
    domains: Domains | None = None
    visible: float = Views().visible
    bins: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def batch(
        self,
        rows: np.ndarray,
        view: int | np.ndarray,
        *,
        labels: Labels = "budget",
        present: np.ndarray | None = None,
        device: torch.device = CPU,
    ) -> Batch:
        """Show samples, before any model's preprocessing.

        Args:
            rows: int64 [B] in [0, N); may repeat.
            view: the view of all, or of each (int64 [B]); −1 is the untransformed sample.
            labels: "budget" hides the training labels outside the budget, "all" hides none.
            present: bool [B], False marks padding; None means all are there.
            device: where the views are made and the inputs are, all else being on the CPU; chunks of tokens stay there.

        Returns:
            The batch; inputs are float32 (uint8 scaled to [0, 1]) or int64, texts uint8 as they are; in memory
            of their own.

        Raises:
            IndexError: a row is outside [0, N).
            ValueError: a view is below −1, or lengths differ.
        """
        rows = np.asarray(rows, dtype=np.int64)
        view_B = np.broadcast_to(np.asarray(view, dtype=np.int64), rows.shape)
        check_request(len(self), rows, view_B, present)
        shown = self._views.show(rows, view_B, CPU if self.is_tokens else device)
        known = self.labels if labels == "budget" else self.all_labels
        present_B = np.ones(len(rows), dtype=bool) if present is None else present.astype(bool)
        taught, offsets = known[rows], None
        if self.vocabulary is not None:
            taught, offsets = self._unit_labels(rows, known, shown.inputs[CHUNKS].numpy())
        if shown.places is not None:
            taught = self._followed(taught, shown.places)
        return Batch(
            ids=torch.from_numpy(self.ids[rows]),
            rows=torch.from_numpy(rows.copy()),
            view_B=torch.from_numpy(view_B.copy()),
            inputs=shown.inputs,
            labels=torch.from_numpy(taught),
            present_B=torch.from_numpy(present_B),
            mixed=_mixed(shown, known),
            weight_B=None if self.weights is None else torch.from_numpy(self.weights[rows]),
            unit_offsets=None if offsets is None else torch.from_numpy(offsets),
            domain_B=None
            if self.domains is None
            else torch.from_numpy(self.domains.number_N[rows]),
        )

    def _unit_labels(
        self, rows: np.ndarray, known: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self.vocabulary is not None, "only chunks of tokens have many units"
        sizes = np.array(self.vocabulary.tokenizer.sizes, np.int64)
        return unit_labels(tokens, rows, known[rows], sizes)

    def unit_labels(self, rows: np.ndarray, labels: Labels = "budget") -> np.ndarray:
        """The labels of the units of some samples, as a batch of them has them: [N] or [N, ...]."""
        known = self.labels if labels == "budget" else self.all_labels
        if self.vocabulary is None:
            found: np.ndarray = known[rows].copy()
            return found
        return self._unit_labels(rows, known, self.inputs[CHUNKS][rows])[0]

    def per_unit(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What is said of some samples said of each of their units.

        Args:
            rows: int64 [B].
            values: [B, ...], of these rows.
        """
        if self.vocabulary is None:
            return values
        counts = (self.inputs[CHUNKS][rows][:, 1, 1:] > 0).sum(axis=1)
        repeated: np.ndarray = np.repeat(values, counts, axis=0)
        return repeated

    @property
    def is_tokens(self) -> bool:
        """Whether samples are chunks of tokens."""
        return self.vocabulary is not None

    def content_hash(self, rows: np.ndarray) -> np.ndarray:
        """A hash of each sample's raw bytes, names, dtypes and shapes: uint64 [B] (XXH3, 64 bits)."""
        if self.hashes is not None:
            known: np.ndarray = self.hashes[rows]
            return known
        return self._hashed(rows)

    @property
    def content_hashes(self) -> np.ndarray:
        """`content_hash` of all samples, uint64 [N]; computed at each call where they are not known."""
        return self._hashed(np.arange(len(self))) if self.hashes is None else self.hashes

    def hashed(self) -> Samples:
        """The same samples with their content hashes known, to them and to every process that gets them."""
        if self.hashes is not None:
            return self
        return replace(self, hashes=_read_only(self.content_hashes))

    def damaged(self) -> np.ndarray:
        """Rows whose content is not what was decoded, int64; reads all samples where hashes are known."""
        every = np.arange(len(self))
        if self.hashes is None:
            return every[:0]
        return np.flatnonzero(self._hashed(every) != self.hashes[every])

    def _hashed(self, rows: np.ndarray) -> np.ndarray:
        found = [
            content_hashes({name: array[part] for name, array in self.inputs.items()})
            for part in pieces(rows, self._row_bytes)
        ]
        return np.concatenate([np.empty(0, np.uint64), *found])

    def named(self, rows: np.ndarray) -> list[str]:
        """The user's own ids of some rows (int64 [B]), in their order."""
        names: list[str] = self.user_ids.take(pa.array(rows)).cast(pa.string()).to_pylist()
        return names

    def labelled_rows(self, split: str, labels: Labels = "budget") -> np.ndarray:
        """Rows of a split that have a label, within the budget or at all, sorted int64."""
        rows, known = self.splits[split], self.labels if labels == "budget" else self.all_labels
        if split == "train" and labels == "all" and REST in self.splits:
            rows = np.union1d(rows, self.splits[REST])
        labelled: np.ndarray = rows[is_labelled(known[rows])]
        return labelled

    @property
    def own_training_rows(self) -> np.ndarray:
        """Training rows without those of transfer sets, sorted int64; all that is fitted to inputs goes by them."""
        train = self.splits["train"]
        others = [*self.transfer.values(), *self.visited.values()]
        return train[~np.isin(train, np.concatenate(others))] if others else train

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations per channel (axis 1) of the single input, over the own training rows.

        In the scale that batches have, so for uint8 in [0, 1]; a constant channel gets the deviation 1.
        """
        return self._statistics

    @property
    def is_text(self) -> bool:
        """Whether samples are texts."""
        return TEXT in self.inputs

    def training_texts(self) -> Iterator[str]:
        """The texts of the training part, as they are, labelled or not."""
        for rows in pieces(self.own_training_rows, self._row_bytes):
            yield from decode_texts(self.inputs[TEXT][rows])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the single input, e.g. (1, 28, 28)."""
        return tuple(self._only_input.shape[1:])

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Shape of a view of one sample of the single input."""
        return view_shape(self.policy, self.input_shape)

    def affine(self, rows: np.ndarray, view_B: np.ndarray) -> np.ndarray:
        """Where pixels of images go in views (int64 [B], −1 and above), float64 [B, 2, 3]; see `raykd.data.geometry`.

        Raises:
            InputError: a step does not say where.
        """
        return self.places(rows, view_B).maps_B23

    def places(self, rows: np.ndarray, view_B: np.ndarray) -> Places:
        """As `affine`, with what is seen of each image."""
        moved_B = view_B > ORIGINAL_VIEW
        geometry = self.geometry(rows[moved_B], view_B[moved_B])
        return self._views.among(self._views.places(geometry), moved_B)

    def carried(
        self, labels_BL: np.ndarray, rows: np.ndarray, from_B: np.ndarray, to_B: np.ndarray
    ) -> np.ndarray:
        """What is known of places in some views, such as boxes found there, as the same of other views of these samples.

        What the first view did not show stays unknown; what the other hardly shows is left out as of labels.

        Args:
            labels_BL: as the task's labels are, for a detector `raykd.detection.layout`.
            rows: int64 [B].
            from_B: views that they are known in, int64 [B], −1 and above.
            to_B: views that they are wanted in, int64 [B], −1 and above.

        Raises:
            InputError: a step does not say where pixels go.
            ValueError: one of the first views turned its image, so that boxes do not come back as they were.
        """
        there = self.places(rows, to_B)
        maps_B23 = carried(self.affine(rows, from_B), there.maps_B23)
        return self._followed(labels_BL, Places(maps_B23, there.seen_B4))

    @property
    def labels_move(self) -> bool:
        """Whether labels say where things are, and views move these."""
        return self._views.followed

    def _followed(self, labels: np.ndarray, places: Places) -> np.ndarray:
        follow = find_task(self.task).labels.follow
        assert follow is not None, "labels of this task say nothing of places"
        return follow(labels, places, self.visible)

    def geometry(self, rows: np.ndarray, view_B: np.ndarray) -> Geometry:
        """What is drawn for views (int64 [B], 0 and above) of the samples `rows` (int64 [B])."""
        return self._views.geometry(rows, view_B)

    @property
    def is_table(self) -> bool:
        """Whether samples are vectors of floats, in which NaN is a gap."""
        return all(a.ndim == _VECTORS and a.dtype.kind == "f" for a in self.inputs.values())

    @property
    def has_gaps_or_words(self) -> bool:
        """Whether samples are rows of a table that each model has to make numbers of."""
        return self.is_table and bool(self.words or self.gaps.any())

    @property
    def word_columns(self) -> dict[int, tuple[str, ...]]:
        """Of a table the indices of columns of words, and what their codes stand for."""
        return {self.features.index(name): words for name, words in self.words.items()}

    def training_rows(self, most: int) -> np.ndarray:
        """Training samples of the single input, at most so many, evenly spaced over all of them."""
        train = self.own_training_rows
        rows = (
            train
            if len(train) <= most
            else train[np.linspace(0, len(train) - 1, most).astype(np.int64)]
        )
        values: np.ndarray = self._only_input[rows]
        return values

    @cached_property
    def gaps(self) -> np.ndarray:
        """Of a table the rows that have gaps in each column, int64 [D]; reads all samples."""
        array = self._only_input
        found = np.zeros(array.shape[1], np.int64)
        for rows in pieces(np.arange(len(array)), self._row_bytes):
            found += np.isnan(array[rows]).sum(axis=0)
        return found

    @property
    def class_count(self) -> int:
        """Number of outputs that a model needs: one for each class or label, one for a value.

        An embedding has as many as the recipe says; this is then the number of its labels' classes. A language
        model has one for each token, a detector those of `raykd.detection.layout`.
        """
        if self.vocabulary is not None:
            return self.vocabulary.size
        shape = tuple(next(iter(self.inputs.values())).shape[1:])
        return find_task(self.task).labels.width(self.classes, shape, self.bins)

    @property
    def view_key(self) -> str:
        """`policy_key` of these samples' views."""
        digest = self._pools_digest if mixes(self.policy) else None
        visible = self.visible if self.labels_move and self.visible != Views().visible else None
        return policy_key(self.policy, self.seed, pools_digest=digest, visible=visible)

    @cached_property
    def _views(self) -> ViewMaker:
        return ViewMaker(
            self.inputs,
            self.ids,
            seed=self.seed,
            policy=self.policy,
            pools=self.pools,
            followed=find_task(self.task).labels.follow is not None,
        )

    @cached_property
    def _pools_digest(self) -> str:
        digest = xxhash.xxh3_128()
        for rows in self.pools:
            digest.update(np.int64(len(rows)).tobytes())
            digest.update(self.ids[rows].tobytes())
            digest.update(self.content_hash(rows).tobytes())
        return digest.hexdigest()

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        array, rows = self._only_input, self.own_training_rows
        return channel_statistics(array, list(pieces(rows, self._row_bytes)))

    @property
    def _row_bytes(self) -> int:
        return sum(array.nbytes // max(1, len(array)) for array in self.inputs.values())

    @property
    def _only_input(self) -> np.ndarray:
        if len(self.inputs) > 1:
            raise InputError.at(
                "data.source", f"samples have several inputs ({', '.join(self.inputs)}); needs one"
            )
        return next(iter(self.inputs.values()))


def _mixed(shown: Shown, labels: np.ndarray) -> Mixed | None:
    if shown.partner_B is None or shown.share_B is None:
        return None
    return Mixed(
        partner_labels_B=torch.from_numpy(labels[shown.partner_B]),
        share_B=torch.from_numpy(shown.share_B),
    )


def build_samples(
    data: Data,
    *,
    seed: int,
    task: str = "classification",
    decode: Decode = in_process,
    tell: Tell | None = None,
    columns: Sequence[str] = (),
) -> Samples:
    """Load the samples of a recipe, split them, hide labels outside the budget, and set up the views.

    Args:
        data: the recipe's `data`.
        seed: the recipe's seed.
        task: what the labels are for.
        decode: what decodes the parts of files that no run has decoded yet; here and now unless it is given.
        tell: is told of samples decoded, and of all there are.
        columns: that samples are to be sliced by.

    Raises:
        InputError: anything about the source, the splits, the classes, the budget or the views.
        DataError: decoded samples cannot be written or read.
    """
    if isinstance(data.source, FilesSource | ObjectSource):
        check: Callable[[Dataset], object] = partial(
            samples_of, data=data, seed=seed, columns=columns
        )
        if find_task(task).settings.chunks:  # what is not decoded yet has no tokens
            check = partial(make_splits, splits=data.splits, seed=seed)
        prompt = None if data.tokens is None else data.tokens.prompt
        asked = columns if prompt is None else (*columns, prompt)
        dataset = load_decoded(data, task, decode, tell, check, asked)
    else:
        dataset = load_source(data.source, task)
    if find_task(task).labels.same_as == dataset.task:
        dataset = replace(dataset, task=task)
    if isinstance(data.source, TransitionsSource) and not dataset.splits and data.splits.by is None:
        by = SplitBy(column=EPISODE, type="group")
        data = data.model_copy(update={"splits": data.splits.model_copy(update={"by": by})})
    if dataset.task != task:
        raise InputError(
            Problem("task", f"is {task}, but the source {data.source.type!r} has labels for "
                    f"{dataset.task}; set `task: {dataset.task}` or choose another source (a factory "
                    f"says it by Dataset(task={task!r}))")
        )  # fmt: skip
    return samples_of(dataset, data, seed=seed, columns=columns)


def samples_of(dataset: Dataset, data: Data, *, seed: int, columns: Sequence[str] = ()) -> Samples:
    """As `build_samples`, with the samples at hand; `data.source` is not looked at.

    Args:
        dataset: the samples.
        data: splits, classes, label budget and views.
        seed: the recipe's seed.
        columns: that samples are to be sliced by.

    Raises:
        InputError: anything about the splits, the classes, the budget, the views or the columns.
    """
    if lacking := [name for name in columns if name not in dataset.columns]:
        there = ", ".join(dataset.columns) or "none"
        raise InputError(
            Problem("evaluate.slices", f"found column {lacking[0]!r}; the source has {there}: sources of files bring "
                    "columns, and a factory gives Dataset(columns={...})")
        )  # fmt: skip
    given, own = given_names(data.classes), dataset.class_names
    classes = own if given is None else renamed(given, own)
    splits = make_splits(dataset, data.splits, seed=seed)
    train = splits["train"]
    ids, all_labels = dataset.sample_ids, dataset.known_labels
    labels = all_labels
    if data.labels is not None:
        known = np.where(is_labelled(all_labels), dataset.strata, UNLABELLED)
        kept = label_budget(known, train, data.labels, seed=seed, ids=ids)
        labels = dataset.form.hidden(all_labels, kept == UNLABELLED)
    by_id = _by_id(train, ids)
    columns_of = dataset.columns
    dataset, labels, splits, sets = with_transfer(dataset, labels, splits, data, seed=seed)
    if find_task(dataset.task).settings.chunks:
        return Samples(**fields_of_chunks(dataset, data, splits, classes, columns, seed), seed=seed)
    samples = Samples(
        inputs={name: _read_only(array) for name, array in dataset.arrays.items()},
        labels=_read_only(labels),
        all_labels=_read_only(dataset.known_labels),
        ids=_read_only(dataset.sample_ids),
        user_ids=dataset.user_ids,
        splits={name: _read_only(rows) for name, rows in splits.items()},
        classes=classes,
        seed=seed,
        policy=data.views.policy,
        pools=PartnerPools(labelled=_read_only(_labelled(by_id, labels)), every=_read_only(by_id)),
        weights=None if dataset.weights is None else _read_only(dataset.weights),
        task=dataset.task,
        scale=scale_of(labels[train]) if dataset.form.measured else None,
        hashes=None if dataset.hashes is None else _read_only(dataset.hashes),
        left_out=dataset.left_out,
        features=dataset.features,
        columns={name: _read_only(columns_of[name]) for name in columns},
        words=dataset.words,
        unused=dataset.unused,
        transfer={name: _read_only(rows) for name, rows in sets.items()},
        domains=domains_of_column(columns_of.get(SIMULATOR), len(dataset)),
        visible=data.views.visible,
        notes=(
            *dataset.notes,
            *look_alike(classes),
            *coarse_columns(dataset.arrays, dataset.features),
        ),
    )
    try_views(samples)
    return samples


def _by_id(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows in the order of their ids; no copy where they have it."""
    own = ids[rows]
    return rows if (own[1:] > own[:-1]).all() else rows[np.argsort(own)]


def _labelled(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Those of some rows that have a label; no copy where all have one."""
    there = is_labelled(labels[rows])
    return rows if there.all() else rows[there]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
