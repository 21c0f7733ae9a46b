"""The student on new data: arrays in; classes, labels, values or embeddings out."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from raykd.data.arrays import refuse_bomb
from raykd.data.steps import as_shown
from raykd.data.texts import encode_texts
from raykd.errors import InputError, Problem
from raykd.export.task import Predicted
from raykd.importing import load_callable
from raykd.pipeline.student import describe_student, load_student
from raykd.tasks import known_task
from raykd.types import TEXT

_BATCH = 256
_MOST_BYTE = 255
_ID = "id"
_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, csv.Error, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def read_for(run: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ids, values) of a file as the student of `run` takes them; of texts uint8 [N, L].

    Raises:
        InputError: no student there; the file is missing, of another kind, or damaged.
    """
    if path.suffix not in (".csv", ".txt"):
        return read_samples(path)
    taken = describe_student(run)[1].input
    if taken.dtype == "uint8":
        return read_texts(path, *taken.shape)
    return read_samples(path, taken.columns)


def read_texts(path: Path, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, texts) of a file: a CSV with a column `text`, or with one column beside `id`; or a text in each line.

    Raises:
        InputError: the file is missing, of another kind, damaged, or has no text.
    """
    readers = {".csv": _texts_of_csv, ".txt": _texts_of_lines}
    ids, texts = _read(path, readers)
    if not texts:
        raise InputError.at("DATA", f"{path} holds no text")
    return ids, encode_texts(texts, length)


def read_samples(path: Path, columns: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(ids, values) of a file; values are [N, ...], of a CSV [N, values].

    Args:
        path: `.npz`, `.npy` or `.csv`.
        columns: of a CSV, by name and in this order; none = all but `id`.

    Raises:
        InputError: the file is missing, of another kind, damaged, or holds objects (pickles).
    """
    of_csv = partial(_read_csv, columns=columns)
    ids, values = _read(path, {".npz": _read_npz, ".npy": _read_npy, ".csv": of_csv})
    if values.ndim < 2 or not len(values) or len(ids) != len(values):
        found = f"{list(values.shape)} values and {list(ids.shape)} ids"
        raise InputError.at("DATA", f"{path} holds {found}; needs [N, ...] and [N]")
    return ids, values


def _read(path: Path, readers: Mapping[str, Callable[[Path], tuple[np.ndarray, Any]]]) -> Any:
    if path.suffix not in readers:
        raise InputError.at("DATA", f"found {path}; needs {', '.join(readers)}")
    if not path.is_file():
        raise InputError.at("DATA", f"no file at {path}; check the path")
    try:
        return readers[path.suffix](path)
    except InputError:
        raise
    except _DAMAGED as error:
        what = "texts" if ".txt" in readers else "plain arrays"
        raise InputError.at("DATA", f"{path} cannot be read as {what}: {error}") from error


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            refuse_bomb(packed, path, key="DATA")
    with np.load(path, allow_pickle=False) as archive:
        if "inputs" not in archive:
            raise KeyError(f"no array 'inputs' in {archive.files}")
        values = archive["inputs"]
        return (archive["ids"] if "ids" in archive else np.arange(len(values))), values


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if zipfile.is_zipfile(path):
        raise ValueError("it is an archive of several arrays; call it .npz")
    values = np.load(path, allow_pickle=False)
    return np.arange(len(values)), values


