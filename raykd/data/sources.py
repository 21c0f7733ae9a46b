"""Where samples come from: one function for each `type` of `data.source`."""

from __future__ import annotations

import difflib
import inspect
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config.data import Data
from raykd.config.sources import (
    ArraysSource,
    DiabetesSource,
    DigitsSource,
    FactorySource,
    FashionMnistSource,
    FilesSource,
    IdxSource,
    MnistSource,
    Source,
)
from raykd.data.archives import refuse_bomb
from raykd.data.dataset import PARTS, Dataset
from raykd.data.decoding import load_decoded
from raykd.data.diamonds import load_diamonds
from raykd.data.idx import KINDS, read_idx
from raykd.data.keel import load_keel, load_optdigits
from raykd.data.local_paths import data_folders
from raykd.data.newsgroups import load_newsgroups
from raykd.data.splits import TEST_PER_TRAIN, stratified_choice
from raykd.errors import InputError, Problem
from raykd.importing import load_callable, load_package
from raykd.tasks import find_task

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGIT_CLASSES = tuple("0123456789")
_DIGIT_MARKS = {
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "at least five": (5, 6, 7, 8, 9),
    "closed loop": (0, 6, 8, 9),
    "straight stroke": (1, 4, 7),
}
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_IDX_INPUTS = ("|u1", ">i4", ">f4", ">f8")
_ROOT_KEY = "data.source.root"
_TYPE_KEY = "data.source.type"
_SYSTEM_DATASETS = Path("/usr/share/datasets")
_NPZ_KEYS = ("inputs", "labels", "ids", "splits", "classes", "weights")


def load_source(source: Source, task: str = "classification") -> Dataset:
    """Load the samples that `data.source` describes.

    Args:
        source: which samples.
        task: what an `arrays` file's labels are for, or `digits` are to have.

    Raises:
        InputError: the files are missing or damaged, or the samples are not what `Dataset` asks for.
    """
    return SOURCES[source.type](source, task)


def _digits(source: DigitsSource, task: str) -> Dataset:  # noqa: ARG001 - one signature for all
    bunch = load_package("sklearn.datasets", install="scikit-learn", key=_TYPE_KEY).load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    if find_task(task).labels.columns:
        marks = np.array([np.isin(bunch.target, digits) for digits in _DIGIT_MARKS.values()]).T
        return Dataset(inputs=images, labels=marks, classes=tuple(_DIGIT_MARKS), task=task)
    return Dataset(inputs=images, labels=bunch.target.astype(np.int64), classes=_DIGIT_CLASSES)


def _diabetes(source: DiabetesSource, task: str) -> Dataset:  # noqa: ARG001
    datasets = load_package("sklearn.datasets", install="scikit-learn", key=_TYPE_KEY)
    bunch = datasets.load_diabetes(scaled=False)
    return Dataset(
        inputs=bunch.data.astype(np.float32),
        labels=bunch.target.astype(np.float32),
        classes=("disease progression",),
        task="regression",
    )


def _fashion_mnist(source: FashionMnistSource, task: str) -> Dataset:  # noqa: ARG001
    hint = "on Debian `apt-get install dataset-fashion-mnist` brings them"
    return _idx_dataset(source, "fashion_mnist", "fashion-mnist", _FASHION_CLASSES, hint)


def _mnist(source: MnistSource, task: str) -> Dataset:  # noqa: ARG001
    return _idx_dataset(
        source, "mnist", "mnist", _DIGIT_CLASSES, "download the four files of MNIST"
    )


def _idx_dataset(
    source: FashionMnistSource | MnistSource,
    name: str,
    system_name: str,
    classes: tuple[str, ...],
    hint: str,
) -> Dataset:
    folder = _find_folder(source.root, name, system_name, hint)
    images, labels, ids = [], [], []
    first_id = 0
    for part, files in _IDX_FILES.items():
        part_images, part_labels = _read_part(folder, files)
        rows = np.arange(len(part_labels))
        if source.limit is not None:
            share = 1.0 if part == "train" else TEST_PER_TRAIN
            rows = stratified_choice(
                part_labels.astype(np.int64), max(1, round(source.limit * share))
            )
        images.append(part_images[rows, None])
        labels.append(part_labels[rows].astype(np.int64))
        ids.append(rows + first_id)
        first_id += len(part_labels)
    count, train = sum(map(len, ids)), len(ids[0])
    return Dataset(
        inputs=np.concatenate(images),
        labels=np.concatenate(labels),
        ids=np.concatenate(ids),
        splits={"test": np.arange(train, count)},
        classes=classes,
    )


