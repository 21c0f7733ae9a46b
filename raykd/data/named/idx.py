"""MNIST, Fashion-MNIST, and any files of their format IDX, plain or gzipped (LeCun, Cortes & Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raykd.config.sources import FashionMnistSource, IdxSource, MnistSource
from raykd.data.dataset import Dataset
from raykd.data.named import data_folders
from raykd.data.splits import TEST_PER_TRAIN, stratified_choice
from raykd.errors import InputError
from raykd.tasks import find_task

UINT8 = "|u1"
KINDS = {0x08: UINT8, 0x09: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Third byte of a file -> type of its values."""
_MAGIC = 4
_INPUT_KINDS = ("|u1", ">i4", ">f4", ">f8")
_ROOT_KEY = "data.source.root"
_SYSTEM_DATASETS = Path("/usr/share/datasets")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
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
    ),
}
_HINTS = {
    "mnist": "download the four files of MNIST",
    "fashion_mnist": "on Debian `apt-get install dataset-fashion-mnist` brings them",
}


def load_mnist(source: FashionMnistSource | MnistSource, task: str) -> Dataset:  # noqa: ARG001 - one signature
    """Images uint8 [N, 1, 28, 28] of 10 digits, or of 10 kinds of clothes, with the test part of their own."""
    folder = _find_folder(source)
    images, labels, ids = [], [], []
    first_id = 0
    for part, files in _FILES.items():
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
        classes=_CLASSES[source.type],
    )


def _read_part(folder: Path, files: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    image_path, label_path = (_given_file(str(folder / name), _ROOT_KEY) for name in files)
    images = read_idx(image_path, axes=(3,), key=_ROOT_KEY)
    labels = read_idx(label_path, axes=(1,), key=_ROOT_KEY)
    _check_lengths(images, labels, (image_path, label_path), _ROOT_KEY)
    return images, labels


def _check_lengths(
    inputs: np.ndarray, labels: np.ndarray, paths: tuple[Path, Path], key: str
) -> None:
    if len(inputs) != len(labels):
        raise InputError.at(
            key,
            f"{paths[0]} has {len(inputs)} images, {paths[1]} has {len(labels)} labels; fetch them again",
        )


def _idx_path(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _find_folder(source: FashionMnistSource | MnistSource) -> Path:
    if source.root is not None:
        folders = [Path(source.root).expanduser()]
    else:
        system = _SYSTEM_DATASETS / source.type.replace("_", "-")
        folders = [*data_folders(source.type), system]
    names = [file for files in _FILES.values() for file in files]
    for folder in folders:
        if all(_idx_path(folder, file) for file in names):
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError.at(
        _ROOT_KEY,
        f"no folder has all of {', '.join(names)} (each plain or .gz); looked in {looked}; "
        f"{_HINTS[source.type]}, or set {_ROOT_KEY} to their folder",
    )


def load_idx(source: IdxSource, task: str) -> Dataset:
    """The parts that are named, each of inputs and labels.

    Raises:
        InputError: a file is missing or damaged, or the parts do not go together.
    """
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    parts = {name: _read_pair(pair, f"data.source.{name}") for name, pair in given.items() if pair}
    kinds = {
        name: f"{inputs.dtype} {list(inputs.shape[1:])}" for name, (inputs, _) in parts.items()
    }
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise InputError.at("data.source", f"found {found}; all parts need inputs of one kind")
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
    path = _given_file(pair[0], key)
    label_path = None if pair[1] is None else _given_file(pair[1], key)
    inputs = read_idx(path, axes=(2, 3, 4), key=key, kinds=_INPUT_KINDS)
    if inputs.ndim == len(("N", "H", "W")):
        inputs = inputs[:, None]
    if label_path is None:
        return inputs, None
    labels = read_idx(label_path, axes=(1, 2), key=key, kinds=tuple(KINDS.values()))
    _check_lengths(inputs, labels, (path, label_path), key)
    return inputs, labels


def _given_file(name: str, key: str) -> Path:
    path = Path(name).expanduser()
    found = _idx_path(path.parent, path.name)
    if found is None:
        raise InputError.at(key, f"there is no file {path} or {path.name}.gz (in {Path.cwd()})")
    return found


def read_idx(
    path: Path, *, axes: Sequence[int], key: str, kinds: Sequence[str] = (UINT8,)
) -> np.ndarray:
    """Read one array.

    The format is: two zero bytes, the type of the values (8 = uint8), the number of axes, the size of
    each axis as a big-endian 32-bit number, then the values.

    Args:
        path: the file; one that ends in `.gz` is decompressed.
        axes: how many axes the array may have (3 for images, 1 for labels).
        key: dotted key of the recipe that led here, for the error.
        kinds: types that its values may have, of `KINDS`.

    Returns:
        The array, in this machine's byte order.

    Raises:
        InputError: the file is not IDX, of another type or number of axes, damaged, too short or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(_MAGIC)
            kind, count = _kind(magic, axes, kinds, path, key)
            sizes = file.read(4 * count)
            if len(sizes) < 4 * count:
                raise _strange(magic, axes, kinds, path, key)
            values = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, key, f"cannot be read ({error})") from error
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    if len(values) != math.prod(shape) * kind.itemsize:
        promised = f"its header promises {math.prod(shape):,} values"
        raise _damaged(path, key, f"{promised}, it has {len(values) // kind.itemsize:,}")
    return (
        np.frombuffer(values, dtype=kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
    )


def _kind(
    magic: bytes, axes: Sequence[int], kinds: Sequence[str], path: Path, key: str
) -> tuple[np.dtype, int]:
    """The type of a file's values, and the number of its axes."""
    if len(magic) == _MAGIC and magic[:2] == b"\0\0" and magic[3] in axes:
        kind = KINDS.get(magic[2])
        if kind in kinds:
            return np.dtype(kind), magic[3]
    raise _strange(magic, axes, kinds, path, key)


def _strange(
    magic: bytes, axes: Sequence[int], kinds: Sequence[str], path: Path, key: str
) -> InputError:
    found, several = magic.hex() or "an empty file", " or ".join(map(str, axes))
    codes = [f"{code:02x}" for code, kind in KINDS.items() if kind in kinds]
    starts = " or ".join(
        f"0000{code}{axes[0]:02x}" if len(axes) == 1 else f"0000{code}.." for code in codes
    )
    return _damaged(
        path, key, f"it starts with {found}, an IDX file of {several} axes with {starts}"
    )


def _damaged(path: Path, key: str, why: str) -> InputError:
    return InputError.at(key, f"{path} is damaged or no IDX file: {why}; fetch it again")