def _read_csv(path: Path, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    ids, names, rows = _cells(path)
    required = columns or tuple(name for name in names if name != _ID)
    if lacking := [name for name in required if name not in names]:
        raise ValueError(
            f"it lacks the columns {', '.join(lacking)}; it has {', '.join(names)}, and the student takes "
            f"{', '.join(required)}"
        )
    indices = [names.index(name) for name in required]
    values = np.array([[float(row[index]) for index in indices] for row in rows], np.float32)
    return ids, values


def _texts_of_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    ids, names, rows = _cells(path)
    others = [name for name in names if name != _ID]
    if TEXT not in names and len(others) != 1:
        raise ValueError(f"it has the columns {', '.join(names)}; call that of the texts {TEXT!r}")
    at = names.index(TEXT if TEXT in names else others[0])
    return ids, [row[at] for row in rows]


def _texts_of_lines(path: Path) -> tuple[np.ndarray, list[str]]:
    with path.open(encoding="utf-8-sig") as file:  # `splitlines` also breaks at U+2028 and others
        texts = [line.rstrip("\n") for line in file]
    return np.arange(len(texts)), texts


def _cells(path: Path) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Ids, names of the columns, and rows of a CSV."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
        reader = csv.reader(file)
        names = next(reader, [])
        rows = [row for row in reader if row]
    uneven = [number for number, row in enumerate(rows, start=1) if len(row) != len(names)]
    if uneven:
        raise ValueError(f"row {uneven[0]} has not {len(names)} columns as its header")
    if _ID not in names:
        return np.arange(len(rows)), names, rows
    return np.array([row[names.index(_ID)] for row in rows]), names, rows


def predict(
    run: Path, samples: tuple[np.ndarray, np.ndarray], factory: str | None
) -> tuple[np.ndarray, Predicted]:
    """The ids again, and what the student of `run` says of the values.

    Args:
        run: a run's folder, or its student's.
        samples: ids and values, in the space of the source that the student was trained on; uint8 is
            taken as 0..255 (as bytes where it takes texts), and so are whole numbers where it was trained
            on such; a flat row is reshaped.
        factory: `module:function` that makes the architecture, where the zoo has it not.

    Raises:
        InputError: no student there, or the values do not fit it.
    """
    ids, values = samples
    _, about = describe_student(run)
    shape = about.input.shape
    if values.shape[1:] != shape and values[0].size != np.prod(shape):
        raise InputError.at(
            "DATA", f"samples are {list(values.shape[1:])}, the student takes {list(shape)}"
        )
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise InputError.at("DATA", f"found {values.dtype} or NaN; needs finite numbers")
    model = load_callable(factory, key="--model")() if factory is not None else None
    student = load_student(run, model=model)
    name = about.input.name
    if about.input.bytes:
        values = _as_bytes(values)
    shown = as_shown({name: values.reshape(len(values), *shape)})[name]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(shown), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(shown[start : start + _BATCH]))
            parts.append(student({name: batch}).float())
    outputs = torch.cat(parts)
    if about.temperature is not None:
        outputs = outputs / about.temperature
    return ids, known_task(about.task, where=str(run)).export.predict(outputs, about.classes)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 0 to 255 as uint8; 0 to 1 as they are.

    Raises:
        InputError: they are neither.
    """
    low, high = values.min(), values.max()
    whole = values.dtype.kind in "ui" or bool((values == np.round(values)).all() and high > 1)
    if low >= 0 and whole and high <= _MOST_BYTE:
        return values.astype(np.uint8)
    if low < 0 or high > 1 or whole:
        raise InputError(
            Problem("DATA", f"found numbers of {low:g} to {high:g}; the student was trained on bytes: give whole "
                    "numbers of 0 to 255, or fractions of 0 to 1")
        )  # fmt: skip
    return values


def write_csv(file: IO[str], ids: np.ndarray, predicted: Predicted) -> None:
    """`id`, `prediction` and, but for values, one probability for each class or label; `id` and the embedding."""
    writer = csv.writer(file, lineterminator="\n")
    if predicted.vector_ND is not None:
        writer.writerow(["id", *(f"e_{name}" for name in predicted.classes)])
        for key, row_D in zip(ids.tolist(), predicted.vector_ND, strict=True):
            writer.writerow([key, *(f"{value:.9g}" for value in row_D)])
        return
    probability_NC = predicted.probability_NC
    if probability_NC is None:
        writer.writerow(["id", "prediction"])
        writer.writerows(zip(ids.tolist(), predicted.words, strict=True))
        return
    writer.writerow(["id", "prediction", *(f"p_{name}" for name in predicted.classes)])
    for key, words, row_C in zip(ids.tolist(), predicted.words, probability_NC, strict=True):
        writer.writerow([key, words, *(f"{p:.6g}" for p in row_C)])


def write_npz(path: Path, ids: np.ndarray, predicted: Predicted) -> None:
    """The arrays of a task.

    `ids`, `classes` [C], and `labels` with `probabilities` float32 [N, C], or `values` float32 [N]; of embeddings
    `ids` and `embeddings` float32 [N, D].
    """
    arrays: dict[str, Any] = {"ids": ids, "classes": np.array(predicted.classes)}
    if predicted.vector_ND is not None:
        arrays = {"ids": ids, "embeddings": predicted.vector_ND}
    elif predicted.probability_NC is None:
        arrays["values"] = predicted.label_N
    else:
        arrays |= {"labels": predicted.label_N, "probabilities": predicted.probability_NC}
    np.savez(path, **arrays)
