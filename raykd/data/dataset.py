"""What a source of samples hands over, checked once so that nothing after it has to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from raykd.data.labels import BOOLEANS, LabelFormat, integral, wrong_shape
from raykd.data.mapped import Mapped
from raykd.errors import InputError, Problem
from raykd.tasks import find_task
from raykd.types import TEXT

PARTS = ("train", "validation", "test")
_VECTORS = len(("N", "D"))
_KINDS = "unsigned 8-bit (0..255), floats, or 32- or 64-bit integers"


@dataclass(frozen=True)
class Dataset:
    """Samples of a source, in the order that numbers their rows.

    What is given is normalised: afterwards `inputs` is a mapping, `labels` have the dtype of the task,
    `ids` are int64, `weights` is float32 and the parts of `splits` are sorted int64 rows. Nothing is
    copied that is right already, and what was given is never changed.

    Attributes:
        inputs: name -> [N, ...]; one array alone becomes `{"inputs": array}`. Images are [N, C, H, W],
            vectors [N, D]. uint8 means 0..255 and is shown to models as float32 in [0, 1]; floats
            are shown as they are; in vectors NaN is a gap, which each model fills. The name `text` is for texts
            alone, as `encode_texts` makes them.
        labels: int64 [N] in [−1, C), −1 where unlabelled; for `regression` float32 [N] in original
            units, NaN where unlabelled; for `multilabel` int64 [N, K] of 0 and 1, rows of −1 where
            unlabelled; for `embedding` as for `classification`. None means no sample has a label.
        ids: [N], non-negative integers, or strings, of which a stable 63-bit hash is taken;
            None means 0 to N − 1.
        splits: "train", "validation", "test" -> rows, where the source brings some of these parts.
        classes: names of the model's outputs: of the classes or labels in order, of the one value of
            a regression; None means the labels themselves, or `value`.
        weights: [N], how much each sample counts; None means equally.
        task: what the labels are for.
        columns: name -> [N], numbers, texts or times that samples can be split by (`data.splits.by`).
        hashes: uint64 [N], `content_hashes` of the inputs, where they are known; else computed.
        left_out: names of samples that the source has and that could not be decoded.
        features: names of the columns of a sample in order, where a table brought them.
        words: of columns of words, by name, the words that their codes 0, 1, ... stand for.
        unused: column of the table that is left out -> why.
        user_ids: pyarrow array of N texts, each sample's id as the source writes it, or of N whole numbers whose
            digits they are; None takes them from `ids`.
        notes: what a reader of a run should know of the source, in plain words.

    Raises:
        InputError: lengths differ, values are not finite, labels are not classes, ids repeat, parts
            overlap, and so on; with every problem found.
    """

    inputs: np.ndarray | Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    ids: np.ndarray | Sequence[str] | None = None
    splits: Mapping[str, np.ndarray] | None = None
    classes: tuple[str, ...] | None = None
    weights: np.ndarray | None = None
    task: str = "classification"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    hashes: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    user_ids: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = self.inputs
        inputs = dict(given) if isinstance(given, Mapping) else {"inputs": given}
        arrays = {name: _plain(array) for name, array in inputs.items()}
        problems = _check_inputs(arrays)
        if problems:
            raise InputError(problems)
        count = len(next(iter(arrays.values())))
        form = find_task(self.task).labels
        named = self.classes
        if named is None and self.labels is not None and form.are_booleans(self.labels):
            named = BOOLEANS
        labels = _labels(self.labels, form, count, problems)
        ids = np.arange(count, dtype=np.int64) if self.ids is None else self.ids
        user_ids = _user_ids(self.user_ids, ids)
        clean = {
            "inputs": arrays,
            "labels": labels,
            "classes": _classes(named, form, labels, problems),
            "ids": _ids(ids, user_ids, count, problems),
            "user_ids": user_ids,
            "splits": _splits(self.splits, count, problems),
            "weights": _weights(self.weights, count, problems),
            "columns": _columns(self.columns, count, problems),
        }
        if problems:
            raise InputError(problems)
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Inputs by name, [N, ...] each."""
        assert isinstance(self.inputs, dict), "inputs are normalised when the dataset is made"
        return self.inputs

    @property
    def sample_ids(self) -> np.ndarray:
        """Stable sample ids, int64 [N]."""
        assert isinstance(self.ids, np.ndarray), "ids are normalised when the dataset is made"
        return self.ids

    @property
    def form(self) -> LabelFormat:
        """How the labels of this task look."""
        return find_task(self.task).labels

    @property
    def known_labels(self) -> np.ndarray:
        """Labels; all unlabelled where the source has none."""
        if self.labels is None:
            return self.form.empty(len(self), len(self.classes or ()))
        return self.labels

    @property
    def strata(self) -> np.ndarray:
        """Groups that every split has in proportion, int64 [N]; −1 where unlabelled."""
        return self.form.strata(self.known_labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs; the labels 0, 1, ... themselves where the source has no names."""
        return self.classes if self.classes is not None else self.form.names(self.known_labels)


def _problem(field: str, message: str) -> Problem:
    return Problem(f"data.source.{field}", message)


def _check_inputs(arrays: Mapping[str, np.ndarray]) -> list[Problem]:
    if not arrays:
        return [_problem("inputs", "found no array; give at least one")]
    problems = []
    for name, array in arrays.items():
        if not name:
            problems.append(_problem("inputs", f"found the name {name!r}; each needs a name"))
        elif name == TEXT and (array.dtype != np.uint8 or array.ndim != len(("N", "L"))):
            found = f"{array.dtype} {list(array.shape)}"
            problems.append(
                _problem(
                    "inputs", f"{name!r} is {found}; make it by raykd.data.encode_texts(texts)"
                )
            )
        elif array.ndim < 2 or 0 in array.shape:
            found = f"{name!r} has shape {list(array.shape)}"
            problems.append(
                _problem(
                    "inputs",
                    f"{found}; vectors are [N, D], images [N, C, H, W], none of them empty",
                )
            )
        elif not _is_known(array.dtype):
            problems.append(_problem("inputs", f"{name!r} has dtype {array.dtype}; use {_KINDS}"))
        elif len(places := _not_finite(array)):
            problems.append(_problem("inputs", f"{name!r} {_unfit_number(array, places)}"))
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        problems.append(
            _problem("inputs", f"found lengths {lengths}; all need the same number of samples")
        )
    return problems


def _plain(given: np.ndarray) -> np.ndarray:
    """An array; one that stays in a file stays there."""
    return given if isinstance(given, Mapped) else np.asarray(given)


def _not_finite(array: np.ndarray) -> np.ndarray:
    """Places, int64 [M, dims], of numbers that are no float32, and of NaN unless samples are vectors.

    In decoded files there are none.
    """
    if array.dtype.kind != "f" or isinstance(array, Mapped):
        return np.empty((0, array.ndim), np.int64)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    return np.argwhere(np.isinf(values) if array.ndim == _VECTORS else ~np.isfinite(values))


def _unfit_number(array: np.ndarray, places: np.ndarray) -> str:
    """What is wrong with the numbers at some places, in words."""
    row, *inner = places[0].tolist()
    kinds = "infinity" if array.ndim == _VECTORS else "NaN, infinity"
    where = f"column {inner[0]}" if array.ndim == _VECTORS else f"at {inner}"
    return (
        f"has {kinds} or a number too large for float32 in {len(np.unique(places[:, 0]))} of {len(array)} samples (the "
        f"first is {array[tuple(places[0])]} in row {row}, {where}, both from 0); remove these samples, or scale the numbers"
    )


def _is_known(dtype: np.dtype) -> bool:
    return dtype == np.uint8 or dtype.kind == "f" or (dtype.kind == "i" and dtype.itemsize >= 4)


def _of_length(field: str, array: np.ndarray, count: int, problems: list[Problem]) -> bool:
    if array.shape == (count,):
        return True
    problems.append(_problem(field, wrong_shape(array, count)))
    return False


def _labels(
    given: np.ndarray | None, form: LabelFormat, count: int, problems: list[Problem]
) -> np.ndarray | None:
    if given is None:
        return None
    array = np.asarray(given)
    numbers = array.astype(np.int64) if form.are_booleans(array) else array
    return _accepted("labels", form.clean(numbers, count), problems)


def _accepted(field: str, found: np.ndarray | str, problems: list[Problem]) -> np.ndarray | None:
    """The array, or None with its problem noted."""
    if isinstance(found, str):
        problems.append(_problem(field, found))
        return None
    return found


def ids_of_texts(texts: Iterable[str]) -> np.ndarray:
    """Sample ids, int64 [N], of samples that a source knows by texts."""
    hashes = (xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) >> 1 for text in texts)
    return np.fromiter(hashes, np.int64)


def _ids(
    given: np.ndarray | Sequence[str], texts: Any, count: int, problems: list[Problem]
) -> np.ndarray | None:
    array = np.asarray(given)
    if not _of_length("ids", array, count, problems):
        return None
    if array.dtype.kind == "U" or (
        array.dtype.kind == "O" and all(isinstance(i, str) for i in array)
    ):
        ids: np.ndarray | None = ids_of_texts(array.tolist())
    else:
        ids = _accepted("ids", integral("ids", array, 0), problems)
    if ids is None:
        return None
    if (ids[1:] > ids[:-1]).all():
        return ids
    unique, first, times = np.unique(ids, return_index=True, return_counts=True)
    if len(unique) < count:
        examples = ", ".join(repr(str(texts[row])) for row in first[times > 1][:3].tolist())
        problems.append(
            _problem(
                "ids",
                f"{count - len(unique)} ids are repeated (e.g. {examples}); each needs its own",
            )
        )
    return ids


def _user_ids(given: Any, ids: np.ndarray | Sequence[str]) -> Any:
    """Ids as texts or whole numbers, a pyarrow array; of `ids` that are none, `_ids` tells."""
    if given is not None:
        return given
    values = np.asarray(ids).reshape(-1)
    if values.dtype.kind == "f" and np.isfinite(values).all():
        values = values.astype(np.int64)
    if values.dtype.kind in "iu":
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
    texts = (str(one).encode(errors="backslashreplace").decode() for one in values.tolist())
    return pa.array(texts, pa.string())


def _splits(
    given: Mapping[str, np.ndarray] | None, count: int, problems: list[Problem]
) -> dict[str, np.ndarray] | None:
    if given is None:
        return None
    unknown = sorted(str(name) for name in given if name not in PARTS)
    if unknown:
        problems.append(_problem("splits", f"found {unknown}; the parts are {', '.join(PARTS)}"))
        return None
    parts = {}
    for name, rows in given.items():
        array = np.asarray(rows)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            found = f"dtype {array.dtype}, shape {list(array.shape)}"
            problems.append(
                _problem(
                    f"splits.{name}",
                    f"found {found}; needs row numbers, at least one (or leave it out)",
                )
            )
        elif array.min() < 0 or array.max() >= count or len(np.unique(array)) < len(array):
            problems.append(
                _problem(
                    f"splits.{name}",
                    f"found rows from {array.min()} to {array.max()}; allowed are 0 to {count - 1}, each once",
                )
            )
        else:
            parts[name] = np.sort(array).astype(np.int64, copy=False)
    for one, other in combinations(parts, 2):
        shared = np.intersect1d(parts[one], parts[other])
        if len(shared):
            problems.append(
                _problem(
                    "splits",
                    f"{one} and {other} share {len(shared)} rows (e.g. {int(shared[0])}); a row is in one part only",
                )
            )
    return parts


def _weights(given: np.ndarray | None, count: int, problems: list[Problem]) -> np.ndarray | None:
    if given is None:
        return None
    array = np.asarray(given)
    if not _of_length("weights", array, count, problems):
        return None
    if (
        array.dtype.kind not in "fiu"
        or not np.isfinite(array).all()
        or array.min() < 0
        or not array.any()
    ):
        problems.append(
            _problem(
                "weights", "found negative, missing or only zero weights; need finite ones >= 0"
            )
        )
        return None
    return array.astype(np.float32)


def _columns(
    given: Mapping[str, np.ndarray], count: int, problems: list[Problem]
) -> dict[str, np.ndarray]:
    columns = {name: np.asarray(column) for name, column in given.items()}
    for name, column in columns.items():
        _of_length(f"columns.{name}", column, count, problems)
    return columns


def _classes(
    given: tuple[str, ...] | None,
    form: LabelFormat,
    labels: np.ndarray | None,
    problems: list[Problem],
) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = tuple(str(name) for name in given)
    if len(set(names)) < len(names) or not names:
        problems.append(_problem("classes", f"found {list(names)}; needs names, each one once"))
    elif labels is not None and (wrong := form.fits(labels, names)):
        problems.append(_problem("labels", wrong))
    return names