def _read_part(folder: Path, files: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    paths = [_idx_path(folder, name) for name in files]
    assert all(paths), "a folder is chosen only when it has all files"
    images, labels = (
        read_idx(path, axes=axes, key=_ROOT_KEY)
        for path, axes in zip(paths, (3, 1), strict=True)
        if path is not None
    )
    _check_lengths(images, labels, (paths[0], paths[1]), _ROOT_KEY)
    return images, labels


def _check_lengths(
    inputs: np.ndarray, labels: np.ndarray, paths: tuple[Path | None, Path | None], key: str
) -> None:
    if len(inputs) != len(labels):
        raise InputError(
            Problem(
                key,
                f"{paths[0]} has {len(inputs)} images, {paths[1]} has {len(labels)} labels; fetch them again",
            )
        )


def _idx_path(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _find_folder(root: str | None, name: str, system_name: str, hint: str) -> Path:
    if root is not None:
        folders = [Path(root).expanduser()]
    else:
        folders = [*data_folders(name), _SYSTEM_DATASETS / system_name]
    names = [file for files in _IDX_FILES.values() for file in files]
    for folder in folders:
        if all(_idx_path(folder, file) for file in names):
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError(
        Problem(
            _ROOT_KEY,
            f"no folder has all of {', '.join(names)} (each plain or .gz); looked in {looked}; "
            f"{hint}, or set {_ROOT_KEY} to their folder",
        )
    )


def _idx(source: IdxSource, task: str) -> Dataset:
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    parts = {name: _read_pair(pair, f"data.source.{name}") for name, pair in given.items() if pair}
    kinds = {
        name: f"{inputs.dtype} {list(inputs.shape[1:])}" for name, (inputs, _) in parts.items()
    }
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise InputError(
            Problem("data.source", f"found {found}; all parts need inputs of one kind")
        )
    width = next((y.shape[1] for _, y in parts.values() if y is not None and y.ndim > 1), 1)
    labels = [
        find_task(task).labels.empty(len(inputs), width) if known is None else known
        for inputs, known in parts.values()
    ]
    ends = np.cumsum([len(inputs) for inputs, _ in parts.values()]).tolist()
    starts = [0, *ends[:-1]]
    rows = {name: np.arange(*some) for name, *some in zip(parts, starts, ends, strict=True)}
    return Dataset(
        inputs=np.concatenate([inputs for inputs, _ in parts.values()]),
        labels=np.concatenate(labels),
        splits={name: found for name, found in rows.items() if name != "train"} or None,
        task=task,
    )


def _read_pair(pair: tuple[str, str | None], key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs [N, D] or [N, C, H, W], and labels where there are some."""
    paths = [None if name is None else _given_file(name, key) for name in pair]
    assert paths[0] is not None, "only labels can be left out"
    inputs = read_idx(paths[0], axes=(2, 3, 4), key=key, kinds=_IDX_INPUTS)
    if inputs.ndim == len(("N", "H", "W")):
        inputs = inputs[:, None]
    if paths[1] is None:
        return inputs, None
    labels = read_idx(paths[1], axes=(1, 2), key=key, kinds=tuple(KINDS.values()))
    _check_lengths(inputs, labels, (paths[0], paths[1]), key)
    return inputs, labels


def _given_file(name: str, key: str) -> Path:
    path = Path(name).expanduser()
    found = _idx_path(path.parent, path.name)
    if found is None:
        raise InputError(
            Problem(key, f"there is no file {path} or {path.name}.gz (in {Path.cwd()})")
        )
    return found


def _arrays(source: ArraysSource, task: str) -> Dataset:
    key = "data.source.path"
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise InputError(Problem(key, f"there is no file {path} (in {Path.cwd()})"))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            refuse_bomb(archive, path, key=key)
    except (OSError, zipfile.BadZipFile) as error:
        raise _not_plain(path, key, error) from error
    _check_names(names, path, key)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_plain(path, key, error) from error
    return Dataset(
        inputs=arrays["inputs"],
        labels=arrays.get("labels"),
        ids=arrays.get("ids"),
        splits=_named_parts(arrays["splits"]) if "splits" in arrays else None,
        classes=tuple(arrays["classes"].tolist()) if "classes" in arrays else None,
        weights=arrays.get("weights"),
        task=task,
    )


def _not_plain(path: Path, key: str, error: Exception) -> InputError:
    why = f"{path} is no .npz of plain arrays ({error}); objects (pickles) are refused"
    return InputError(Problem(key, why))


def _check_names(found: list[str], path: Path, key: str) -> None:
    problems = []
    for name in sorted(set(found) - set(_NPZ_KEYS)):
        near = difflib.get_close_matches(name, _NPZ_KEYS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        problems.append(
            Problem(key, f"{path} has an array {name!r}{meant}; known are {', '.join(_NPZ_KEYS)}")
        )
    if "inputs" not in found:
        problems.append(Problem(key, f"{path} has no array 'inputs'; it has {sorted(found)}"))
    if problems:
        raise InputError(problems)


def _named_parts(names: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each part from one name per sample; an empty name puts a sample into no part."""
    unknown = sorted({str(name) for name in np.unique(names)} - {*PARTS, ""})
    if unknown or names.ndim != 1:
        raise InputError(
            Problem(
                "data.source.splits",
                f"found {unknown[:5]} in an array of shape {list(names.shape)}; needs [N] of "
                f"{', '.join(PARTS)}, or an empty text where a part is to be drawn",
            )
        )
    return {part: np.flatnonzero(names == part) for part in PARTS if (names == part).any()}


def _factory(source: FactorySource, task: str) -> Dataset:  # noqa: ARG001
    make = load_callable(source.path, key="data.source.path")
    try:
        inspect.signature(make).bind(**source.kwargs)
    except TypeError as error:
        raise InputError(
            Problem("data.source.kwargs", f"{source.path} does not take {source.kwargs}: {error}")
        ) from error
    dataset = make(**source.kwargs)
    if not isinstance(dataset, Dataset):
        found = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
        raise InputError(
            Problem(
                "data.source.path", f"{source.path} returned {found}; needs a raykd.data.Dataset"
            )
        )
    return dataset


def _files(source: FilesSource, task: str) -> Dataset:
    return load_decoded(Data(source=source), task)


SOURCES: dict[str, Callable[[Any, str], Dataset]] = {
    "digits": _digits,
    "diabetes": _diabetes,
    "diamonds": load_diamonds,
    "newsgroups": load_newsgroups,
    "keel": load_keel,
    "optdigits": load_optdigits,
    "fashion_mnist": _fashion_mnist,
    "mnist": _mnist,
    "idx": _idx,
    "arrays": _arrays,
    "parquet": _files,
    "csv": _files,
    "images": _files,
    "webdataset": _files,
    "hf": _files,
    "factory": _factory,
}
